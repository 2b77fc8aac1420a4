defmodule SnakeBridge.SessionContext do
  @moduledoc """
  Which session the calls of this process belong to.

  A session is the set of refs that live and die together. Without a context, a process has an
  implicit session of its own, which begins with its first object and ends with the process. That
  is what most code wants. A context is for the rest: a session with limits, one that several
  processes use, or one that is released before its owner exits.

      alias SnakeBridge.SessionContext

      SessionContext.with_session([max_refs: 100], fn ->
        {:ok, counter} = SnakeBridge.call("collections", "Counter", ["abracadabra"])
        SnakeBridge.method(counter, "most_common", [1])
      end)

  ## How long a session lives

  It ends when its owner has exited (the Python node monitors it) or when it is released, and with
  it every object in it. **The end of a `with_session` block does not end it**: what the block made
  can be used after it. `SnakeBridge.release_session/1` ends it early.

  ## Fields

    * `session_id` - a string; made up unless given
    * `owner_pid` - the process that keeps the session alive
    * `created_at` - Unix seconds
    * `max_refs` - how many refs it may hold, default 10,000 (environment: `SNAKEBRIDGE_REF_MAX`)
    * `ttl_seconds` - seconds after which a ref that nobody used expires, default 0, which is never
      (environment: `SNAKEBRIDGE_REF_TTL_SECONDS`)
    * `tags` - a map of yours, shown by introspection
    * `on_full` - `:evict` (default) lets the least recently used ref go when the session is full;
      `:error` refuses the call with a `SnakeBridge.SessionFullError`
    * `cancel_on_timeout` - whether a call whose caller gave up is interrupted, default false
    * `own_thread` - whether its calls run on a thread of their own, as sqlite3 connections and
      CUDA contexts need it, default false
    * `node` - the Python node; unless given, that of the context around it, or the default one

  The context lives in the process dictionary: processes that are started inside the block do not
  have it. Give it to them with `put_current/1`.
  """

  alias SnakeBridge.{Config, Options, SessionManager}

  @context_key :snakebridge_session_context

  defstruct [
    :session_id,
    :owner_pid,
    :created_at,
    :node,
    max_refs: 10_000,
    ttl_seconds: 0,
    tags: %{},
    on_full: :evict,
    cancel_on_timeout: false,
    own_thread: false
  ]

  @type t :: %__MODULE__{
          session_id: String.t(),
          owner_pid: pid(),
          created_at: integer(),
          node: node() | nil,
          max_refs: non_neg_integer(),
          ttl_seconds: non_neg_integer(),
          tags: map(),
          on_full: :evict | :error,
          cancel_on_timeout: boolean(),
          own_thread: boolean()
        }

  @type option ::
          {:session_id, String.t()}
          | {:owner_pid, pid()}
          | {:node, node()}
          | SessionManager.setting()

  @settings [:max_refs, :ttl_seconds, :tags, :on_full, :cancel_on_timeout, :own_thread]
  @options [:session_id, :owner_pid, :node | @settings]

  @doc """
  Makes a context, and tells no Python node of it.

  Its node is the one given, else that of the context of this process, else the default one. To use
  it with `put_current/1`, open its session first with `SnakeBridge.SessionManager.register_session/3`
  on that node, as `with_session/2` does.

  Raises ArgumentError if an option is wrong.

      iex> context = SnakeBridge.SessionContext.create(ttl_seconds: 60)
      iex> {context.owner_pid == self(), context.max_refs, context.ttl_seconds}
      {true, 10_000, 60}
  """
  @spec create([option()]) :: t()
  def create(opts \\ []) do
    Options.check!(opts, @options, "a session")

    context =
      struct!(
        %__MODULE__{
          owner_pid: self(),
          created_at: System.system_time(:second),
          max_refs: Config.max_refs(),
          ttl_seconds: Config.ttl_seconds()
        },
        # The first of several counts.
        Enum.reverse(opts)
      )

    %{
      context
      | session_id: context.session_id || generate_session_id(),
        node: context.node || current_node()
    }
  end

  defp current_node do
    case {current(), Config.default_node()} do
      {%{node: node}, _default} when node != nil -> node
      {_none, {:ok, node}} -> node
      {_none, {:error, _not_configured}} -> nil
    end
  end

  @doc "Returns the context of this process, or nil."
  @spec current() :: t() | nil
  def current, do: Process.get(@context_key)

  @doc """
  Makes `context` the context of this process, and returns the one before.

  Its session must be open on its node: a call under one that is not, or not any more, answers
  `SnakeBridge.SessionNotFoundError`.
  """
  @spec put_current(t()) :: t() | nil
  def put_current(%__MODULE__{} = context), do: Process.put(@context_key, context)

  @doc "Leaves this process without a context, and returns the one it had."
  @spec clear_current() :: t() | nil
  def clear_current, do: Process.delete(@context_key)

  @doc """
  Runs `fun` with a context of its own, and returns what it returns.

  The session is opened on the Python node first. If it exists already, its owner becomes one of
  its owners and its settings stay as they are. Blocks may be nested: the context before comes back
  at the end, also when `fun` raises.

  The session is *not* released at the end of the block, but when its owner exits, or by
  `SnakeBridge.release_session/1`. What `fun` returns may hold refs.

  Options are the fields of the struct but `created_at`. Raises ArgumentError if one is wrong, and
  the exception that says why if the session cannot be opened.
  """
  @spec with_session([option()], (() -> result)) :: result when result: term()
  def with_session(opts \\ [], fun) when is_list(opts) and is_function(fun, 0) do
    context = create(opts)
    open!(context)
    previous = put_current(context)

    try do
      fun.()
    after
      if previous, do: put_current(previous), else: clear_current()
    end
  end

  defp open!(context) do
    settings = context |> Map.take(@settings) |> Map.to_list()
    opts = if context.node, do: [node: context.node], else: []

    case SessionManager.register_session(context.session_id, context.owner_pid, settings ++ opts) do
      :ok -> :ok
      {:error, error} -> raise error
    end
  end

  # Unique among all BEAM nodes that share a Python node: the node's name is part of it.
  defp generate_session_id do
    unique = System.unique_integer([:positive])
    "session_#{node()}_#{unique}_#{System.system_time(:millisecond)}"
  end
end
