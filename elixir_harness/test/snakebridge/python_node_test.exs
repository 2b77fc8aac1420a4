defmodule SnakeBridge.PythonNodeTest do
  use SnakeBridge.Case

  import ExUnit.CaptureLog

  alias SnakeBridge.{
    Distribution,
    NodeUnavailableError,
    PythonNode,
    RefNotFoundError,
    SessionContext,
    SessionNotFoundError
  }

  @moduletag timeout: 120_000

  defp refused(options) do
    log =
      capture_log(fn ->
        assert {:error, {{:shutdown, %NodeUnavailableError{} = error}, _child}} =
                 start_python(options)

        send(self(), {:refused, error})
      end)

    assert_received {:refused, error}
    # The sentence is in the log, and is one sentence.
    assert log =~ Exception.message(error)
    refute Exception.message(error) =~ "\n"
    error
  end

  defp alive?(os_pid) do
    {state, _status} = System.cmd("ps", ["-o", "stat=", "-p", "#{os_pid}"])
    # What has exited and is not buried yet is not alive.
    state != "" and not String.starts_with?(state, "Z")
  end

  # As a handler of :logger.
  def log(%{level: level, msg: {:string, text}}, %{test: test}) do
    send(test, {:logged, level, IO.chardata_to_string(text)})
  end

  def log(_event, _config), do: :ok

  describe "a Python node" do
    test "runs on an interpreter that is named relative to this directory" do
      {:ok, interpreter} = SnakeBridge.Interpreter.find(nil)
      up = File.cwd!() |> Path.split() |> tl() |> Enum.map(fn _ -> ".." end) |> Path.join()
      relative = Path.join(up, Path.relative_to(script("exec #{interpreter} \"$@\""), "/"))
      assert {:ok, pid} = start_python(executable: relative, cd: System.tmp_dir!())
      assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], node: PythonNode.node(pid))
    end

    test "is asked by its name, beside the default one" do
      assert {:ok, pid} = start_python([])
      node = PythonNode.node(pid)
      assert node != PythonNode.node()
      assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], node: node)
      ref = SnakeBridge.call!("collections", "Counter", ["aab"], node: node)
      # A ref knows the way.
      assert node(ref.id) == node
      assert SnakeBridge.method(ref, "total") == {:ok, 3}
      assert ref |> SnakeBridge.stream() |> Enum.sort() == ["a", "b"]
      other = SnakeBridge.call!("collections", "Counter")

      # And it is of no use to another node.
      assert {:error, %SnakeBridge.InvalidRefError{reason: :other_node}} =
               SnakeBridge.call("builtins", "len", [ref])

      assert SnakeBridge.release_ref([ref, other]) == {:ok, 2}
    end

    test "has a name that is told while its process is busy" do
      pid = Process.whereis(PythonNode)
      :sys.suspend(pid)

      try do
        assert {:ok, node} = SnakeBridge.Config.default_node()
        assert PythonNode.node() == node
        assert PythonNode.node(pid) == node
      after
        :sys.resume(pid)
      end
    end

    test "has a context of its own" do
      assert {:ok, pid} = start_python([])
      node = PythonNode.node(pid)

      SessionContext.with_session([node: node], fn ->
        id = SnakeBridge.current_session()
        ref = SnakeBridge.call!("collections", "Counter")
        assert node(ref.id) == node
        assert ref.session_id == id
        # The context says nothing to a call to another node.
        default = PythonNode.node()
        elsewhere = SnakeBridge.call!("collections", "Counter", [], node: default)
        assert node(elsewhere.id) == default
        assert elsewhere.session_id =~ "auto_"
      end)
    end

    test "gets arguments, environment and directory" do
      directory = System.tmp_dir!()

      assert {:ok, pid} =
               start_python(
                 args: ["--allow", "os"],
                 env: [{"HARNESS_TEST", "żółw"}],
                 cd: directory
               )

      node = PythonNode.node(pid)
      assert {:ok, "żółw"} = SnakeBridge.call("os", "getenv", ["HARNESS_TEST"], node: node)
      assert {:ok, ^directory} = SnakeBridge.call("os", "getcwd", [], node: node)

      assert {:error, %SnakeBridge.NotAllowedError{module: "math"} = error} =
               SnakeBridge.call("math", "sqrt", [16], node: node)

      assert Exception.message(error) =~ "--allow math"
    end

    test "does not show its cookie to other users" do
      {command, 0} = System.cmd("ps", ["-o", "args=", "-p", "#{PythonNode.os_pid()}"])
      assert command =~ "pynode serve --name"
      refute command =~ Atom.to_string(Node.get_cookie())
    end

    test "has its output logged" do
      :ok = :logger.add_handler(__MODULE__, __MODULE__, %{test: self()})
      Logger.configure(level: :info)

      try do
        stderr = SnakeBridge.get!("sys", "stderr")
        SnakeBridge.call!("builtins", "print", ["said by Python"], kwargs: [file: stderr])
        SnakeBridge.call!("builtins", "print", ["printed by Python"])
        SnakeBridge.call!("logging", "warning", ["warned by Python"])
        SnakeBridge.call!("os", "write", [1, SnakeBridge.bytes(<<"caf", 0xE9, ?\n>>)])
        long = String.duplicate("long", 5_000)
        SnakeBridge.call!("builtins", "print", [long], kwargs: [end: ""])
        # What is in the port driver's buffer comes with the end of the line.
        SnakeBridge.call!("builtins", "print")
        node = PythonNode.node()

        for {level, text} <- [
              {:info, "said by Python"},
              {:info, "printed by Python"},
              {:info, "caf\uFFFD"},
              {:info, binary_part(long, 0, 16_384)},
              {:info, binary_part(long, 16_384, 20_000 - 16_384)},
              {:warning, "root: warned by Python"}
            ] do
          line = "[#{node}] #{text}"
          assert_receive {:logged, ^level, ^line}, 5_000
        end
      after
        Logger.configure(level: :warning)
        :logger.remove_handler(__MODULE__)
      end
    end
  end

  describe "output without a newline" do
    test "does not hide that Python is ready, and is logged when it dies" do
      {:ok, interpreter} = SnakeBridge.Interpreter.find(nil)

      assert {:ok, pid} =
               start_python(executable: script("printf warm >&2; exec #{interpreter} \"$@\""))

      node = PythonNode.node(pid)
      SnakeBridge.call!("os", "write", [1, SnakeBridge.bytes("last words")], node: node)
      Logger.configure(level: :info)
      assert crash(pid) =~ "[#{node}] last words"
    after
      Logger.configure(level: :warning)
    end
  end

  describe "a Python node that dies" do
    test "is started again under its name, and says so of its refs" do
      node = PythonNode.node()
      ref = SnakeBridge.call!("collections", "Counter")
      process = Process.whereis(PythonNode)
      context = SessionContext.with_session(&SessionContext.current/0)

      log = crash(PythonNode)

      # One line when it goes, and one when it is back.
      assert log =~ "#{node} exited with status 137"
      assert log =~ "#{node} is back (os pid #{PythonNode.os_pid()})"
      assert length(Regex.scan(~r/\[(error|warning)\]/, log)) == 2

      assert Process.whereis(PythonNode) == process
      assert PythonNode.node() == node

      assert {:error, %RefNotFoundError{reason: :node_restarted} = error} =
               SnakeBridge.method(ref, "total")

      assert Exception.message(error) =~ "restarted"
      assert error.session_id == ref.session_id

      # Its session has not outlived it either, and is not opened again behind anybody's back.
      SessionContext.put_current(context)

      assert {:error, %SessionNotFoundError{reason: :node_restarted}} =
               SnakeBridge.call("collections", "Counter")

      SessionContext.clear_current()

      assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16])
    end

    test "and dies again and again is started each time" do
      assert {:ok, pid} = start_python([])

      for _ <- 1..4 do
        crash(pid)
        assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], node: PythonNode.node(pid))
      end

      assert Process.alive?(pid)
    end

    test "and has a child that holds its output is back at once, and the child is gone" do
      assert {:ok, pid} = start_python([])
      node = PythonNode.node(pid)
      popen = SnakeBridge.call!("subprocess", "Popen", [["sleep", "90"]], node: node)
      child = SnakeBridge.attr!(popen, "pid")
      start = System.monotonic_time(:millisecond)
      crash(pid)
      assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], node: node)
      assert System.monotonic_time(:millisecond) - start < 1_500
      eventually(fn -> not alive?(child) end)
    end

    test "and has a pool of processes is back at once, and the pool is gone" do
      assert {:ok, pid} = start_python([])
      node = PythonNode.node(pid)
      opts = [node: node]
      pool = SnakeBridge.call!("concurrent.futures", "ProcessPoolExecutor", [2], opts)
      getpid = SnakeBridge.get!("os", "getpid", opts)
      sleep = SnakeBridge.get!("time", "sleep", opts)
      future = SnakeBridge.method!(pool, "submit", [getpid])
      SnakeBridge.method!(pool, "submit", [sleep, 90])
      worker = SnakeBridge.method!(future, "result")
      start = System.monotonic_time(:millisecond)
      crash(pid)
      assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], node: node)
      assert System.monotonic_time(:millisecond) - start < 1_500
      eventually(fn -> not alive?(worker) end)
    end

    test "and cannot be started any more is tried again at intervals" do
      {:ok, interpreter} = SnakeBridge.Interpreter.find(nil)
      broken = Path.join(System.tmp_dir!(), unique("broken_#{System.pid()}"))
      on_exit(fn -> File.rm(broken) end)

      python =
        script(
          "[ -e #{broken} ] && { echo 'The disk is full.'; exit 1; }\nexec #{interpreter} \"$@\""
        )

      assert {:ok, pid} = start_python(executable: python)
      node = PythonNode.node(pid)
      os_pid = PythonNode.os_pid(pid)
      File.touch!(broken)

      log =
        capture_log(fn ->
          kill_os_process(os_pid)
          eventually(fn -> :sys.get_state(pid).failures >= 3 end)
          assert PythonNode.node(pid) == node

          assert {:error, %NodeUnavailableError{} = error} = SnakeBridge.info(node: node)
          assert Exception.message(error) =~ "wait until it is back"

          File.rm!(broken)
          eventually(fn -> match?({:ok, _}, SnakeBridge.info(node: node)) end)
        end)

      assert log =~ ~r/exited with status 1: The disk is full. It is started again in 0.1 s./
      assert log =~ "It is started again in 0.5 s."
      assert log =~ "#{node} is back"
    end

    test "is connected again if only the connection is lost" do
      node = PythonNode.node()
      os_pid = PythonNode.os_pid()
      ref = SnakeBridge.call!("collections", "Counter")

      log =
        capture_log(fn ->
          Node.disconnect(node)
          eventually(fn -> node in Node.list(:connected) end)
          # Its owners were DOWN when the connection was.
          eventually(fn -> whereabouts(ref) == :owner_down end)
          _ = :sys.get_state(PythonNode)
        end)

      assert log =~ "was lost and is back"
      assert PythonNode.os_pid() == os_pid
    end

    test "is started again if it is frozen and out of reach, however long a stop may take" do
      assert {:ok, pid} = start_python(shutdown: :infinity)
      node = PythonNode.node(pid)
      os_pid = PythonNode.os_pid(pid)
      :ok = :logger.add_handler(__MODULE__, __MODULE__, %{test: self()})

      capture_log(fn ->
        System.cmd("sh", ["-c", "kill -STOP #{os_pid}"])
        Node.disconnect(node)
        killed = "Python node #{node} did not stop when asked, and is killed."
        # The runtime gives up connecting to it after seven seconds.
        assert_receive {:logged, :warning, ^killed}, 20_000
        eventually(fn -> match?({:ok, _info}, SnakeBridge.info(node: node)) end)
      end)

      refute alive?(os_pid)
    after
      :logger.remove_handler(__MODULE__)
    end

    test "fails the calls that were running" do
      assert {:ok, pid} = start_python([])
      node = PythonNode.node(pid)
      os_pid = PythonNode.os_pid(pid)
      task = Task.async(fn -> SnakeBridge.call("time", "sleep", [100], node: node) end)
      eventually(fn -> match?({:ok, %{running_calls: 1}}, SnakeBridge.info(node: node)) end)

      capture_log(fn ->
        kill_os_process(os_pid)
        assert {:error, %NodeUnavailableError{node: ^node, reason: :nodedown}} = Task.await(task)
      end)
    end

    test "is started again if its process here is killed" do
      node = PythonNode.node()
      os_pid = PythonNode.os_pid()

      capture_log(fn ->
        kill(Process.whereis(PythonNode))
        eventually(fn -> Process.whereis(PythonNode) end)
      end)

      assert PythonNode.node() == node
      assert PythonNode.os_pid() != os_pid
      eventually(fn -> not alive?(os_pid) end)
      assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16])
    end
  end

  describe "stopping" do
    test "ends Python" do
      assert {:ok, pid} = start_python([])
      node = PythonNode.node(pid)
      os_pid = PythonNode.os_pid(pid)
      assert alive?(os_pid)
      GenServer.stop(pid, :shutdown)
      eventually(fn -> not alive?(os_pid) end)
      refute Distribution.registered?(node)
    end

    test "gives running calls the time that :shutdown says" do
      args = fn options ->
        {:ok, pid} = start_python(options)
        {command, 0} = System.cmd("ps", ["-ww", "-o", "args=", "-p", "#{PythonNode.os_pid(pid)}"])
        command
      end

      assert args.(shutdown: 60_000) =~ "--shutdown-seconds 55.0"
      assert args.(shutdown: :infinity) =~ "--shutdown-seconds 31536000"
      refute args.(shutdown: 10_000) =~ "--shutdown-seconds"
      assert %{shutdown: :infinity} = PythonNode.child_spec(shutdown: :infinity)
      assert %{shutdown: 5_000} = PythonNode.child_spec(shutdown: :brutal_kill)
    end

    test "ends a Python at once if it is to be killed" do
      assert {:ok, pid} = start_python(shutdown: :brutal_kill)
      os_pid = PythonNode.os_pid(pid)
      System.cmd("sh", ["-c", "kill -STOP #{os_pid}"])
      GenServer.stop(pid, :shutdown)
      refute alive?(os_pid)
    end

    test "ends a Python that will not go" do
      assert {:ok, pid} = start_python(shutdown: 300)
      node = PythonNode.node(pid)
      os_pid = PythonNode.os_pid(pid)

      System.cmd("sh", ["-c", "kill -STOP #{os_pid}"])

      log =
        capture_log(fn ->
          GenServer.stop(pid, :shutdown)
          refute alive?(os_pid)
        end)

      assert log =~ "#{node} did not stop when asked, and is killed"
    end
  end

  describe "stopping with children of Python's" do
    test "leaves nothing, and is not held up by a child that holds its output" do
      assert {:ok, pid} = start_python([])
      node = PythonNode.node(pid)
      popen = SnakeBridge.call!("subprocess", "Popen", [["sleep", "90"]], node: node)
      child = SnakeBridge.attr!(popen, "pid")
      os_pid = PythonNode.os_pid(pid)
      start = System.monotonic_time(:millisecond)
      GenServer.stop(pid, :shutdown)
      assert System.monotonic_time(:millisecond) - start < 5_000
      refute alive?(os_pid)
      eventually(fn -> not alive?(child) end)
    end

    test "even if a PythonNode is killed: its successor ends what it has left" do
      Process.flag(:trap_exit, true)
      {:ok, pid} = PythonNode.start_link(base: unique("heir_#{System.pid()}"))
      node = PythonNode.node(pid)
      os_pid = PythonNode.os_pid(pid)
      popen = SnakeBridge.call!("subprocess", "Popen", [["sleep", "90"]], node: node)
      child = SnakeBridge.attr!(popen, "pid")
      # It cannot see that its standard input is closed.
      System.cmd("sh", ["-c", "kill -STOP #{os_pid}"])

      capture_log(fn ->
        kill(pid)
        assert {:ok, successor} = start_python(node: node)
        assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], node: node)
        assert PythonNode.os_pid(successor) != os_pid
      end)

      refute alive?(os_pid)
      eventually(fn -> not alive?(child) end)
    end
  end

  describe "a Python node that cannot be started" do
    test "because there is no interpreter" do
      error = refused(executable: "/nowhere/python")
      assert error.reason == :no_interpreter
      assert error.message =~ ":executable names /nowhere/python"
      refute error.message =~ "SNAKEBRIDGE_PYTHON"
    end

    test "because the variable names none" do
      before = System.get_env("SNAKEBRIDGE_PYTHON")
      System.put_env("SNAKEBRIDGE_PYTHON", "/nowhere/else")

      try do
        assert refused([]).message =~ "SNAKEBRIDGE_PYTHON names /nowhere/else"
      after
        if before,
          do: System.put_env("SNAKEBRIDGE_PYTHON", before),
          else: System.delete_env("SNAKEBRIDGE_PYTHON")
      end
    end

    test "because it has no pynode" do
      python = script("echo \"$0: No module named pynode\" >&2; exit 1")
      error = refused(executable: python)
      assert error.reason == :no_pynode
      assert error.message =~ "#{python} -m pip install pynode-beam"
    end

    test "because it exits, with its last words" do
      python = script("echo 'first'; printf 'The cookie is made of cheese.'; exit 3")
      error = refused(executable: python)
      assert error.reason == :start_failed
      assert error.message =~ "exited with status 3: The cookie is made of cheese."
    end

    test "because it is no program at all" do
      path = script("")
      File.write!(path, "no program")
      assert refused(executable: path).reason == :start_failed
    end

    test "because it takes too long, and then nothing is left" do
      python = script("echo $$ > $0.pid; exec sleep 100")
      error = refused(executable: python, start_timeout: 300)
      assert error.reason == :start_timeout
      os_pid = String.trim(File.read!(python <> ".pid"))
      File.rm(python <> ".pid")
      refute alive?(os_pid)
    end

    test "because it prints for ever and is never ready" do
      python = script("echo $$ > $0.pid; exec yes")
      start = System.monotonic_time(:millisecond)
      error = refused(executable: python, start_timeout: 300)
      assert error.reason == :start_timeout
      assert System.monotonic_time(:millisecond) - start < 5_000
      os_pid = String.trim(File.read!(python <> ".pid"))
      File.rm(python <> ".pid")
      refute alive?(os_pid)
    end

    test "because it exits, though a child of its holds its output" do
      python = script("echo 'Out of cheese.'; sleep 90 & echo $! > $0.pid; exit 3")
      error = refused(executable: python)
      assert error.reason == :start_failed
      assert error.message =~ "Out of cheese."
      child = String.trim(File.read!(python <> ".pid"))
      File.rm(python <> ".pid")
      eventually(fn -> not alive?(child) end)
    end

    test "because its name is in use" do
      error = refused(node: Node.self(), start_timeout: 100)
      assert error.reason == :name_taken
      assert error.message =~ "#{Node.self()} is in use"
    end

    test "until the node that has its name is gone" do
      node = Distribution.node_name(unique("waiting_#{System.pid()}"))
      {:ok, first} = start_python(node: node)
      # As a handler of :logger, this test is told when the second one waits.
      :ok = :logger.add_handler(__MODULE__, __MODULE__, %{test: self()})

      try do
        second =
          Task.async(fn ->
            {:ok, pid} = PythonNode.start_link(node: node)
            {PythonNode.node(pid), GenServer.stop(pid)}
          end)

        waiting = "The node name #{node} is in use: waiting up to 30000 ms for it to become free."
        assert_receive {:logged, :warning, ^waiting}, 5_000
        GenServer.stop(first, :shutdown)
        assert Task.await(second, 10_000) == {node, :ok}
      after
        :logger.remove_handler(__MODULE__)
      end
    end

    test "because its cookie is another" do
      error = refused(cookie: :quite_another)
      assert error.reason == :not_connected
      assert error.message =~ "cookie"
    end
  end

  describe "the node of the application" do
    test "takes the next name if it loses one to somebody who was quicker" do
      {:ok, interpreter} = SnakeBridge.Interpreter.find(nil)

      python =
        script(
          "touch $0.begun; until [ -e $0.go ]; do sleep 0.01; done; exec #{interpreter} \"$@\""
        )

      on_exit(fn -> Enum.each([".begun", ".go"], &File.rm(python <> &1)) end)
      configured = Application.fetch_env!(:snakebridge, :python)
      base = unique("contested_#{System.pid()}")

      capture_log(fn ->
        :ok = Application.stop(:snakebridge)
        Application.put_env(:snakebridge, :python, base: base, executable: python)

        try do
          starting = Task.async(fn -> Application.ensure_all_started(:snakebridge) end)
          eventually(fn -> File.exists?(python <> ".begun") end)
          assert {:ok, _quicker} = start_python(base: base)
          File.touch!(python <> ".go")
          assert {:ok, [:snakebridge]} = Task.await(starting, 30_000)
          assert PythonNode.node() == Distribution.node_name(base <> "2")
          assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16])
        after
          Application.stop(:snakebridge)
          Application.put_env(:snakebridge, :python, configured)
          {:ok, _} = Application.ensure_all_started(:snakebridge)
        end
      end)
    end
  end

  describe "a VM that is no node, on a host without EPMD" do
    test "becomes one, on the loopback interface" do
      {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
      {:ok, port} = :inet.port(socket)
      :gen_tcp.close(socket)
      epmd_port = Integer.to_string(port)

      code = """
      Application.put_env(:snakebridge, :python, [])
      {:ok, _} = Application.ensure_all_started(:snakebridge)
      IO.inspect({SnakeBridge.call!("math", "sqrt", [16]), node(), SnakeBridge.PythonNode.node()})
      {:ok, addresses} = :erl_epmd.names({127, 0, 0, 1})
      IO.inspect(length(addresses))
      """

      try do
        assert {output, 0} = elixir(code, [{"ERL_EPMD_PORT", epmd_port}])
        assert output =~ ~r/\{4.0, :"snakebridge_\d+_\d+@127.0.0.1",\s+:"snakebridge_\d+_\d+_py@/
        assert output =~ ~r/^2$/m
      after
        # The EPMD is there for others, and would stay.
        epmd = Path.join(:code.root_dir(), "bin/epmd")
        System.cmd(epmd, ["-port", epmd_port, "-kill"], stderr_to_stdout: true)
      end
    end
  end

  describe "a VM that is no node, and has no home" do
    test "says so, and says it again to who calls all the same" do
      code = """
      Application.put_env(:snakebridge, :python, [])
      {:error, _} = Application.ensure_all_started(:snakebridge)
      {:error, error} = SnakeBridge.info()
      IO.puts(Exception.message(error))
      """

      assert {output, 0} = elixir(code, [{"HOME", "/nowhere"}])
      assert output =~ "set HOME to a directory of yours, or start the VM with --cookie."
      assert output =~ "The application :snakebridge is not running"
    end
  end

  describe "a VM with a short name" do
    test "is told that nodes with long names are out of its reach" do
      code = "IO.inspect(SnakeBridge.info(node: :\"py@127.0.0.1\"))"
      name = unique("short_#{System.pid()}")
      assert {output, 0} = elixir(code, [], ["--sname", name])
      assert output =~ "py@127.0.0.1 has a long name and this VM, #{name}@"
    end
  end

  # Runs code in another VM, and returns its output and exit status.
  defp elixir(code, environment, options \\ []) do
    paths = Path.wildcard(Path.join(Mix.Project.build_path(), "lib/*/ebin"))
    arguments = options ++ Enum.flat_map(paths, &["-pa", &1]) ++ ["-e", code]
    System.cmd("elixir", arguments, env: environment, stderr_to_stdout: true)
  end

  describe "options" do
    test "that do not exist are refused" do
      assert_raise ArgumentError, ~r/:excutable/, fn ->
        PythonNode.start_link(excutable: "python")
      end
    end
  end

  describe "a node with another cookie" do
    test "is not reached, and the error says what to check" do
      # As a node elsewhere would be: it is not started by a PythonNode with our cookie.
      node = Distribution.node_name(unique("foreign_#{System.pid()}"))
      {:ok, interpreter} = SnakeBridge.Interpreter.find(nil)

      port =
        Port.open({:spawn_executable, interpreter}, [
          :binary,
          :stderr_to_stdout,
          line: 1000,
          args: ["-m", "pynode", "serve", "--name", "#{node}", "--stop-on-eof"],
          env: [
            {~c"PYNODE_COOKIE", ~c"quite_another"},
            {~c"ERL_EPMD_PORT", String.to_charlist(Distribution.epmd_port() || "4369")}
          ]
        ])

      ready = "ready #{node}"
      assert_receive {^port, {:data, {:eol, ^ready}}}, 30_000

      capture_log(fn ->
        assert {:error, %NodeUnavailableError{node: ^node, reason: :nodedown} = error} =
                 SnakeBridge.call("math", "sqrt", [16], node: node)

        assert Exception.message(error) =~ "PYNODE_COOKIE"
      end)

      Port.close(port)
    end
  end
end
