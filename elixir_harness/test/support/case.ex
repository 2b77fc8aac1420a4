defmodule SnakeBridge.Case do
  @moduledoc """
  Tests against a running Python node: nothing here waits for time to pass, but for something to
  become true.
  """

  use ExUnit.CaseTemplate

  @patience 10_000
  @interval 2

  using do
    quote do
      import SnakeBridge.Case
    end
  end

  @doc "Returns what `fun` returns as soon as that is neither nil nor false."
  @spec eventually((() -> result)) :: result when result: term()
  def eventually(fun), do: eventually(fun, System.monotonic_time(:millisecond) + @patience)

  defp eventually(fun, deadline) do
    cond do
      result = fun.() ->
        result

      System.monotonic_time(:millisecond) > deadline ->
        flunk("it has not become true within #{@patience} ms")

      true ->
        receive do
        after
          @interval -> eventually(fun, deadline)
        end
    end
  end

  @doc """
  Runs `fun` in a process of its own that lives until it is told to stop or killed.
  Returns its pid and what `fun` returned.
  """
  @spec owner((() -> result)) :: {pid(), result} when result: term()
  def owner(fun) do
    test = self()

    pid =
      spawn(fn ->
        send(test, {self(), fun.()})

        receive do
          :stop -> :ok
        end
      end)

    receive do
      {^pid, result} -> {pid, result}
    after
      @patience -> flunk("the process has not got that far within #{@patience} ms")
    end
  end

  @doc "Kills a process and waits until it is dead."
  @spec kill(pid()) :: :ok
  def kill(pid) do
    monitor = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^pid, _reason}, @patience
    :ok
  end

  @doc "A session id that no other test has."
  @spec unique(String.t()) :: String.t()
  def unique(name), do: "#{name}_#{System.unique_integer([:positive])}"

  @doc "The reason why a ref is not there, or `:there`."
  @spec whereabouts(SnakeBridge.Ref.t()) :: atom()
  def whereabouts(ref) do
    case SnakeBridge.attr(ref, "__class__") do
      {:ok, class} -> SnakeBridge.release_ref(class) && :there
      {:error, %SnakeBridge.RefNotFoundError{reason: reason}} -> reason
    end
  end

  @doc "How many calls of this session's run; 0 if there is no such session."
  @spec running(String.t() | pid()) :: non_neg_integer()
  def running(session) do
    case SnakeBridge.session(session) do
      {:ok, %{running: running}} -> running
      {:error, %SnakeBridge.SessionNotFoundError{}} -> 0
    end
  end
end
