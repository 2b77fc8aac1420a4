defmodule SnakeBridge.PythonNode do
  @moduledoc """
  Runs one Python node as a supervised child.

  The application starts one when it is configured to (`config :snakebridge, python: [...]`). More
  can be put under any supervisor:

      children = [
        {SnakeBridge.PythonNode, id: :ml, base: "ml", executable: "/opt/ml/bin/python"}
      ]

  and are then asked with `SnakeBridge.call("torch", "rand", [3], node: SnakeBridge.PythonNode.node(pid))`.

  `start_link/1` returns when the node is ready and connected. If it cannot be started, the reason
  is `{:shutdown, %SnakeBridge.NodeUnavailableError{}}`, whose message is one sentence that is also
  in the log. If a process of that name still runs, as it may when this VM was restarted, it is
  waited for.

  When Python exits, or cannot be reached any more, this process stays, and starts it anew under the
  same name: at once, and if that fails again and again at growing intervals, up to 10 seconds. So a
  crash of Python is no crash on this side, however often it comes; until Python is back, calls
  answer `SnakeBridge.NodeUnavailableError`. The log has one line when it goes and one when it is back.
  If this process itself is killed, starting it again is its supervisor's matter.

  When this process is stopped, Python gets a SIGTERM, finishes its running calls, and is killed if
  it takes longer than `:shutdown`. Processes that Python has started, and that are still in its
  process group, are killed when it has gone. When this VM dies, Python sees its standard input
  closed, and exits.

  Python listens on the address that the host in its name has. In a VM that this library made a node,
  as in one that was started with `--name app@127.0.0.1`, that is the loopback interface.

  What Python writes to its standard output and error goes to `Logger`, line by line.

  ## Options

    * `:node` - the node's name; without it `:base` and the host of this node make the name
    * `:base` - the part before the `@`; default is this node's own with `_py` added
    * `:executable` - the interpreter; default is the environment variable `SNAKEBRIDGE_PYTHON`,
      then `.venv/bin/python` in the current directory or above it, then `python3` on the `PATH`
    * `:args` - more arguments for `pynode serve`, such as `["--allow", "math"]`
    * `:env` - more environment variables, `[{"PYTHONPATH", "lib/python"}]`
    * `:cd` - Python's working directory, which must exist
    * `:cookie` - the node's cookie, an atom, default this node's; it travels in the environment,
      never on the command line
    * `:start_timeout` - milliseconds until it must be ready, default 30,000
    * `:shutdown` - milliseconds that it is given to exit when stopped, default 10,000, of which its
      running calls may have all but the last 5,000 (and at least 5,000); `:infinity`, or
      `:brutal_kill` to kill it at once. One that cannot be reached is given 5,000 at most
    * `:name` - a name to register this process under
    * `:id` - the child's id, default `SnakeBridge.PythonNode`
  """

  use GenServer

  require Logger

  alias SnakeBridge.{
    Config,
    Distribution,
    ErrorTranslator,
    Interpreter,
    Options,
    OsProcess,
    PythonLog,
    ServeCommand,
    StartFailure
  }

  @options [
    :node,
    :base,
    :executable,
    :args,
    :env,
    :cd,
    :cookie,
    :start_timeout,
    :shutdown,
    :name,
    :id
  ]

  @poll 20
  # How often we look whether a Python that starts is alive: its port may not tell.
  @check_interval 100
  # How long a lost connection may take to come back, and how often we try.
  @reconnect_timeout 1_000
  @reconnect_interval 50
  # How long a Python that cannot be reached is given to exit, if :shutdown is not shorter.
  @unreachable_shutdown 5_000
  # Milliseconds before the next start, by the number of failures in a row.
  @backoff [0, 100, 500, 2_000, 5_000, 10_000]
  # A Python that has lived this long did not fail to start.
  @settled 10_000
  # How long the last words of a dead process may take to arrive.
  @last_words 1_000
  # How many lines are remembered, to say why a start failed.
  @remembered 50

  # `phase` is :starting, :up or :down; `port` and `process` are nil when it is :down.
  defstruct [
    :options,
    :python,
    :node,
    :port,
    :process,
    :deadline,
    :up_since,
    phase: :down,
    failures: 0,
    lines: [],
    log: %PythonLog{}
  ]

  @type option ::
          {:node, node()}
          | {:base, String.t()}
          | {:executable, Path.t()}
          | {:args, [String.t()]}
          | {:env, [{String.t(), String.t()}]}
          | {:cd, Path.t()}
          | {:cookie, atom()}
          | {:start_timeout, pos_integer()}
          | {:shutdown, timeout() | :brutal_kill}
          | {:name, GenServer.name()}
          | {:id, term()}

  @doc "The child specification for these options."
  @spec child_spec([option()]) :: Supervisor.child_spec()
  def child_spec(options) do
    # Time to ask, then time to kill.
    shutdown =
      case Config.shutdown(options) do
        :infinity -> :infinity
        milliseconds -> milliseconds + 5_000
      end

    %{
      id: Keyword.get(options, :id, __MODULE__),
      start: {__MODULE__, :start_link, [options]},
      shutdown: shutdown
    }
  end

  @doc "Starts a Python node and connects to it. Raises ArgumentError if an option is wrong."
  @spec start_link([option()]) :: GenServer.on_start()
  def start_link(options \\ []) do
    check_options!(options)
    GenServer.start_link(__MODULE__, options, Keyword.take(options, [:name]))
  end

  @doc false
  @spec check_options!(term()) :: :ok
  def check_options!(options) do
    Options.check!(options, @options, "a Python node")

    if (node = options[:node]) && not (Atom.to_string(node) =~ ~r/.@./) do
      raise ArgumentError, ":node must have a host, as in :\"py@127.0.0.1\", not #{inspect(node)}"
    end

    :ok
  end

  @doc "The name of the Python node."
  @spec node(GenServer.server()) :: node()
  def node(server \\ __MODULE__) do
    # It may be busy, or a process of another VM.
    with nil <- :persistent_term.get({__MODULE__, GenServer.whereis(server)}, nil),
         do: GenServer.call(server, :node)
  end

  @doc "The process id that the operating system gave to Python, or nil while there is none."
  @spec os_pid(GenServer.server()) :: pos_integer() | nil
  def os_pid(server \\ __MODULE__), do: GenServer.call(server, :os_pid)

  @doc false
  @spec default_base() :: String.t()
  def default_base, do: "#{Distribution.base_name()}_py"

  ## The first start, which start_link/1 waits for

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)

    case first_start(options) do
      {:ok, state} ->
        Logger.info("Python node #{state.node} is ready (os pid #{state.process.pid}).")
        :persistent_term.put({__MODULE__, self()}, state.node)
        {:ok, state}

      {:error, error} ->
        Logger.error(Exception.message(error))
        {:stop, {:shutdown, error}}
    end
  end

  defp first_start(options) do
    with {:ok, python} <- Interpreter.find(options[:executable]),
         :ok <- Distribution.ensure_started(),
         node = options[:node] || Distribution.node_name(options[:base] || default_base()),
         :ok <- await_free(node, Config.start_timeout(options)),
         {:ok, state} <- launch(%__MODULE__{options: options, python: python, node: node}) do
      await_up(state)
    end
  end

  defp await_up(%{phase: :up} = state), do: {:ok, state}

  defp await_up(%{port: port} = state) do
    result =
      receive do
        {^port, _output} = message -> starting(message, state)
        :check -> starting(:check, state)
      end

    case result do
      {:ok, state} ->
        await_up(state)

      {:error, error, state} ->
        {_status, _down} = finish(state)
        {:error, error}
    end
  end

  # The name may still be that of a predecessor: of this process, if that was killed, and then we end
  # its Python; or of this VM, and then Python ends by itself.
  defp await_free(node, timeout) do
    end_predecessor(:persistent_term.get({__MODULE__, node}, nil))

    if Distribution.registered?(node) do
      Logger.warning(
        "The node name #{node} is in use: waiting up to #{timeout} ms for it to become free."
      )
    end

    poll_free(node, deadline(timeout))
  end

  defp end_predecessor(nil), do: :ok

  defp end_predecessor({owner, process}) do
    if Process.alive?(owner), do: :ok, else: OsProcess.kill_group(process)
  end

  defp poll_free(node, deadline) do
    cond do
      not Distribution.registered?(node) ->
        :ok

      remaining(deadline) == 0 ->
        {:error, StartFailure.name_taken(node)}

      true ->
        Process.sleep(@poll)
        poll_free(node, deadline)
    end
  end

  ## Starting: from `launch` until Python is ready and connected

  defp launch(state) do
    port =
      Port.open(
        {:spawn_executable, state.python},
        ServeCommand.port_options(state.node, state.options)
      )

    case Port.info(port, :os_pid) do
      {:os_pid, os_pid} ->
        process = OsProcess.new(os_pid)
        :persistent_term.put({__MODULE__, state.node}, {self(), process})
        Process.send_after(self(), :check, @check_interval)
        deadline = deadline(Config.start_timeout(state.options))

        {:ok,
         %{state | phase: :starting, port: port, process: process, deadline: deadline, lines: []}}

      nil ->
        {:error, StartFailure.failed(state.node, "it exited at once.")}
    end
  rescue
    error in ErlangError ->
      {:error, StartFailure.failed(state.node, "#{Exception.message(error)}.")}
  end

  # One message of a Python that starts.
  defp starting({port, {:data, {_eol, line}}}, %{port: port} = state) do
    ready = "ready #{state.node}"

    cond do
      # Something without a newline may have been written before it.
      String.ends_with?(line, ready) ->
        connect(said(state, String.replace_suffix(line, ready, "")))

      remaining(state.deadline) == 0 ->
        {:error, StartFailure.timeout(state.node), state}

      true ->
        {:ok, said(state, line)}
    end
  end

  defp starting({port, {:exit_status, status}}, %{port: port} = state) do
    {_known, state} = finish(state)
    {:error, StartFailure.exited(state.node, state.python, status, state.lines), state}
  end

  defp starting(:check, state) do
    cond do
      not OsProcess.alive?(state.process) ->
        {status, state} = finish(state)
        {:error, StartFailure.exited(state.node, state.python, status, state.lines), state}

      remaining(state.deadline) == 0 ->
        {:error, StartFailure.timeout(state.node), state}

      true ->
        Process.send_after(self(), :check, @check_interval)
        {:ok, state}
    end
  end

  defp starting(_message, state), do: {:ok, state}

  defp connect(%{node: node} = state) do
    if Node.connect(node) == true and Node.monitor(node, true) do
      {:ok, %{state | phase: :up, up_since: now()}}
    else
      {:error, StartFailure.not_connected(state.node, state.process.pid), state}
    end
  end

  ## Running

  @impl true
  def handle_call(:node, _from, state), do: {:reply, state.node, state}
  def handle_call(:os_pid, _from, %{process: nil} = state), do: {:reply, nil, state}
  def handle_call(:os_pid, _from, state), do: {:reply, state.process.pid, state}

  @impl true
  def handle_info(:launch, %{phase: :down} = state) do
    case launch(state) do
      {:ok, state} -> {:noreply, state}
      {:error, error} -> {:noreply, start_again(state, Exception.message(error))}
    end
  end

  def handle_info(message, %{phase: :starting} = state) do
    case starting(message, state) do
      {:ok, %{phase: :up} = state} ->
        Logger.warning("Python node #{state.node} is back (os pid #{state.process.pid}).")
        {:noreply, state}

      {:ok, state} ->
        {:noreply, state}

      {:error, error, state} ->
        {_status, state} = finish(state)
        {:noreply, start_again(state, Exception.message(error))}
    end
  end

  def handle_info({port, {:data, {_eol, line}}}, %{port: port} = state) do
    {:noreply, said(state, line)}
  end

  def handle_info({port, {:exit_status, status}}, %{port: port} = state) do
    {_known, state} = finish(state)
    {:noreply, crashed(state, status)}
  end

  def handle_info({:nodedown, node}, %{node: node, phase: :up} = state) do
    reconnect(state, deadline(@reconnect_timeout))
  end

  def handle_info({:reconnect, process, deadline}, %{process: process, phase: :up} = state) do
    reconnect(state, deadline)
  end

  def handle_info(_message, state), do: {:noreply, state}

  # Mostly the connection is gone because Python is. Its exit status does not tell as long as
  # a child of Python's holds its standard output.
  defp reconnect(state, deadline) do
    cond do
      not OsProcess.alive?(state.process) ->
        {status, state} = finish(state)
        {:noreply, crashed(state, status)}

      Node.connect(state.node) == true ->
        Node.monitor(state.node, true)

        Logger.warning(
          "The connection to #{state.node} was lost and is back; " <>
            "sessions of this VM without grace_seconds have ended."
        )

        {:noreply, state}

      remaining(deadline) > 0 ->
        message = {:reconnect, state.process, deadline}
        Process.send_after(self(), message, @reconnect_interval)
        {:noreply, state}

      true ->
        message = ErrorTranslator.not_connected(state.node)
        # An atom, such as :infinity, is more than any number.
        shutdown = min(Config.shutdown(state.options), @unreachable_shutdown)
        {_status, state} = stop_python(state, shutdown)
        {:noreply, start_again(state, message)}
    end
  end

  defp crashed(state, status) do
    start_again(
      state,
      "Python node #{state.node} exited#{with_status(status)}: its objects are gone."
    )
  end

  defp start_again(state, message) do
    failures = if settled?(state), do: 0, else: state.failures
    delay = Enum.at(@backoff, failures, List.last(@backoff))
    Logger.error("#{message} It is started again #{in_words(delay)}.")
    Process.send_after(self(), :launch, delay)
    %{state | failures: failures + 1, up_since: nil}
  end

  defp settled?(%{up_since: since}), do: since != nil and now() - since >= @settled

  defp in_words(0), do: "now"
  defp in_words(delay), do: "in #{delay / 1_000} s"

  ## Stopping

  @impl true
  def terminate(_reason, state) do
    _was_there = :persistent_term.erase({__MODULE__, self()})
    _stopped = if state.process, do: stop_python(state, Config.shutdown(state.options))
    :ok
  end

  defp stop_python(state, 0), do: finish(state)

  defp stop_python(state, shutdown) do
    OsProcess.terminate(state.process)
    state |> await_exit(deadline(shutdown)) |> finish()
  end

  # Port.close/1 would close our ears as well, and an exit status may not come: so we look.
  defp await_exit(%{port: port} = state, deadline) do
    receive do
      {^port, {:data, {_eol, line}}} ->
        state = said(state, line)
        if remaining(deadline) == 0, do: state, else: await_exit(state, deadline)
    after
      @poll ->
        cond do
          not OsProcess.alive?(state.process) ->
            state

          remaining(deadline) == 0 ->
            Logger.warning("Python node #{state.node} did not stop when asked, and is killed.")
            state

          true ->
            await_exit(state, deadline)
        end
    end
  end

  # Kills what is left of the process group, logs the last words, and returns the exit status, or
  # nil if it does not come, and the state.
  defp finish(%{process: nil} = state), do: {nil, state}

  defp finish(%{port: port} = state) do
    OsProcess.kill_group(state.process)
    {status, state} = last_words(state, nil, deadline(@last_words))
    close(port)
    forget_connection(state.node)
    _was_there = :persistent_term.erase({__MODULE__, state.node})
    {status, %{state | phase: :down, port: nil, process: nil, log: %PythonLog{}}}
  end

  # What had no newline at its end comes after the exit status, when the port closes.
  defp last_words(%{port: port} = state, status, deadline) do
    receive do
      {^port, {:data, {_eol, line}}} ->
        state = said(state, line)
        if remaining(deadline) > 0, do: last_words(state, status, deadline), else: {status, state}

      {^port, {:exit_status, status}} ->
        last_words(state, status, deadline)

      {:EXIT, ^port, _reason} ->
        {status, state}
    after
      if(Port.info(port), do: remaining(deadline), else: 0) -> {status, state}
    end
  end

  # The end of this connection must not be taken for the end of the next one.
  defp forget_connection(node) do
    Node.monitor(node, false)

    receive do
      {:nodedown, ^node} -> :ok
    after
      0 -> :ok
    end
  end

  defp close(port) do
    Port.close(port)
  rescue
    # It is closed already.
    ArgumentError -> true
  end

  ## Small things

  # Logs what Python said. A line that is longer than the port reads at once comes in pieces, which are logged
  # as lines of their own, and so is what has no newline at the end.
  defp said(state, ""), do: state

  defp said(state, line) do
    {level, text, log} = PythonLog.line(line, state.log)
    Logger.log(level, "[#{state.node}] #{text}")
    %{state | log: log, lines: Enum.take([text | state.lines], @remembered)}
  end

  defp with_status(nil), do: ""
  defp with_status(status), do: " with status #{status}"

  defp now, do: System.monotonic_time(:millisecond)

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: now() + timeout

  defp remaining(:infinity), do: :infinity
  defp remaining(deadline), do: max(deadline - now(), 0)
end
