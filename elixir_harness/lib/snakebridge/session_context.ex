defmodule SnakeBridge.SessionContext do
  @moduledoc """
  Which session the calls of this process belong to.

  A session is the set of refs that live and die together. Without a context, a process has an
  implicit session of its own, which begins with its first object and ends with the process. That
  is what most code wants. A context is for the rest: a session with limits, one that several
  processes use, or one that is released before its owner exits.

      iex> alias SnakeBridge.SessionContext
      iex> SessionContext.with_session([max_refs: 100], fn ->
      ...>   counter = SnakeBridge.call!("collections", "Counter", ["abracadabra"])
      ...>   SnakeBridge.method!(counter, "most_common", [1])
      ...> end)
      [{"a", 5}]

  ## How long a session lives

  It ends when its last owner has exited (the Python node monitors each) or when it is released, and
  with it every object in it. **The end of a `with_session` block does not end it**: what the block
  made can be used after it. `SnakeBridge.release_session/1` ends it early.

  ## Tasks and other processes

  The context lives in the process dictionary. A process that is started inside the block does not
  have it, unless `wrap/1` gives it along:

      iex> alias SnakeBridge.SessionContext
      iex> SessionContext.with_session([session_id: "readers"], fn ->
      ...>   fn -> SnakeBridge.call!("collections", "Counter") end
      ...>   |> SessionContext.wrap()
      ...>   |> Task.async()
      ...>   |> Task.await()
      ...>   |> Map.fetch!(:session_id)
      ...> end)
      "readers"

  Who uses a session is not one of its owners. What the task makes stays when the task has ended; when
  the owner dies, the session ends, and a call of the task that runs in it is stopped. A process
  becomes an owner with `SnakeBridge.SessionManager.add_owner/3`.

  ## Long-lived processes

  A server opens its session when it starts, and works under it:

      def init(_) do
        case SessionContext.open(max_refs: 100) do
          {:ok, context} -> {:ok, context}
          {:error, error} -> {:stop, error}
        end
      end

      def handle_call({:load, path}, _from, context) do
        {:reply, SessionContext.with_session(context, fn -> load(path) end), context}
      end

  When the Python node is restarted, its sessions and objects are gone. Each call under a context
  from before answers so, with one `SnakeBridge.SessionNotFoundError` whose `reason` is
  `:node_restarted`, as refs from before answer `SnakeBridge.RefNotFoundError`. Nothing is opened again
  behind your back, nothing more is logged, sent or exited; `open/1` begins a new session. (A bare name
  that is given as `session_id:` is opened anew, with the caller as its owner.) A server that uses the
  functions with a `!` crashes once, and its supervisor does that. As long as the node is away, calls
  answer `SnakeBridge.NodeUnavailableError`, at once; while it hangs, each costs its timeout, until the
  connection is given up.

  Who wants to know before the next call monitors the node:
  `Process.monitor({:snakebridge, context.node})`.

  ## Fields

    * `session_id` - a string; made up unless given
    * `owner_pid` - the process that keeps the session alive
    * `created_at` - Unix seconds
    * `max_refs` - how many refs it may hold, default 10,000 (environment: `SNAKEBRIDGE_REF_MAX`)
    * `ttl_seconds` - seconds after which a ref that nobody used expires, default 0, which is never
      (environment: `SNAKEBRIDGE_REF_TTL_SECONDS`)
    * `grace_seconds` - seconds for which an owner counts as alive when the connection to its node is
      lost, default 0, which is not at all (environment: `SNAKEBRIDGE_GRACE_SECONDS`)
    * `tags` - a map of yours, shown by introspection
    * `on_full` - `:evict` (default) lets the least recently used ref go when the session is full;
      `:error` refuses the call with a `SnakeBridge.SessionFullError`
    * `cancel_on_timeout` - whether a call whose caller gave up is interrupted, default false
    * `own_thread` - whether its calls run on a thread of their own, as sqlite3 connections and
      CUDA contexts need it, default false
    * `node` - the Python node; unless given, that of the context around it, or the default one; nil
      if there is none yet, which stands for the one that is called
    * `opened_on` - the `creation` of that node, which tells one start of it from the next; nil until
      the session is opened
  """

  alias SnakeBridge.{Config, Options, SessionManager}

  @context_key :snakebridge_session_context

  defstruct [
    :session_id,
    :owner_pid,
    :created_at,
    :node,
    :opened_on,
    max_refs: 10_000,
    ttl_seconds: 0,
    grace_seconds: 0,
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
          opened_on: non_neg_integer() | nil,
          max_refs: non_neg_integer(),
          ttl_seconds: number(),
          grace_seconds: number(),
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

  @doc """
  Makes a context, and tells no Python node of it: `open/1` does both.

  Its node is the one given, else that of the context of this process, else the default one. Raises
  ArgumentError if an option is wrong.

      iex> context = SnakeBridge.SessionContext.create(ttl_seconds: 60)
      iex> {context.owner_pid == self(), context.max_refs, context.ttl_seconds}
      {true, 10_000, 60}
  """
  @spec create([option()]) :: t()
  def create(opts \\ []) do
    Options.check!(opts, [:session_id, :owner_pid, :node | Options.settings()], "a session")

    context =
      struct!(
        %__MODULE__{
          owner_pid: self(),
          created_at: System.system_time(:second),
          max_refs: Config.max_refs(),
          ttl_seconds: Config.ttl_seconds(),
          grace_seconds: Config.grace_seconds()
        },
        # What is nil is not given, and the first of several counts.
        for({_name, value} = option <- Enum.reverse(opts), value != nil, do: option)
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

  @doc """
  Opens a session on its Python node, and returns its context, for `with_session/2`.

  If the session is there already, `owner_pid` becomes one of its owners, and its settings stay as
  they are.

  Options are the fields of the struct but `created_at` and `opened_on`. Raises ArgumentError if one is
  wrong.
  """
  @spec open([option()]) :: {:ok, t()} | {:error, Exception.t()}
  def open(opts \\ []) do
    context = create(opts)
    settings = context |> Map.take(Options.settings()) |> Map.to_list()
    opts = [node: context.node]

    # Asked first: if the node is restarted in between, the session is on a later start of it, and
    # when it is gone from there, then because of a restart.
    with {:ok, %{creation: creation}} <- SessionManager.info(opts),
         opts = settings ++ opts,
         :ok <- SessionManager.register_session(context.session_id, context.owner_pid, opts) do
      {:ok, %{context | opened_on: creation}}
    end
  end

  @doc "Returns the context of this process, or nil."
  @spec current() :: t() | nil
  def current, do: Process.get(@context_key)

  @doc """
  Makes `context` the context of this process, or leaves it without one if that is nil, and returns
  the one before.

  Its session must be open on its node: a call under one that is not, or not any more, answers
  `SnakeBridge.SessionNotFoundError`.
  """
  @spec put_current(t() | nil) :: t() | nil
  def put_current(nil), do: clear_current()
  def put_current(%__MODULE__{} = context), do: Process.put(@context_key, context)

  @doc "Leaves this process without a context, and returns the one it had."
  @spec clear_current() :: t() | nil
  def clear_current, do: Process.delete(@context_key)

  @doc """
  Runs `fun` in a session, and returns what it returns.

  With options, the session is opened first, as by `open/1`; what that returns as an error is raised.
  With a context, its session is used as it is, and the Python node is not asked.

  Blocks may be nested: the context before comes back at the end, also when `fun` raises, throws or
  exits.

  The session is *not* released at the end of the block, but when its last owner exits, or by
  `SnakeBridge.release_session/1`. What `fun` returns may hold refs.
  """
  @spec with_session([option()] | t(), (() -> result)) :: result when result: term()
  def with_session(opts_or_context \\ [], fun)

  def with_session(%__MODULE__{} = context, fun) when is_function(fun, 0) do
    run(context, fun, [])
  end

  def with_session(opts, fun) when is_list(opts) and is_function(fun, 0) do
    case open(opts) do
      {:ok, context} -> run(context, fun, [])
      {:error, error} -> raise error
    end
  end

  @doc """
  Returns a function that does what `fun` does, under the context that this process has now (or
  without one, if it has none), in whatever process it is called.

  It is for functions that other processes run: tasks, and callbacks that are given to Python.
  `fun` may have up to three arguments. Without a context there is nothing to take along: what a task
  or callback makes ends with its process; use `with_session/2`.

      iex> alias SnakeBridge.SessionContext
      iex> SessionContext.with_session([session_id: "sizes"], fn ->
      ...>   measure = fn text -> {SnakeBridge.current_session(), SnakeBridge.call!("builtins", "len", [text])} end
      ...>   ["a", "bc"] |> Task.async_stream(SessionContext.wrap(measure)) |> Enum.to_list()
      ...> end)
      [ok: {"sizes", 1}, ok: {"sizes", 2}]
  """
  @spec wrap(fun) :: fun when fun: (... -> term())
  def wrap(fun) when is_function(fun), do: wrap(fun, current())

  defp wrap(fun, context) when is_function(fun, 0), do: fn -> run(context, fun, []) end
  defp wrap(fun, context) when is_function(fun, 1), do: fn a -> run(context, fun, [a]) end
  defp wrap(fun, context) when is_function(fun, 2), do: fn a, b -> run(context, fun, [a, b]) end

  defp wrap(fun, context) when is_function(fun, 3),
    do: fn a, b, c -> run(context, fun, [a, b, c]) end

  defp run(context, fun, args) do
    previous = put_current(context)

    try do
      apply(fun, args)
    after
      put_current(previous)
    end
  end

  # Unique among all BEAM nodes that share a Python node: the node's name is part of it.
  defp generate_session_id do
    unique = System.unique_integer([:positive])
    "session_#{node()}_#{unique}_#{System.system_time(:millisecond)}"
  end
end
