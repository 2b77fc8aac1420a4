defmodule SnakeBridge.Runtime do
  @moduledoc """
  Sends requests to Python nodes. `SnakeBridge` is the same with the documentation for users.

  A request is sent as `GenServer.call/3` does it by the process that asks: there is no process in
  between, and requests of different processes do not wait for each other here. The first one to
  a node is such a call. Later ones are the message alone, without the monitor on the Python side:
  callers monitor something in this VM that ends when that is lost. If a caller gives up waiting, it
  tells Python; if it exits, Python sees it where that is of interest (`cancel_on_timeout`).
  """

  alias SnakeBridge.{
    Config,
    ErrorTranslator,
    InvalidRefError,
    Lifeline,
    Options,
    Ref,
    SessionContext,
    StreamRef,
    Telemetry
  }

  @type name :: SnakeBridge.name()
  @type ref :: SnakeBridge.ref()
  @type result :: SnakeBridge.result()

  @doc false
  defguard is_name(name)
           when is_binary(name) or (is_atom(name) and name not in [nil, true, false])

  @doc "Calls a function. See `SnakeBridge.call/4`."
  @spec call(name(), name(), [term()], [SnakeBridge.call_option()]) :: result()
  def call(module, function, args \\ [], opts \\ [])
      when is_name(module) and is_name(function) and is_list(args) do
    Options.check!(opts, [:kwargs, :timeout, :session_id, :node])

    with {:ok, node} <- target(opts) do
      request = {:call, module, function, args, kwargs(opts)}
      send_request(node, scoped(request, node, opts), opts)
    end
  end

  @doc "Reads an attribute of a module. See `SnakeBridge.get/3`."
  @spec get_module_attr(name(), name(), [SnakeBridge.get_option()]) :: result()
  def get_module_attr(module, attribute, opts \\ [])
      when is_name(module) and is_name(attribute) do
    Options.check!(opts, [:timeout, :session_id, :node])

    with {:ok, node} <- target(opts) do
      send_request(node, scoped({:get, module, attribute}, node, opts), opts)
    end
  end

  @doc "Calls a method of an object. See `SnakeBridge.method/4`."
  @spec call_method(ref(), name(), [term()], [SnakeBridge.method_option()]) :: result()
  def call_method(ref, function, args \\ [], opts \\ [])
      when is_name(function) and is_list(args) do
    Options.check!(opts, [:kwargs, :timeout, :session_id])

    ask(ref, {:method, ref, function, args, kwargs(opts)}, opts)
  end

  @doc "Reads an attribute of an object. See `SnakeBridge.attr/3`."
  @spec get_attr(ref(), name(), [SnakeBridge.ref_option()]) :: result()
  def get_attr(ref, name, opts \\ []) when is_name(name) do
    Options.check!(opts, [:timeout, :session_id])

    ask(ref, {:getattr, ref, name}, opts)
  end

  @doc "Sets an attribute of an object. See `SnakeBridge.set_attr/4`."
  @spec set_attr(ref(), name(), term(), [SnakeBridge.ref_option()]) ::
          :ok | {:error, Exception.t()}
  def set_attr(ref, name, value, opts \\ []) when is_name(name) do
    Options.check!(opts, [:timeout, :session_id])

    ask(ref, {:setattr, ref, name, value}, opts)
  end

  @doc "Fetches up to `count` items of an iterator. See `SnakeBridge.next/3`."
  @spec next(ref(), pos_integer(), [SnakeBridge.ref_option()]) ::
          {:ok, [term()], :more | :done} | {:error, Exception.t()}
  def next(ref, count, opts \\ []) when is_integer(count) and count > 0 do
    Options.check!(opts, [:timeout, :session_id])

    ask(ref, {:next, ref, count}, opts)
  end

  @doc "Keeps a term in Python as an object. See `SnakeBridge.put/2`."
  @spec put(term(), [SnakeBridge.get_option()]) :: {:ok, ref()} | {:error, Exception.t()}
  def put(term, opts \\ []) do
    Options.check!(opts, [:timeout, :session_id, :node])

    with {:ok, node} <- target(opts) do
      send_request(node, scoped({:put, term}, node, opts), opts)
    end
  end

  @doc "Releases one ref or a list of them. See `SnakeBridge.release_ref/2`."
  @spec release_ref(ref() | [ref()], [SnakeBridge.timeout_option()]) ::
          {:ok, non_neg_integer()} | {:error, Exception.t()}
  def release_ref(ref_or_refs, opts \\ []) do
    Options.check!(opts, [:timeout])

    refs = if is_list(ref_or_refs), do: ref_or_refs, else: [ref_or_refs]

    refs
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
  @spec release_session(String.t() | pid(), [SnakeBridge.node_option()]) ::
          {:ok, non_neg_integer()} | {:error, Exception.t()}
  def release_session(session_id, opts \\ []) when is_name(session_id) or is_pid(session_id) do
    request({:release_session, session_id}, opts)
  end

  @doc "Interrupts what runs for a process. See `SnakeBridge.cancel/2`."
  @spec cancel(pid(), [SnakeBridge.node_option()]) :: :ok | {:error, Exception.t()}
  def cancel(pid, opts \\ []) when is_pid(pid), do: request({:cancel, pid}, opts)

  @doc """
  Sends a request of the protocol that concerns no ref, and returns the answer as it comes.

  Options are `:node` and `:timeout`.
  """
  @spec request(tuple() | atom(), [SnakeBridge.node_option()]) :: term()
  def request(request, opts) do
    Options.check!(opts, [:timeout, :node])
    with {:ok, node} <- target(opts), do: send_request(node, request, opts)
  end

  # A ref is asked where it lives.
  defp ask(ref, request, opts) do
    with {:ok, node} <- home(ref), do: send_request(node, scoped(request, node, opts), opts)
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
    answer =
      case Lifeline.find(node) do
        nil -> first_call(node, request, timeout)
        lifeline -> call_beside(lifeline, node, request, timeout)
      end

    case answer do
      {:error, error} -> {:error, ErrorTranslator.translate(error)}
      answer -> answer
    end
  end

  defp first_call(node, request, timeout) do
    answer = GenServer.call({:snakebridge, node}, request, timeout)
    Lifeline.start(node)
    answer
  catch
    :exit, reason -> {:error, reason}
  end

  # The tag of a call whose answer goes to an alias is an improper list, as that of gen.erl is.
  @dialyzer {:no_improper_lists, call_beside: 4}

  # Answers are sent to an alias, which ends with the monitor: late ones reach nobody.
  defp call_beside(lifeline, node, request, timeout) do
    monitor = :erlang.monitor(:process, lifeline, alias: :reply_demonitor)
    send_to(node, {:"$gen_call", {self(), [:alias | monitor]}, request})

    receive do
      {[:alias | ^monitor], answer} ->
        answer

      {:DOWN, ^monitor, :process, _lifeline, {:shutdown, {:lost, reason}}} ->
        no_answer(reason, monitor, node, request, timeout)

      # It was gone already.
      {:DOWN, ^monitor, :process, _lifeline, :noproc} ->
        Lifeline.forget(node, lifeline)
        no_answer(:noconnection, monitor, node, request, timeout)

      # It was killed, or the application was stopped.
      {:DOWN, ^monitor, :process, _lifeline, _reason} ->
        Lifeline.forget(node, lifeline)
        no_answer(:lifeline, monitor, node, request, timeout)
    after
      timeout ->
        Process.demonitor(monitor, [:flush])

        receive do
          {[:alias | ^monitor], answer} -> answer
        after
          0 -> no_answer(:timeout, monitor, node, request, timeout)
        end
    end
  end

  # What is lost was lost with a connection, whose end is told.
  defp send_to(node, message) do
    :erlang.send({:snakebridge, node}, message, [:noconnect])
  end

  # As GenServer.call/3 exits. Python is told whatever the reason: the request may have got there, over
  # a later connection than the one that was lost, or the lifeline is all that was lost.
  defp no_answer(reason, monitor, node, request, timeout) do
    send_to(node, {:"$gen_cast", {:given_up, monitor}})
    {:error, {reason, {GenServer, :call, [{:snakebridge, node}, request, timeout]}}}
  end

  defp kwargs(opts) do
    case Keyword.get(opts, :kwargs, %{}) do
      kwargs when is_map(kwargs) -> kwargs
      # The first of several counts.
      kwargs -> kwargs |> Enum.reverse() |> Map.new()
    end
  end

  # The node that is asked: what the caller says, else where its session is, else the default one.
  defp target(opts) do
    case {opts[:node], SessionContext.current()} do
      {nil, %{node: node}} when node != nil -> {:ok, node}
      {nil, _no_context} -> Config.default_node()
      {node, _context} -> {:ok, node}
    end
  end

  # The request, and with it the session that is asked for, if any. One of a context was opened, and is
  # not to be opened again if it has ended; and a context says nothing to calls to another node than
  # its own, if it has one.
  defp scoped(request, node, opts) do
    id = opts[:session_id]

    case SessionContext.current() do
      %{node: home, session_id: own} = context when home in [nil, node] and id in [nil, own] ->
        scope = %{session_id: own, must_exist: true, opened_on: context.opened_on}
        :erlang.append_element(request, scope)

      # A map without anything in it would cost Python 1 us.
      _none_or_elsewhere when id == nil ->
        request

      _another ->
        :erlang.append_element(request, %{session_id: id})
    end
  end

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
