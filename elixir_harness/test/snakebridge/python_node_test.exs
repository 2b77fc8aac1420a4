defmodule SnakeBridge.PythonNodeTest do
  use SnakeBridge.Case

  import ExUnit.CaptureLog

  alias SnakeBridge.{Distribution, NodeUnavailableError, PythonNode, RefNotFoundError}

  @moduletag timeout: 120_000

  # An unlinked supervisor of its own for each node, so that failures do not touch the test.
  defp start(options) do
    options = Keyword.merge([base: unique("extra_#{System.pid()}")], options)
    start_supervised({PythonNode, options}, id: make_ref())
  end

  defp refused(options) do
    log =
      capture_log(fn ->
        assert {:error, {{:shutdown, %NodeUnavailableError{} = error}, _child}} = start(options)
        send(self(), {:refused, error})
      end)

    assert_received {:refused, error}
    # The sentence is in the log, and is one sentence.
    assert log =~ Exception.message(error)
    refute Exception.message(error) =~ "\n"
    error
  end

  defp alive?(os_pid) do
    {_output, status} = System.cmd("sh", ["-c", "kill -0 #{os_pid}"], stderr_to_stdout: true)
    status == 0
  end

  # As a handler of :logger.
  def log(%{level: level, msg: {:string, text}}, %{test: test}) do
    send(test, {:logged, level, IO.chardata_to_string(text)})
  end

  def log(_event, _config), do: :ok

  # An executable that plays the interpreter.
  defp script(text) do
    path = Path.join(System.tmp_dir!(), unique("snakebridge_#{System.pid()}"))
    File.write!(path, "#!/bin/sh\n" <> text)
    File.chmod!(path, 0o755)
    on_exit(fn -> File.rm(path) end)
    path
  end

  describe "a Python node" do
    test "is asked by its name, beside the default one" do
      assert {:ok, pid} = start([])
      node = PythonNode.node(pid)
      assert node != PythonNode.node()
      assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], node: node)
      ref = SnakeBridge.call!("collections", "Counter", ["aab"], node: node)
      # A ref knows the way.
      assert node(ref.id) == node
      assert SnakeBridge.method(ref, "total") == {:ok, 3}
      assert ref |> SnakeBridge.stream() |> Enum.sort() == ["a", "b"]
      other = SnakeBridge.call!("collections", "Counter")
      assert SnakeBridge.release_ref([ref, other]) == {:ok, 2}
    end

    test "has a context of its own" do
      assert {:ok, pid} = start([])
      node = PythonNode.node(pid)

      SnakeBridge.SessionContext.with_session([node: node], fn ->
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
               start(args: ["--allow", "os"], env: [{"HARNESS_TEST", "żółw"}], cd: directory)

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
        node = PythonNode.node()

        for {level, text} <- [
              {:info, "said by Python"},
              {:info, "printed by Python"},
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

  describe "a Python node that dies" do
    test "is started again under its name, and says so of its refs" do
      node = PythonNode.node()
      ref = SnakeBridge.call!("collections", "Counter")
      os_pid = PythonNode.os_pid()
      process = Process.whereis(PythonNode)
      monitor = Process.monitor(process)

      log =
        capture_log(fn ->
          System.cmd("sh", ["-c", "kill -9 #{os_pid}"])
          assert_receive {:DOWN, ^monitor, :process, ^process, {:shutdown, reason}}, 10_000
          assert reason == {:python_exited, 137}
          eventually(fn -> Process.whereis(PythonNode) end)
        end)

      assert log =~ "exited with status 137"
      assert PythonNode.node() == node
      assert PythonNode.os_pid() != os_pid

      assert {:error, %RefNotFoundError{reason: :node_restarted} = error} =
               SnakeBridge.method(ref, "total")

      assert Exception.message(error) =~ "restarted"
      assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16])
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

    test "fails the calls that were running" do
      assert {:ok, pid} = start([])
      node = PythonNode.node(pid)
      os_pid = PythonNode.os_pid(pid)
      task = Task.async(fn -> SnakeBridge.call("time", "sleep", [100], node: node) end)
      eventually(fn -> match?({:ok, %{running_calls: 1}}, SnakeBridge.info(node: node)) end)

      capture_log(fn ->
        System.cmd("sh", ["-c", "kill -9 #{os_pid}"])
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
      assert {:ok, pid} = start([])
      node = PythonNode.node(pid)
      os_pid = PythonNode.os_pid(pid)
      assert alive?(os_pid)
      GenServer.stop(pid, :shutdown)
      eventually(fn -> not alive?(os_pid) end)
      refute Distribution.registered?(node)
    end

    test "ends a Python that will not go" do
      assert {:ok, pid} = start(shutdown: 300)
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

  describe "a Python node that cannot be started" do
    test "because there is no interpreter" do
      error = refused(executable: "/nowhere/python")
      assert error.reason == :no_interpreter
      assert error.message =~ "/nowhere/python"
      assert error.message =~ "SNAKEBRIDGE_PYTHON"
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
      python = script("echo 'first'; echo 'The cookie is made of cheese.'; exit 3")
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

    test "because its name is in use" do
      error = refused(node: Node.self())
      assert error.reason == :name_taken
      assert error.message =~ "#{Node.self()} is in use"
    end

    test "because its cookie is another" do
      error = refused(cookie: :quite_another)
      assert error.reason == :not_connected
      assert error.message =~ "cookie"
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

      paths =
        for path <- Path.wildcard(Path.join(Mix.Project.build_path(), "lib/*/ebin")), do: path

      arguments = Enum.flat_map(paths, &["-pa", &1]) ++ ["-e", code]
      environment = [{"ERL_EPMD_PORT", epmd_port}]

      try do
        assert {output, 0} =
                 System.cmd("elixir", arguments, env: environment, stderr_to_stdout: true)

        assert output =~ ~r/\{4.0, :"snakebridge_\d+_\d+@127.0.0.1",\s+:"snakebridge_\d+_\d+_py@/
        assert output =~ ~r/^2$/m
      after
        # The EPMD is there for others, and would stay.
        epmd = Path.join(:code.root_dir(), "bin/epmd")
        System.cmd(epmd, ["-port", epmd_port, "-kill"], stderr_to_stdout: true)
      end
    end
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
