defmodule SnakeBridge.Runtime do
  @moduledoc """
  Sends requests to Python nodes. `SnakeBridge` is the same with the documentation for users.

  A request is a `GenServer.call/3` from the process that asks: there is no process in between, and
  requests of different processes do not wait for each other here. What the caller's exit or timeout
  means to Python is told by its monitor on `{:snakebridge, node}`, which every such call makes.
  """

  alias SnakeBridge.{
    Config,
    ErrorTranslator,
    InvalidRefError,
    Ref,
    SessionContext,
    StreamRef,
    Telemetry
  }

  @type name :: String.t() | atom()
  @type ref :: Ref.t() | StreamRef.t()
  @type option ::
          {:kwargs, map() | keyword()}
          | {:timeout, timeout()}
          | {:session_id, String.t()}
          | {:node, node()}
  @type result :: {:ok, term()} | {:error, Exception.t()}

  defguardp is_name(name) when is_binary(name) or is_atom(name)

  @doc "Calls a function. See `SnakeBridge.call/4`."
  @spec call(name(), name(), [term()], [option()]) :: result()
  def call(module, function, args \\ [], opts \\ [])
      when is_name(module) and is_name(function) and is_list(args) do
    known!(opts, [:kwargs, :timeout, :session_id, :node])

    with {:ok, node} <- target(opts) do
      send_request(node, {:call, module, function, args, kwargs(opts), scope(node, opts)}, opts)
    end
  end

  @doc "Reads an attribute of a module. See `SnakeBridge.get/3`."
  @spec get_module_attr(name(), name(), [option()]) :: result()
  def get_module_attr(module, attribute, opts \\ [])
      when is_name(module) and is_name(attribute) do
    known!(opts, [:timeout, :session_id, :node])

    with {:ok, node} <- target(opts) do
      send_request(node, {:get, module, attribute, scope(node, opts)}, opts)
    end
  end

  @doc "Calls a method of an object. See `SnakeBridge.method/4`."
  @spec call_method(ref(), name(), [term()], [option()]) :: result()
  def call_method(ref, function, args \\ [], opts \\ [])
      when is_name(function) and is_list(args) do
    known!(opts, [:kwargs, :timeout, :session_id])

    with {:ok, node} <- home(ref) do
      request = {:method, ref, function, args, kwargs(opts), scope(node, opts)}
      send_request(node, request, opts)
    end
  end

  @doc "Reads an attribute of an object. See `SnakeBridge.attr/3`."
  @spec get_attr(ref(), name(), [option()]) :: result()
  def get_attr(ref, name, opts \\ []) when is_name(name) do
    known!(opts, [:timeout, :session_id])

    with {:ok, node} <- home(ref) do
      send_request(node, {:getattr, ref, name, scope(node, opts)}, opts)
    end
  end

  @doc "Sets an attribute of an object. See `SnakeBridge.set_attr/4`."
  @spec set_attr(ref(), name(), term(), [option()]) :: :ok | {:error, Exception.t()}
  def set_attr(ref, name, value, opts \\ []) when is_name(name) do
    known!(opts, [:timeout, :session_id])

    with {:ok, node} <- home(ref) do
      send_request(node, {:setattr, ref, name, value, scope(node, opts)}, opts)
    end
  end

  @doc "Fetches up to `count` items of an iterator. See `SnakeBridge.next/3`."
  @spec next(ref(), pos_integer(), [option()]) ::
          {:ok, [term()], :more | :done} | {:error, Exception.t()}
  def next(ref, count, opts \\ []) when is_integer(count) and count > 0 do
    known!(opts, [:timeout, :session_id])

    with {:ok, node} <- home(ref) do
      send_request(node, {:next, ref, count, scope(node, opts)}, opts)
    end
  end

  @doc "Keeps a term in Python as an object. See `SnakeBridge.put/2`."
  @spec put(term(), [option()]) :: {:ok, ref()} | {:error, Exception.t()}
  def put(term, opts \\ []) do
    known!(opts, [:timeout, :session_id, :node])

    with {:ok, node} <- target(opts) do
      send_request(node, {:put, term, scope(node, opts)}, opts)
    end
  end

  @doc "Releases one ref or a list of them. See `SnakeBridge.release_ref/2`."
  @spec release_ref(ref() | [ref()], [option()]) ::
          {:ok, non_neg_integer()} | {:error, Exception.t()}
  def release_ref(ref_or_refs, opts \\ []) do
    known!(opts, [:timeout])

    ref_or_refs
    |> List.wrap()
    |> group_by_home()
    |> Enum.reduce_while({:ok, 0}, fn
      {:error, error}, _count ->
        {:halt, {:error, error}}

      {node, refs}, {:ok, count} ->
        case send_request(node, {:release, refs}, opts) do
          {:ok, released} -> {:cont, {:ok, count + released}}
          {:error, error} -> {:halt, {:error, error}}
        end
    end)
  end

  @doc "Ends a session. See `SnakeBridge.release_session/2`."
  @spec release_session(String.t() | pid(), [option()]) ::
          {:ok, non_neg_integer()} | {:error, Exception.t()}
  def release_session(session_id, opts \\ []) when is_binary(session_id) or is_pid(session_id) do
    request({:release_session, session_id}, opts)
  end

  @doc "Interrupts what runs for a process. See `SnakeBridge.cancel/2`."
  @spec cancel(pid(), [option()]) :: :ok | {:error, Exception.t()}
  def cancel(pid, opts \\ []) when is_pid(pid), do: request({:cancel, pid}, opts)

  @doc """
  Sends a request of the protocol that concerns no ref, and returns the answer as it comes.

  Options are `:node` and `:timeout`.
  """
  @spec request(tuple() | atom(), [option()]) :: term()
  def request(request, opts) do
    known!(opts, [:timeout, :node])
    with {:ok, node} <- target(opts), do: send_request(node, request, opts)
  end

  defp send_request(node, request, opts) do
    timeout = Keyword.get_lazy(opts, :timeout, &Config.timeout/0)

    if Telemetry.enabled?() do
      Telemetry.span(node, request, fn -> server_call(node, request, timeout) end)
    else
      server_call(node, request, timeout)
    end
  end

  defp server_call(node, request, timeout) do
    case GenServer.call({:snakebridge, node}, request, timeout) do
      {:error, error} -> {:error, ErrorTranslator.translate(error)}
      answer -> answer
    end
  catch
    :exit, reason -> {:error, ErrorTranslator.translate(reason)}
  end

  defp known!([], _known), do: :ok

  defp known!(opts, known) do
    case Keyword.keys(opts) -- known do
      [] ->
        :ok

      unknown ->
        raise ArgumentError, "unknown options: #{inspect(unknown)}, there are #{inspect(known)}"
    end
  end

  defp kwargs(opts) do
    case Keyword.get(opts, :kwargs, %{}) do
      kwargs when is_map(kwargs) -> kwargs
      kwargs -> Map.new(kwargs)
    end
  end

  # The node that is asked: what the caller says, else where its session is, else the default one.
  defp target(opts) do
    case opts[:node] || context_node(SessionContext.current()) do
      nil -> Config.default_node()
      node -> {:ok, node}
    end
  end

  defp context_node(nil), do: nil
  defp context_node(context), do: context.node

  # The session that is asked for. A context says nothing to calls to another node than its own.
  defp scope(node, opts) do
    case opts[:session_id] || context_session(SessionContext.current(), node) do
      nil -> %{}
      session_id -> %{session_id: session_id}
    end
  end

  defp context_session(nil, _node), do: nil
  defp context_session(%{node: node, session_id: session_id}, node), do: session_id

  defp context_session(%{node: nil, session_id: session_id}, node) do
    if Config.default_node() == {:ok, node}, do: session_id
  end

  defp context_session(_context, _node), do: nil

  # A ref is asked where it lives.
  defp home(%module{id: id}) when module in [Ref, StreamRef] and is_reference(id) do
    {:ok, node(id)}
  end

  defp home(other) do
    {:error,
     %InvalidRefError{
       reason: :not_a_ref,
       message:
         "#{inspect(other, limit: 5, printable_limit: 50)} is no ref: " <>
           "use the %SnakeBridge.Ref{} that a call returned."
     }}
  end

  # [{node, refs}], or [{:error, error}] if one of them is no ref: then none is released.
  defp group_by_home(refs) do
    homes = Enum.map(refs, &{home(&1), &1})

    case Enum.find(homes, &match?({{:error, _error}, _ref}, &1)) do
      {error, _ref} ->
        [error]

      nil ->
        homes |> Enum.group_by(fn {{:ok, node}, _} -> node end, &elem(&1, 1)) |> Enum.to_list()
    end
  end
end
