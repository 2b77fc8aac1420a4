defmodule SnakeBridge.SessionManager do
  @moduledoc """
  Opens, shares, looks into and ends sessions.

  There is no process and no table behind this module. The Python node knows its sessions and
  monitors their owners itself, on whatever node they run; each function is one request to it.

      iex> alias SnakeBridge.SessionManager
      iex> SessionManager.register_session("shared", self(), tags: %{"job" => 7})
      :ok
      iex> ref = SnakeBridge.call!("collections", "Counter", ["aab"], session_id: "shared")
      iex> {:ok, session} = SessionManager.session("shared")
      iex> {session.owners == [self()], session.refs, session.tags}
      {true, 1, %{"job" => 7}}
      iex> SessionManager.release_session("shared")
      :ok
      iex> {:error, error} = SnakeBridge.method(ref, "total")
      iex> error.reason
      :session_released

  Functions take `:node` (default: the configured one) and `:timeout`. A session's id means
  something on one Python node only.
  """

  alias SnakeBridge.{Options, Ref, Runtime, SessionMismatchError, SessionNotFoundError, StreamRef}

  import Runtime, only: [is_name: 1]

  @type session_id :: String.t()
  @type ref :: Ref.t() | StreamRef.t()
  @type option :: {:node, node()} | {:timeout, timeout()}
  @type setting ::
          {:max_refs, non_neg_integer()}
          | {:ttl_seconds, number()}
          | {:grace_seconds, number()}
          | {:tags, map()}
          | {:on_full, :evict | :error}
          | {:cancel_on_timeout, boolean()}
          | {:own_thread, boolean()}

  @doc """
  Opens a session that lives as long as `owner_pid` does.

  If there is such a session already, `owner_pid` becomes one more owner: it then lives until the
  last of them has exited, with the settings that it was opened with. An owner that is dead already
  ends the session at once.

  Settings are `:max_refs`, `:ttl_seconds`, `:grace_seconds`, `:tags`, `:on_full`,
  `:cancel_on_timeout` and `:own_thread`, explained in `SnakeBridge.SessionContext`.
  """
  @spec register_session(session_id(), pid(), [option() | setting()]) ::
          :ok | {:error, Exception.t()}
  def register_session(session_id, owner_pid, opts \\ [])
      when is_binary(session_id) and is_pid(owner_pid) do
    Options.check!(opts, [:node, :timeout | Options.settings()], "a session")
    {settings, opts} = Keyword.split(opts, Options.settings())
    # The first of several counts.
    settings = settings |> Enum.reverse() |> Map.new()
    request({:open_session, session_id, owner_pid, settings}, opts)
  end

  @doc """
  Compares the session of `ref` with this one, or keeps any other term in Python as a new object of
  the session.

  Refs are registered by being made, so for a ref there is nothing to do, and Python is not asked:
  `:ok` for one that was made in this session, whether or not its object is still there, and a
  `SnakeBridge.SessionMismatchError` for one of another session.
  """
  @spec register_ref(session_id(), ref() | term(), [option()]) :: :ok | {:error, Exception.t()}
  def register_ref(session_id, ref, opts \\ [])

  def register_ref(session_id, %module{session_id: session_id}, _opts)
      when is_binary(session_id) and module in [Ref, StreamRef],
      do: :ok

  def register_ref(session_id, %module{} = ref, _opts)
      when is_binary(session_id) and module in [Ref, StreamRef] do
    error = %SessionMismatchError{
      expected_session: ref.session_id,
      actual_session: session_id,
      ref_id: ref.id
    }

    {:error, %{error | message: Exception.message(error)}}
  end

  def register_ref(session_id, term, opts) when is_binary(session_id) do
    with {:ok, _ref} <- Runtime.put(term, [session_id: session_id] ++ opts), do: :ok
  end

  @doc """
  Whether there is such a session. Raises if the Python node cannot be asked.
  """
  @spec session_exists?(session_id(), [option()]) :: boolean()
  def session_exists?(session_id, opts \\ []) do
    case session(session_id, opts) do
      {:ok, _session} -> true
      {:error, %SessionNotFoundError{}} -> false
      {:error, error} -> raise error
    end
  end

  @doc """
  Lists the refs of a session; a session that is not there has none.
  Raises if the Python node cannot be asked.
  """
  @spec list_refs(session_id() | pid(), [option()]) :: [ref()]
  def list_refs(session_id, opts \\ []) do
    case refs(session_id, opts) do
      {:ok, refs} -> Enum.map(refs, & &1.ref)
      {:error, %SessionNotFoundError{}} -> []
      {:error, error} -> raise error
    end
  end

  @doc """
  Ends a session and frees all its objects. It is no error if there is none.
  """
  @spec release_session(session_id() | pid(), [option()]) :: :ok | {:error, Exception.t()}
  def release_session(session_id, opts \\ []) do
    with {:ok, _count} <- Runtime.release_session(session_id, opts), do: :ok
  end

  @doc """
  Makes `pid` one more owner of a session that is there, also of another process' implicit one: it
  then lives until the last of them has exited.

      iex> id = SnakeBridge.call!("collections", "Counter").session_id
      iex> SnakeBridge.SessionManager.add_owner(id, Process.whereis(:init))
      :ok
      iex> SnakeBridge.SessionManager.remove_owner(id, Process.whereis(:init))
      :ok
  """
  @spec add_owner(session_id(), pid(), [option()]) :: :ok | {:error, Exception.t()}
  def add_owner(session_id, pid, opts \\ []) when is_binary(session_id) and is_pid(pid) do
    request({:add_owner, session_id, pid}, opts)
  end

  @doc """
  Makes `pid` no owner any more, while it lives on. The session is released if it was the last one.

  It is no error if `pid` does not own such a session.
  """
  @spec remove_owner(session_id(), pid(), [option()]) :: :ok | {:error, Exception.t()}
  def remove_owner(session_id, pid, opts \\ []) when is_binary(session_id) and is_pid(pid) do
    request({:remove_owner, session_id, pid}, opts)
  end

  @doc """
  Makes `to` the owner of the session in the place of this process, as `:ets.give_away/3` does for
  a table. With the option `:from`, in the place of that process.

  If that one is no owner, the error is a `SnakeBridge.InvalidRequestError` with the reason
  `:not_owner`.
  """
  @spec give_away(session_id(), pid(), [option() | {:from, pid()}]) ::
          :ok | {:error, Exception.t()}
  def give_away(session_id, to, opts \\ []) when is_binary(session_id) and is_pid(to) do
    Options.check!(opts, [:from, :node, :timeout])
    {from, opts} = Keyword.pop(opts, :from, self())
    request({:give_session, session_id, from, to}, opts)
  end

  @doc """
  Describes a session, which is named by its id or, for an implicit one, by its owner.

  `{:ok, map}` with `id`, `owners`, `absent` (those of the owners whose node is lost), `refs` (how
  many), `created_at`, `last_used` (Unix seconds), `ttl_seconds`, `grace_seconds`, `max_refs`,
  `on_full`, `tags`, `running` (how many calls run in it) and `calls` (how many have begun in it
  since it was opened).
  """
  @spec session(session_id() | pid(), [option()]) :: {:ok, map()} | {:error, Exception.t()}
  def session(session_id, opts \\ []) when is_name(session_id) or is_pid(session_id) do
    request({:session, session_id}, opts)
  end

  @doc "Describes all sessions: `{:ok, %{id => map}}`, with the map of `session/2`."
  @spec sessions([option()]) :: {:ok, %{session_id() => map()}} | {:error, Exception.t()}
  def sessions(opts \\ []), do: request(:sessions, opts)

  @doc "Describes a session's refs: `{:ok, [%{ref:, type_name:, created_at:, last_used:, bytes:}]}`."
  @spec refs(session_id() | pid(), [option()]) :: {:ok, [map()]} | {:error, Exception.t()}
  def refs(session_id, opts \\ []) when is_name(session_id) or is_pid(session_id) do
    request({:refs, session_id}, opts)
  end

  @doc """
  Describes the Python node: `{:ok, map}` with `node`, `creation`, `uptime` (seconds), `time` (Unix
  seconds), `sessions`, `refs`, `owners`, `running_calls` (how many of each), `calls` (how many have
  begun), `memory` (bytes, or nil), `version` and `python`.
  """
  @spec info([option()]) :: {:ok, map()} | {:error, Exception.t()}
  def info(opts \\ []), do: request(:info, opts)

  defp request(request, opts), do: Runtime.request(request, opts)
end
