defmodule SnakeBridge.Config do
  @moduledoc false
  # Every default of the library, in one place. The table that users read is in `SnakeBridge`.

  alias SnakeBridge.{NodeUnavailableError, Options, PythonNode}

  @timeout 30_000
  @start_timeout 30_000
  @shutdown 10_000
  @max_refs 10_000
  @ttl_seconds 0
  @grace_seconds 0

  @default_node {__MODULE__, :default_node}

  @doc "Raises ArgumentError, with a sentence, if something is configured that cannot be."
  @spec check!() :: :ok
  def check! do
    for {key, sentence} <- [
          node: "the name of a node, such as :\"py@gpu1\"",
          cookie: "the cookie, an atom"
        ],
        value = Application.get_env(:snakebridge, key),
        not is_atom(value) do
      raise ArgumentError,
            "`config :snakebridge, #{key}: ...` must be #{sentence}, not #{inspect(value, limit: 5)}"
    end

    Options.check!([timeout: timeout()], [:timeout], "`config :snakebridge`")
    PythonNode.check_options!(python() || [])
  end

  @doc "Milliseconds that a call may take."
  @spec timeout() :: timeout()
  def timeout, do: Application.get_env(:snakebridge, :timeout, @timeout)

  @doc "Milliseconds that a Python node with these options may take to get ready."
  @spec start_timeout(keyword()) :: pos_integer()
  def start_timeout(options), do: Keyword.get(options, :start_timeout, @start_timeout)

  @doc "Milliseconds that a Python node with these options is given to end when it has to."
  @spec shutdown(keyword()) :: timeout()
  def shutdown(options) do
    case Keyword.get(options, :shutdown, @shutdown) do
      :brutal_kill -> 0
      timeout -> timeout
    end
  end

  @doc "Refs that a session may hold."
  @spec max_refs() :: non_neg_integer()
  def max_refs, do: from_environment("SNAKEBRIDGE_REF_MAX", @max_refs)

  @doc "Seconds after which an unused ref expires; 0 is never."
  @spec ttl_seconds() :: non_neg_integer()
  def ttl_seconds, do: from_environment("SNAKEBRIDGE_REF_TTL_SECONDS", @ttl_seconds)

  @doc "Seconds for which an owner counts as alive when its node is lost; 0 is not at all."
  @spec grace_seconds() :: non_neg_integer()
  def grace_seconds, do: from_environment("SNAKEBRIDGE_GRACE_SECONDS", @grace_seconds)

  @doc "Options of the Python node that the application starts, or nil if it is to start none."
  @spec python() :: keyword() | nil
  def python do
    case Application.get_env(:snakebridge, :python) do
      off when off in [nil, false] -> nil
      true -> []
      options -> options
    end
  end

  @doc "The node that is asked when a call names none."
  @spec default_node() :: {:ok, node()} | {:error, NodeUnavailableError.t()}
  def default_node do
    case Application.get_env(:snakebridge, :node) || :persistent_term.get(@default_node, nil) do
      nil -> {:error, if(python(), do: not_running(), else: not_configured())}
      node -> {:ok, node}
    end
  end

  @spec put_default_node(node()) :: :ok
  def put_default_node(node), do: :persistent_term.put(@default_node, node)

  @spec delete_default_node() :: boolean()
  def delete_default_node, do: :persistent_term.erase(@default_node)

  defp not_running do
    %NodeUnavailableError{
      reason: :not_running,
      message:
        "The application :snakebridge is not running, so there is no Python node: look in the log " <>
          "for why it did not start or was stopped, or start it with " <>
          "`Application.ensure_all_started(:snakebridge)`."
    }
  end

  defp not_configured do
    %NodeUnavailableError{
      reason: :not_configured,
      message:
        "No Python node is configured: set `config :snakebridge, python: []` to have one started, " <>
          "or `config :snakebridge, node: :\"py@host\"` for one that runs already."
    }
  end

  defp from_environment(name, default) do
    text = String.trim(System.get_env(name, ""))

    case Integer.parse(text) do
      :error when text == "" ->
        default

      {number, ""} when number >= 0 ->
        number

      _other ->
        raise ArgumentError, "#{name} is #{inspect(text)}: set it to a whole number or unset it"
    end
  end
end
