defmodule SnakeBridge.LifelineTest do
  use SnakeBridge.Case

  alias SnakeBridge.{Lifeline, NodeUnavailableError, PythonNode, SessionContext}

  # The lifeline of a node that has been called.
  defp lifeline(node) do
    eventually(fn ->
      {:ok, _info} = SnakeBridge.info(node: node)
      Lifeline.find(node)
    end)
  end

  # A process that runs until it is stopped, in Python, and what it got as the answer.
  defp spinning(opts) do
    test = self()

    caller =
      spawn(fn ->
        send(test, {self(), SnakeBridge.call("harness_fixture", "spin", [], opts)})
        # Its exit would stop what it has left running.
        Process.sleep(:infinity)
      end)

    on_exit(fn -> Process.exit(caller, :kill) end)

    eventually(fn -> running(opts[:session_id]) == 1 end)
    caller
  end

  defp session(settings) do
    {:ok, context} = SessionContext.open(settings)
    on_exit(fn -> SnakeBridge.release_session(context.session_id) end)
    context.session_id
  end

  test "callers monitor nothing on the Python node" do
    node = PythonNode.node()
    lifeline = lifeline(node)
    caller = spinning(session_id: session([]))
    assert {:monitors, [process: ^lifeline]} = Process.info(caller, :monitors)
    assert {:monitors, [process: {:snakebridge, ^node}]} = Process.info(lifeline, :monitors)
    SnakeBridge.cancel(caller)
    assert_receive {^caller, {:error, %SnakeBridge.PythonError{}}}, 5_000
  end

  test "a node has one, however many begin at once" do
    {:ok, python} = start_python([])
    node = PythonNode.node(python)

    1..20
    |> Task.async_stream(fn _ -> SnakeBridge.call!("math", "sqrt", [16], node: node) end)
    |> Enum.each(&assert &1 == {:ok, 4.0})

    lifeline = lifeline(node)

    assert for({_, pid, _, _} <- DynamicSupervisor.which_children(SnakeBridge.Lifelines), do: pid)
           |> Enum.filter(&(:sys.get_state(&1) == node)) == [lifeline]
  end

  test "when the node is lost, who waits is told, and nobody else" do
    {:ok, python} = start_python([])
    node = PythonNode.node(python)
    lifeline = lifeline(node)
    gone = Process.monitor(lifeline)
    test = self()

    callers =
      for _ <- 1..5 do
        spawn_link(fn ->
          result = SnakeBridge.call("time", "sleep", [60], node: node)
          send(test, {self(), result, Process.info(self(), :messages)})
        end)
      end

    eventually(fn -> match?({:ok, %{running_calls: 5}}, SnakeBridge.info(node: node)) end)
    crash(python)

    for caller <- callers do
      assert_receive {^caller, {:error, %NodeUnavailableError{} = error}, {:messages, []}}, 5_000
      assert %{node: ^node, reason: :nodedown} = error
    end

    assert_receive {:DOWN, ^gone, :process, ^lifeline, {:shutdown, {:lost, :noconnection}}}
    refute_received _anything_else
    assert SnakeBridge.call("math", "sqrt", [16], node: node) == {:ok, 4.0}
    assert lifeline(node) != lifeline
  end

  test "when the node is lost amid calls, each is told so" do
    {:ok, python} = start_python([])
    node = PythonNode.node(python)
    lifeline(node)

    callers = for _ <- 1..20, do: Task.async(fn -> call_until_it_fails(node) end)

    eventually(fn ->
      match?({:ok, %{calls: calls}} when calls > 1_000, SnakeBridge.info(node: node))
    end)

    crash(python)

    for result <- Task.await_many(callers) do
      assert {%NodeUnavailableError{reason: :nodedown}, {:messages, []}} = result
    end
  end

  defp call_until_it_fails(node) do
    case SnakeBridge.call("math", "sqrt", [16], node: node) do
      {:ok, 4.0} -> call_until_it_fails(node)
      {:error, error} -> {error, Process.info(self(), :messages)}
    end
  end

  test "one that is dead, unseen, costs one call" do
    node = PythonNode.node()
    lifeline = lifeline(node)
    dead = spawn(fn -> :ok end)
    eventually(fn -> not Process.alive?(dead) end)
    :persistent_term.put({Lifeline, node}, dead)
    assert {:error, %NodeUnavailableError{reason: :nodedown}} = SnakeBridge.info()
    assert {:ok, _info} = SnakeBridge.info()
    DynamicSupervisor.terminate_child(SnakeBridge.Lifelines, lifeline)
    assert lifeline(node) != lifeline
  end

  test "a caller that is killed cancels its call, if its session says so" do
    lifeline(PythonNode.node())

    for {setting, left} <- [true: 0, false: 1] do
      id = session(cancel_on_timeout: setting)
      other = session(cancel_on_timeout: true)
      # When the second has been stopped, whatever the first death could stop has been.
      callers = [spinning(session_id: id), spinning(session_id: other)]
      Enum.each(callers, &kill/1)
      eventually(fn -> running(other) == 0 end)
      eventually(fn -> running(id) == left end)
    end
  end

  test "a caller that gives up cancels its call, if its session says so" do
    lifeline(PythonNode.node())
    [left, stopped] = for setting <- [false, true], do: session(cancel_on_timeout: setting)

    for id <- [left, stopped] do
      assert {:error, %SnakeBridge.CallTimeoutError{timeout: 50}} =
               SnakeBridge.call("harness_fixture", "spin", [], session_id: id, timeout: 50)
    end

    eventually(fn -> running(stopped) == 0 end)
    eventually(fn -> running(left) == 1 end)
  end

  test "a caller that gives up has nothing left of its call, nor gets a late answer" do
    lifeline(PythonNode.node())

    for timeout <- [0, 1, 10] do
      assert {:error, %SnakeBridge.CallTimeoutError{}} =
               SnakeBridge.call("time", "sleep", [0.05], timeout: timeout)
    end

    # The late answers came before this one: sessions run one call at a time.
    assert SnakeBridge.call("math", "sqrt", [16]) == {:ok, 4.0}
    assert Process.info(self(), [:messages, :monitors]) == [messages: [], monitors: []]
  end

  test "a caller that is told of a lost connection cancels its call, if that came over the next one" do
    {:ok, python} = start_python([])
    node = PythonNode.node(python)
    lifeline = lifeline(node)
    # It is late to see that the connection is another.
    :erlang.suspend_process(lifeline)
    Node.disconnect(node)
    true = Node.connect(node)
    settings = %{cancel_on_timeout: true}
    :ok = GenServer.call({:snakebridge, node}, {:open_session, "late", self(), settings})
    test = self()

    spawn_link(fn ->
      result =
        SnakeBridge.call("builtins", "exec", ["while True: pass"],
          node: node,
          session_id: "late",
          timeout: :infinity
        )

      send(test, {:told, result})
      Process.sleep(:infinity)
    end)

    running = fn ->
      {:ok, info} = GenServer.call({:snakebridge, node}, :info)
      info.running_calls
    end

    eventually(fn -> running.() == 1 end)
    :erlang.resume_process(lifeline)
    assert_receive {:told, {:error, %NodeUnavailableError{reason: :nodedown}}}, 5_000
    eventually(fn -> running.() == 0 end)
  end

  test "a stray message does not end it" do
    lifeline = lifeline(PythonNode.node())
    send(lifeline, :stray)
    Process.exit(lifeline, :stray)
    assert :sys.get_state(lifeline) == PythonNode.node()
  end

  test "one that is stopped takes the calls along that wait, and no later one" do
    for stop <- [&kill/1, &DynamicSupervisor.terminate_child(SnakeBridge.Lifelines, &1)] do
      lifeline = lifeline(PythonNode.node())
      id = session(cancel_on_timeout: true)
      caller = spinning(session_id: id)
      assert stop.(lifeline) == :ok
      assert_receive {^caller, {:error, %NodeUnavailableError{reason: :not_running}}}, 5_000
      eventually(fn -> running(id) == 0 end)
      assert SnakeBridge.call("math", "sqrt", [16]) == {:ok, 4.0}
      assert lifeline(PythonNode.node()) != lifeline
      SnakeBridge.release_session(id)
    end
  end
end
