defmodule SnakeBridge.Options do
  @moduledoc false
  # Checks options before anything is done with them. A wrong one is a bug in the program, and so an
  # ArgumentError that names it. As in all keyword lists, the first of several counts.

  @longest_timeout 4_294_967_295
  # Seconds that Python's clocks can add.
  @longest_setting 1_000_000_000

  @settings [
    :max_refs,
    :ttl_seconds,
    :grace_seconds,
    :tags,
    :on_full,
    :cancel_on_timeout,
    :own_thread
  ]

  @doc "The settings that a session is opened with. One that is nil counts as not given."
  @spec settings() :: [atom()]
  def settings, do: @settings

  @doc "Raises ArgumentError unless `options` is a keyword list of `known` ones with fitting values."
  @spec check!(keyword(), [atom()], String.t()) :: :ok
  def check!(options, known, owner \\ "a call")

  def check!([], _known, _owner), do: :ok

  def check!(options, known, owner) do
    if not Keyword.keyword?(options) do
      raise ArgumentError,
            "the options of #{owner} must be a keyword list, not #{inspect(options, limit: 5)}"
    end

    case Enum.uniq(Keyword.keys(options)) -- known do
      [] ->
        Enum.each(options, &check_value!/1)

      unknown ->
        raise ArgumentError,
              "unknown options of #{owner}: #{inspect(unknown)}, there are #{inspect(known)}"
    end
  end

  defp check_value!({name, value}) do
    if problem = problem(name, value) do
      raise ArgumentError, "#{inspect(name)} must be #{problem}, not #{inspect(value, limit: 5)}"
    end
  end

  defp problem(name, nil) when name in @settings, do: nil

  defp problem(:max_refs, value) do
    unless is_integer(value) and value >= 0,
      do: "a number of refs, an integer of 0 (no limit) or more"
  end

  defp problem(name, value) when name in [:ttl_seconds, :grace_seconds] do
    unless is_number(value) and value >= 0 and value <= @longest_setting,
      do: "seconds, a number from 0 to #{@longest_setting}"
  end

  defp problem(:tags, value), do: unless(is_map(value), do: "a map")

  defp problem(:on_full, value) do
    unless value in [:evict, :error], do: ":evict or :error"
  end

  defp problem(name, value) when name in [:cancel_on_timeout, :own_thread, :release] do
    unless is_boolean(value), do: "true or false"
  end

  defp problem(:timeout, value) do
    unless value == :infinity or (is_integer(value) and value in 0..@longest_timeout),
      do: ":infinity or milliseconds, an integer from 0 to #{@longest_timeout}"
  end

  defp problem(:node, value), do: unless(is_atom(value), do: "the name of a node, an atom")

  defp problem(:session_id, value) do
    unless is_binary(value) or is_nil(value), do: "a string"
  end

  defp problem(:kwargs, value) do
    unless is_map(value) or pairs?(value), do: "a map or a keyword list"
  end

  defp problem(name, value) when name in [:owner_pid, :from] do
    unless is_pid(value), do: "a pid"
  end

  defp problem(:max_batch, value), do: positive(value, "a number of items")

  defp problem(name, value) when name in [:base, :executable] do
    unless is_nil(value) or (is_binary(value) and value != ""), do: "a string"
  end

  defp problem(:cd, value) do
    unless is_nil(value) or (is_binary(value) and File.dir?(value)),
      do: "a directory that exists"
  end

  defp problem(:args, value) do
    unless is_list(value) and Enum.all?(value, &is_binary/1), do: "a list of strings"
  end

  defp problem(:env, value) do
    unless pairs?(value) and Enum.all?(value, fn {k, v} -> is_binary(k) and is_binary(v) end),
      do: ~s(a list such as [{"PYTHONPATH", "lib/python"}])
  end

  defp problem(:cookie, value), do: unless(is_atom(value), do: "an atom")
  defp problem(:start_timeout, value), do: positive(value, "milliseconds")

  defp problem(:shutdown, value) do
    unless value in [:infinity, :brutal_kill] or (is_integer(value) and value >= 0),
      do: ":infinity, :brutal_kill or milliseconds, an integer of 0 or more"
  end

  # A process's :name and :id are checked by OTP.
  defp problem(_name, _value), do: nil

  defp positive(value, what) do
    unless is_integer(value) and value > 0, do: "#{what}, an integer of 1 or more"
  end

  defp pairs?(value), do: is_list(value) and Enum.all?(value, &match?({_name, _value}, &1))
end
