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
  in the log. When Python exits, this process exits, and its supervisor starts both anew under the
  same node name. When this process is stopped, Python gets a SIGTERM, finishes its running calls,
  and is killed if it takes longer than `:shutdown`. When this VM dies, Python sees its standard
  input closed, and exits.

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
    * `:cd` - Python's working directory
    * `:cookie` - the node's cookie, default this node's; it travels in the environment, never on
      the command line
    * `:start_timeout` - milliseconds until it must be ready, default 30,000
    * `:shutdown` - milliseconds that it is given to exit when stopped, default 10,000
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
    NodeUnavailableError,
    PythonLog
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

  # How long a name may stay registered after the process that had it was killed.
  @name_release_timeout 10_000
  @reconnects 5
  @reconnect_interval 200
  @poll 20
  # How much of a line is logged at once.
  @line_length 16_384

  defstruct [:port, :os_pid, :node, :shutdown, line: [], log: %PythonLog{}]

  @type option ::
          {:node, node()}
          | {:base, String.t()}
          | {:executable, Path.t()}
          | {:args, [String.t()]}
          | {:env, [{String.t(), String.t()}]}
          | {:cd, Path.t()}
          | {:cookie, atom()}
          | {:start_timeout, pos_integer()}
          | {:shutdown, pos_integer()}
          | {:name, GenServer.name()}
          | {:id, term()}

  @doc "The child specification for these options."
  @spec child_spec([option()]) :: Supervisor.child_spec()
  def child_spec(options) do
    %{
      id: Keyword.get(options, :id, __MODULE__),
      start: {__MODULE__, :start_link, [options]},
      # Time to ask, then time to kill.
      shutdown: Keyword.get(options, :shutdown, Config.shutdown()) + 5_000
    }
  end

  @doc "Starts a Python node and connects to it. Raises ArgumentError if an option is unknown."
  @spec start_link([option()]) :: GenServer.on_start()
  def start_link(options \\ []) do
    case Keyword.keys(options) -- @options do
      [] -> GenServer.start_link(__MODULE__, options, Keyword.take(options, [:name]))
      unknown -> raise ArgumentError, "unknown options of a Python node: #{inspect(unknown)}"
    end
  end

  @doc "The name of the Python node."
  @spec node(GenServer.server()) :: node()
  def node(server \\ __MODULE__), do: GenServer.call(server, :node)

  @doc "The process id that the operating system gave to Python."
  @spec os_pid(GenServer.server()) :: pos_integer()
  def os_pid(server \\ __MODULE__), do: GenServer.call(server, :os_pid)

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)

    case start(options) do
      {:ok, state} ->
        Logger.info("Python node #{state.node} is ready (os pid #{state.os_pid})")
        {:ok, state}

      {:error, error} ->
        Logger.error(Exception.message(error))
        {:stop, {:shutdown, error}}
    end
  end

  defp start(options) do
    timeout = Keyword.get(options, :start_timeout, Config.start_timeout())

    with {:ok, python} <- Interpreter.find(options[:executable]),
         :ok <- Distribution.ensure_started(),
         node = options[:node] || Distribution.node_name(options[:base] || default_base()),
         :ok <- await_free(node),
         {:ok, state} <- open(python, node, options),
         :ok <- or_kill(state, await_ready(state, python, deadline(timeout), [], [])),
         :ok <- or_kill(state, connect(state)) do
      {:ok, state}
    end
  end

  @doc false
  @spec default_base() :: String.t()
  def default_base, do: "#{Distribution.base_name()}_py"

  defp or_kill(_state, :ok), do: :ok

  defp or_kill(state, {:error, error}) do
    stop_python(state)
    {:error, error}
  end

  # A name that we used ourselves stays registered until Python has seen that it should go.
  defp await_free(node) do
    cond do
      not Distribution.registered?(node) -> :ok
      used_before?(node) -> await_free(node, deadline(@name_release_timeout))
      true -> {:error, name_taken(node)}
    end
  end

  defp await_free(node, deadline) do
    cond do
      not Distribution.registered?(node) ->
        :ok

      remaining(deadline) == 0 ->
        {:error, name_taken(node)}

      true ->
        Process.sleep(@poll)
        await_free(node, deadline)
    end
  end

  defp used_before?(node), do: :persistent_term.get({__MODULE__, node}, false)
  defp remember(node), do: :persistent_term.put({__MODULE__, node}, true)

  defp open(python, node, options) do
    port = Port.open({:spawn_executable, python}, port_options(node, options))
    remember(node)

    case Port.info(port, :os_pid) do
      {:os_pid, os_pid} ->
        shutdown = Keyword.get(options, :shutdown, Config.shutdown())
        {:ok, %__MODULE__{port: port, os_pid: os_pid, node: node, shutdown: shutdown}}

      nil ->
        {:error, start_failed(node, "it exited at once")}
    end
  rescue
    error in ErlangError -> {:error, start_failed(node, Exception.message(error))}
  end

  defp port_options(node, options) do
    arguments = ["-m", "pynode", "serve", "--name", "#{node}", "--stop-on-eof"]
    listen = if address = Distribution.address(node), do: ["--listen", address], else: []
    cd = if options[:cd], do: [cd: options[:cd]], else: []

    [
      :binary,
      :exit_status,
      :hide,
      :stderr_to_stdout,
      line: @line_length,
      args: arguments ++ listen ++ Keyword.get(options, :args, []),
      env: environment(options)
    ] ++ cd
  end

  defp environment(options) do
    ours = [
      {"PYNODE_COOKIE", Atom.to_string(options[:cookie] || Node.get_cookie())},
      {"PYTHONUNBUFFERED", "1"},
      {"ERL_EPMD_PORT", Distribution.epmd_port() || System.get_env("ERL_EPMD_PORT")}
    ]

    for {name, value} <- ours ++ Keyword.get(options, :env, []), value != nil do
      {String.to_charlist(name), String.to_charlist(value)}
    end
  end

  # Reads until the line "ready NAME". Other lines are logged; the last of them are kept because
  # they say why, if Python exits instead.
  defp await_ready(%{port: port, node: node} = state, python, deadline, partial, lines) do
    ready = "ready #{node}"

    receive do
      {^port, {:data, {:noeol, part}}} ->
        await_ready(state, python, deadline, [partial, part], lines)

      {^port, {:data, {:eol, part}}} ->
        case IO.iodata_to_binary([partial, part]) do
          ^ready -> log_lines(node, lines)
          line -> await_ready(state, python, deadline, [], [line | lines])
        end

      {^port, {:exit_status, status}} ->
        {:error, exited_early(node, python, status, lines)}
    after
      remaining(deadline) ->
        log_lines(node, lines)
        {:error, start_timeout(node)}
    end
  end

  defp exited_early(node, python, status, lines) do
    log_lines(node, lines)

    if Enum.any?(lines, &(&1 =~ ~r/No module named '?pynode'?/)) do
      %NodeUnavailableError{
        node: node,
        reason: :no_pynode,
        message: "#{python} has no module pynode: run `#{python} -m pip install pynode-beam`."
      }
    else
      said = Enum.find(lines, "it said nothing", &(String.trim(&1) != ""))
      start_failed(node, "#{python} exited with status #{status}: #{said}")
    end
  end

  defp log_lines(node, lines) do
    _log = lines |> Enum.reverse() |> Enum.reduce(%PythonLog{}, &log_line(node, &1, &2))
    :ok
  end

  defp log_line(node, line, log) do
    {level, text, log} = PythonLog.line(line, log)
    Logger.log(level, "[#{node}] #{text}")
    log
  end

  defp connect(%{node: node} = state) do
    if Node.connect(node) == true and Node.monitor(node, true) do
      :ok
    else
      {:error,
       %NodeUnavailableError{
         node: node,
         reason: :not_connected,
         message:
           "The Python node #{node} runs (os pid #{state.os_pid}), but this VM could not connect " <>
             "to it: check that both have the same cookie, and look at its log."
       }}
    end
  end

  @impl true
  def handle_call(:node, _from, state), do: {:reply, state.node, state}
  def handle_call(:os_pid, _from, state), do: {:reply, state.os_pid, state}

  @impl true
  def handle_info({port, {:data, {:noeol, part}}}, %{port: port} = state) do
    {:noreply, %{state | line: [state.line, part]}}
  end

  def handle_info({port, {:data, {:eol, part}}}, %{port: port} = state) do
    log = log_line(state.node, IO.iodata_to_binary([state.line, part]), state.log)
    {:noreply, %{state | line: [], log: log}}
  end

  def handle_info({port, {:exit_status, status}}, %{port: port} = state) do
    Logger.error(
      "Python node #{state.node} exited with status #{status}: its objects are gone, " <>
        "and its supervisor starts it again."
    )

    {:stop, {:shutdown, {:python_exited, status}}, %{state | port: nil}}
  end

  # Python is alive, but has closed its standard output and with it our port.
  def handle_info({:EXIT, port, _reason}, %{port: port} = state) do
    Logger.error("Python node #{state.node} closed its standard output, so it is started again.")
    {:stop, {:shutdown, :port_closed}, state}
  end

  def handle_info({:nodedown, node}, %{node: node} = state), do: reconnect(state, 1)
  def handle_info({:reconnect, attempt}, state), do: reconnect(state, attempt)
  def handle_info(_message, state), do: {:noreply, state}

  # Mostly the connection is gone because Python is, and its exit status is on the way.
  defp reconnect(state, attempt) do
    cond do
      Node.connect(state.node) == true ->
        Node.monitor(state.node, true)

        Logger.warning(
          "The connection to #{state.node} was lost and is back; its objects are gone."
        )

        {:noreply, state}

      attempt < @reconnects ->
        Process.send_after(self(), {:reconnect, attempt + 1}, @reconnect_interval)
        {:noreply, state}

      true ->
        Logger.error(ErrorTranslator.not_connected(state.node))
        {:stop, {:shutdown, :connection_lost}, state}
    end
  end

  @impl true
  def terminate(_reason, %{port: nil}), do: :ok
  def terminate(_reason, state), do: stop_python(state)

  defp stop_python(%{port: port} = state) do
    # Port.close/1 would close our ears as well: ask, and wait until it has gone.
    if Port.info(port), do: signal("TERM", state.os_pid)

    if not exited?(state, deadline(state.shutdown)) do
      Logger.warning("Python node #{state.node} did not stop when asked, and is killed.")
      signal("KILL", state.os_pid)
      exited?(state, deadline(state.shutdown))
    end

    :ok
  end

  defp exited?(%{port: port} = state, deadline) do
    receive do
      {^port, {:exit_status, _status}} ->
        true

      {^port, {:data, {_eol, line}}} ->
        log = log_line(state.node, line, state.log)
        exited?(%{state | log: log}, deadline)
    after
      if(Port.info(port), do: remaining(deadline), else: 0) -> Port.info(port) == nil
    end
  end

  # The shell's own `kill`, because slim containers have no other.
  defp signal(name, os_pid) do
    _nothing = :os.cmd(~c"kill -#{name} #{os_pid}")
    :ok
  end

  defp start_failed(node, detail) do
    %NodeUnavailableError{
      node: node,
      reason: :start_failed,
      message: "The Python node #{node} did not start, #{detail}"
    }
  end

  defp start_timeout(node) do
    %NodeUnavailableError{
      node: node,
      reason: :start_timeout,
      message:
        "The Python node #{node} was not ready in time and is stopped: look at its log, or give it " <>
          "a larger :start_timeout."
    }
  end

  defp name_taken(node) do
    %NodeUnavailableError{
      node: node,
      reason: :name_taken,
      message:
        "The node name #{node} is in use on its host: stop the node that has it, or choose another name."
    }
  end

  defp deadline(timeout), do: System.monotonic_time(:millisecond) + timeout
  defp remaining(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)
end
