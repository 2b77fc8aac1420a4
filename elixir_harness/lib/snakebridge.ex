defmodule SnakeBridge do
  @moduledoc """
  Python as a node of your cluster.

      iex> SnakeBridge.call("math", "sqrt", [16])
      {:ok, 4.0}

      iex> counter = SnakeBridge.call!("collections", "Counter", ["abracadabra"])
      iex> SnakeBridge.method!(counter, "most_common", [1])
      [{"a", 5}]

  Plain values come back as Elixir terms (see `SnakeBridge.Types`). Everything else stays in Python,
  and what comes back is a `SnakeBridge.Ref` to ask further, or a `SnakeBridge.StreamRef` to go
  through with `Enum` and `Stream`.

  ## Who frees the objects

  You need not. Objects belong to the session of the process that made them, and go when it exits,
  however it exits and on whatever node it runs: the Python node monitors it. Long-lived processes
  can let go earlier with `release_ref/2` and `release_auto_session/1`. Limits, sharing and time
  limits are matters of a session: see `SnakeBridge.SessionContext` and `SnakeBridge.SessionManager`.

  ## Results

  Functions return `{:ok, value}` or `{:error, exception}`; those with a `!` return the value or
  raise the exception. Exceptions are

    * `SnakeBridge.PythonError` - Python raised
    * `SnakeBridge.RefNotFoundError`, `SnakeBridge.SessionNotFoundError`,
      `SnakeBridge.SessionMismatchError`, `SnakeBridge.SessionFullError`,
      `SnakeBridge.InvalidRefError` - about refs and sessions
    * `SnakeBridge.NodeUnavailableError`, `SnakeBridge.CallTimeoutError` - no answer
    * `SnakeBridge.NotAllowedError`, `SnakeBridge.InvalidRequestError` - Python refused to try

  An option that does not exist, or has a wrong value, raises ArgumentError: that is a bug in the
  program.

  ## Options

    * `:kwargs` - keyword arguments, a map or a keyword list
    * `:timeout` - milliseconds or `:infinity`; the default is the configuration's
    * `:session_id` - run under this session rather than that of the context or of the process. A
      name that never was one is opened by its first object, with this process as the owner
    * `:node` - the Python node; refs are always asked on their own

  ## Order

  Calls of one session run one at a time, in the order in which each process sent them. Sessions
  run beside each other, so two processes do not wait for each other unless they share a session.

  ## Configuration

      config :snakebridge, python: []

  | key | default | |
  |---|---|---|
  | `:python` | none | `[]`, or options of `SnakeBridge.PythonNode`: start a Python node with the application |
  | `:node` | the one started | the node to ask, such as `:"py@gpu1"`, which is connected on demand |
  | `:timeout` | `30_000` | milliseconds that a call may take |
  | `:cookie` | random | an atom: the cookie, if this VM has to be made distributed |

  | environment variable | default | |
  |---|---|---|
  | `SNAKEBRIDGE_PYTHON` | | the interpreter to start |
  | `SNAKEBRIDGE_REF_TTL_SECONDS` | `0` | seconds after which an unused ref expires; 0 is never |
  | `SNAKEBRIDGE_REF_MAX` | `10000` | refs that one session may hold |
  | `SNAKEBRIDGE_GRACE_SECONDS` | `0` | seconds for which an owner counts as alive when its node is lost |

  With `:python`, a VM that is no node yet is made one, on the loopback interface and with a random
  cookie. To reach a node elsewhere, start the VM with `--sname`, or
  `--name` if the host of that node has a dot, and with the cookie of the cluster.
  """

  alias SnakeBridge.{
    Bytes,
    Ref,
    Runtime,
    SessionContext,
    SessionManager,
    SessionNotFoundError,
    StreamRef
  }

  @typedoc "A name in Python. Modules and functions may be dotted."
  @type name :: String.t() | atom()
  @type ref :: Ref.t() | StreamRef.t()
  @type timeout_option :: {:timeout, timeout()}
  @type node_option :: {:node, node()} | timeout_option()
  @typedoc "Options of what is asked of a ref, which knows its node."
  @type ref_option :: {:session_id, String.t()} | timeout_option()
  @type method_option :: {:kwargs, map() | keyword()} | ref_option()
  @type get_option :: {:node, node()} | ref_option()
  @type call_option :: {:kwargs, map() | keyword()} | get_option()
  @type stream_option :: {:max_batch, pos_integer()} | {:release, boolean()} | ref_option()
  @type result :: {:ok, term()} | {:error, Exception.t()}

  @doc """
  Calls `function` of the Python module `module`, which is imported if need be.

  ## Examples

      iex> SnakeBridge.call("builtins", "sorted", [[3, 1, 2]], kwargs: [reverse: true])
      {:ok, [3, 2, 1]}

      iex> SnakeBridge.call("datetime", "date.fromisoformat", ["2026-11-21"])
      {:ok, ~D[2026-11-21]}

      iex> {:error, error} = SnakeBridge.call("math", "sqrt", [-1])
      iex> error.type
      "ValueError"
  """
  @spec call(name(), name(), [term()], [call_option()]) :: result()
  defdelegate call(module, function, args \\ [], opts \\ []), to: Runtime

  @doc "Like `call/4`, but returns the value or raises."
  @spec call!(name(), name(), [term()], [call_option()]) :: term()
  def call!(module, function, args \\ [], opts \\ []) do
    bang(call(module, function, args, opts))
  end

  @doc """
  Reads an attribute of a module.

      iex> SnakeBridge.get("string", "digits")
      {:ok, "0123456789"}
  """
  @spec get(name(), name(), [get_option()]) :: result()
  defdelegate get(module, attribute, opts \\ []), to: Runtime, as: :get_module_attr

  @doc "Like `get/3`, but returns the value or raises."
  @spec get!(name(), name(), [get_option()]) :: term()
  def get!(module, attribute, opts \\ []), do: bang(get(module, attribute, opts))

  @doc """
  Calls a method of an object.

      iex> {:ok, pattern} = SnakeBridge.call("re", "compile", ["[0-9]+"])
      iex> SnakeBridge.method(pattern, "findall", ["7 of 9"])
      {:ok, ["7", "9"]}
  """
  @spec method(ref(), name(), [term()], [method_option()]) :: result()
  defdelegate method(ref, name, args \\ [], opts \\ []), to: Runtime, as: :call_method

  @doc "Like `method/4`, but returns the value or raises."
  @spec method!(ref(), name(), [term()], [method_option()]) :: term()
  def method!(ref, name, args \\ [], opts \\ []), do: bang(method(ref, name, args, opts))

  @doc """
  Reads an attribute of an object.

      iex> {:ok, pattern} = SnakeBridge.call("re", "compile", ["(a)(b)"])
      iex> SnakeBridge.attr(pattern, "groups")
      {:ok, 2}
  """
  @spec attr(ref(), name(), [ref_option()]) :: result()
  defdelegate attr(ref, name, opts \\ []), to: Runtime, as: :get_attr

  @doc "Like `attr/3`, but returns the value or raises."
  @spec attr!(ref(), name(), [ref_option()]) :: term()
  def attr!(ref, name, opts \\ []), do: bang(attr(ref, name, opts))

  @doc """
  Sets an attribute of an object.

      iex> {:ok, space} = SnakeBridge.call("types", "SimpleNamespace")
      iex> SnakeBridge.set_attr(space, "answer", 42)
      :ok
      iex> SnakeBridge.attr(space, "answer")
      {:ok, 42}
  """
  @spec set_attr(ref(), name(), term(), [ref_option()]) :: :ok | {:error, Exception.t()}
  defdelegate set_attr(ref, name, value, opts \\ []), to: Runtime

  @doc "Like `set_attr/4`, but raises if it fails."
  @spec set_attr!(ref(), name(), term(), [ref_option()]) :: :ok
  def set_attr!(ref, name, value, opts \\ []), do: bang(set_attr(ref, name, value, opts))

  @doc """
  Keeps a term in Python as an object, for calls that are to share it or change it.

      iex> {:ok, list} = SnakeBridge.put([3, 1])
      iex> SnakeBridge.method!(list, "append", [2])
      nil
      iex> SnakeBridge.call("builtins", "sorted", [list])
      {:ok, [1, 2, 3]}
  """
  @spec put(term(), [get_option()]) :: {:ok, ref()} | {:error, Exception.t()}
  defdelegate put(term, opts \\ []), to: Runtime

  @doc "Like `put/2`, but returns the ref or raises."
  @spec put!(term(), [get_option()]) :: ref()
  def put!(term, opts \\ []), do: bang(put(term, opts))

  @doc """
  Fetches up to `count` items of an iterator, exactly as many as there are.

      iex> {:ok, numbers} = SnakeBridge.call("itertools", "count", [1])
      iex> SnakeBridge.next(numbers, 3)
      {:ok, [1, 2, 3], :more}
  """
  @spec next(ref(), pos_integer(), [ref_option()]) ::
          {:ok, [term()], :more | :done} | {:error, Exception.t()}
  defdelegate next(ref, count, opts \\ []), to: Runtime

  @doc """
  Returns a lazy stream of the items of an iterator, or of anything else that Python can iterate.

  The iterator is released when the stream ends, however it ends, unless nothing was got from it. An
  exception of Python's, or one that says that the object is gone, is raised in the process that runs
  the stream.

  Options are those of `next/3` and

    * `:max_batch` - most items to fetch at once, default 1,000. Fetching begins with one, and goes
      up while items come quickly, so that slow items (tokens of a language model, lines of
      a growing file) arrive one by one; with `max_batch: 1` nothing is ever fetched ahead
    * `:release` - `false` keeps the iterator when the stream ends, default `true`; one that the
      stream has made, for an object that is no iterator itself, is always released

  ## Examples

      iex> {:ok, numbers} = SnakeBridge.call("itertools", "count", [1])
      iex> numbers |> SnakeBridge.stream() |> Stream.map(& &1 * &1) |> Enum.take(3)
      [1, 4, 9]

      iex> {:ok, list} = SnakeBridge.put(["a", "b"])
      iex> list |> SnakeBridge.stream() |> Enum.to_list()
      ["a", "b"]
  """
  @spec stream(ref(), [stream_option()]) :: Enumerable.t()
  defdelegate stream(ref, opts \\ []), to: SnakeBridge.Streams

  @doc """
  Whether `term` stands for a Python object.

      iex> {:ok, object} = SnakeBridge.call("builtins", "object")
      iex> {SnakeBridge.ref?(object), SnakeBridge.ref?("object")}
      {true, false}
  """
  @spec ref?(term()) :: boolean()
  def ref?(%module{}), do: module in [Ref, StreamRef]
  def ref?(_term), do: false

  @doc """
  Marks a binary to be `bytes` in Python. Without it, a binary that is valid UTF-8 is a `str`.

      iex> SnakeBridge.call("builtins", "repr", [SnakeBridge.bytes("abc")])
      {:ok, "b'abc'"}
  """
  @spec bytes(binary()) :: Bytes.t()
  def bytes(binary) when is_binary(binary), do: %Bytes{data: binary}

  @doc """
  Lets go of one object, or of a list of them, and returns how many were still there.

  Releasing twice is no error. Option: `:timeout`.

      iex> {:ok, object} = SnakeBridge.call("builtins", "object")
      iex> {SnakeBridge.release_ref(object), SnakeBridge.release_ref(object)}
      {{:ok, 1}, {:ok, 0}}
  """
  @spec release_ref(ref() | [ref()], [timeout_option()]) ::
          {:ok, non_neg_integer()} | {:error, Exception.t()}
  defdelegate release_ref(ref_or_refs, opts \\ []), to: Runtime

  @doc """
  Ends a session, whoever owns it, and returns how many objects it held. A call that runs in it is
  interrupted. It is no error if there is no such session. Options: `:node` and `:timeout`.
  """
  @spec release_session(String.t() | pid(), [node_option()]) ::
          {:ok, non_neg_integer()} | {:error, Exception.t()}
  defdelegate release_session(session_id, opts \\ []), to: Runtime

  @doc """
  Ends the implicit session of this process, and returns how many objects it held. The next object
  begins a new one. Options: `:node` and `:timeout`.
  """
  @spec release_auto_session([node_option()]) ::
          {:ok, non_neg_integer()} | {:error, Exception.t()}
  def release_auto_session(opts \\ []), do: Runtime.release_session(self(), opts)

  @doc """
  Returns the id of the session that an object made now would belong to.

  That is the session of the context, or else the implicit session of this process on the default
  node, or nil if that has no object yet. Raises if the Python node cannot be asked.

      iex> SnakeBridge.SessionContext.with_session([session_id: "mine"], &SnakeBridge.current_session/0)
      "mine"
  """
  @spec current_session() :: String.t() | nil
  def current_session do
    case SessionContext.current() do
      nil -> auto_session()
      context -> context.session_id
    end
  end

  @doc """
  Interrupts what runs or waits for the process `pid` in Python. Options: `:node` and `:timeout`.
  """
  @spec cancel(pid(), [node_option()]) :: :ok | {:error, Exception.t()}
  defdelegate cancel(pid, opts \\ []), to: Runtime

  @doc """
  Describes the Python node. See `SnakeBridge.SessionManager.info/1`.

      iex> {:ok, info} = SnakeBridge.info()
      iex> is_integer(info.sessions) and is_integer(info.refs)
      true
  """
  @spec info([node_option()]) :: {:ok, map()} | {:error, Exception.t()}
  defdelegate info(opts \\ []), to: SessionManager

  @doc "Describes all sessions of the Python node. See `SnakeBridge.SessionManager.sessions/1`."
  @spec sessions([node_option()]) :: {:ok, %{String.t() => map()}} | {:error, Exception.t()}
  defdelegate sessions(opts \\ []), to: SessionManager

  @doc "Describes one session. See `SnakeBridge.SessionManager.session/2`."
  @spec session(String.t() | pid(), [node_option()]) :: {:ok, map()} | {:error, Exception.t()}
  defdelegate session(session_id, opts \\ []), to: SessionManager

  @doc "Describes the refs of one session. See `SnakeBridge.SessionManager.refs/2`."
  @spec refs(String.t() | pid(), [node_option()]) :: {:ok, [map()]} | {:error, Exception.t()}
  defdelegate refs(session_id, opts \\ []), to: SessionManager

  defp auto_session do
    case session(self()) do
      {:ok, session} -> session.id
      {:error, %SessionNotFoundError{}} -> nil
      {:error, error} -> raise error
    end
  end

  defp bang(:ok), do: :ok
  defp bang({:ok, value}), do: value
  defp bang({:error, exception}), do: raise(exception)
end
