defmodule SnakeBridge.NodeTest do
  # A Python node as any other node: what Elixir's own modules do with it, without this library.
  use SnakeBridge.Case

  alias SnakeBridge.PythonNode

  @moduletag :capture_log

  setup_all do
    path = Path.expand("../support/python", __DIR__)

    options = [
      base: unique("full_#{System.pid()}"),
      env: [{"PYTHONPATH", path}],
      args: ["--setup", "full_node_fixture:setup"]
    ]

    node = PythonNode.node(start_supervised!({PythonNode, options}))
    %{node: node, counter: {:counter, node}}
  end

  describe "Node" do
    test "connects, pings, lists", %{node: node} do
      assert Node.connect(node)
      assert Node.ping(node) == :pong
      assert node in Node.list(:hidden)
      refute node in Node.list()
    end

    test "monitors, and so does :net_kernel", %{node: node} do
      :ok = :net_kernel.monitor_nodes(true, node_type: :all)
      assert Node.ping(node) == :pong
      true = Node.monitor(node, true)
      Node.disconnect(node)
      assert_receive {:nodedown, ^node}, 5_000
      assert_receive {:nodedown, ^node, _info}, 5_000
      assert Node.ping(node) == :pong
      assert_receive {:nodeup, ^node, _info}, 5_000
      :net_kernel.monitor_nodes(false, node_type: :all)
    end

    test "spawns, links and monitors", %{node: node} do
      pid = Node.spawn(node, :full_node_fixture, :echo, [])
      assert node(pid) == node
      send(pid, {self(), :hello})
      assert_receive {^pid, :hello}, 5_000

      monitor = Process.monitor(pid)
      send(pid, :stop)
      assert_receive {:DOWN, ^monitor, :process, ^pid, :normal}, 5_000

      Process.flag(:trap_exit, true)
      linked = Node.spawn_link(node, :full_node_fixture, :leave, [{:shutdown, :done}])
      assert_receive {:EXIT, ^linked, {:shutdown, :done}}, 5_000

      {failed, monitor} = Node.spawn_monitor(node, :full_node_fixture, :fail, ["why"])
      assert_receive {:DOWN, ^monitor, :process, ^failed, reason}, 5_000
      assert {%SnakeBridge.PythonError{type: "RuntimeError", message: "why"}, stack} = reason
      text = Exception.format_exit(reason)
      assert text =~ "** (SnakeBridge.PythonError)"
      assert text =~ "full_node_fixture.py"
      assert [{:full_node_fixture, :fail, _, _} | _] = stack
    end

    test "says of a function that is not there what it says of Elixir's", %{node: node} do
      {_pid, monitor} = Node.spawn_monitor(node, :full_node_fixture, :nonsense, [1])
      assert_receive {:DOWN, ^monitor, :process, _, {:undef, [{_, :nonsense, [1], _} | _]}}, 5_000
    end
  end

  describe "Process" do
    test "exits, and links both ways", %{node: node} do
      pid = Node.spawn(node, :full_node_fixture, :echo, [])
      monitor = Process.monitor(pid)
      Process.exit(pid, :normal)
      send(pid, {self(), :still_there})
      assert_receive {^pid, :still_there}, 5_000
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}, 5_000

      pid = Node.spawn(node, :full_node_fixture, :echo, [])
      monitor = Process.monitor(pid)
      {ours, :linked} = owner(fn -> Process.link(pid) && :linked end)
      Process.exit(ours, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}, 5_000

      pid = Node.spawn(node, :full_node_fixture, :echo, [])
      monitor = Process.monitor(pid)
      Process.demonitor(monitor, [:flush])
      Process.exit(pid, :kill)
      monitor = Process.monitor(pid)
      assert_receive {:DOWN, ^monitor, :process, ^pid, reason}, 5_000
      assert reason in [:killed, :noproc]
    end
  end

  describe "GenServer" do
    test "calls, casts and replies", %{counter: counter, node: node} do
      assert GenServer.cast(counter, 40) == :ok
      assert GenServer.call(counter, {:add, 2}) == 42
      assert GenServer.call(counter, :later) == "later"
      assert GenServer.abcast([node], :counter, 1) == :abcast
      assert {[{^node, 3}], []} = GenServer.multi_call([node], :counter, {:add, 2})

      assert {[], [:"nobody@127.0.0.1"]} =
               GenServer.multi_call([:"nobody@127.0.0.1"], :counter, {:add, 2})

      pid = :erpc.call(node, :erlang, :whereis, [:counter])
      assert GenServer.call(pid, {:add, 1}) == 4

      request = :gen_server.send_request(counter, {:add, 1})
      assert :gen_server.receive_response(request, 5_000) == {:reply, 5}
    end

    test "times out, and exits if there is none", %{counter: counter, node: node} do
      assert {:timeout, {GenServer, :call, _}} = catch_exit(GenServer.call(counter, :never, 10))
      assert {:noproc, _} = catch_exit(GenServer.call({:nobody, node}, 1))
    end

    test "exits with the exception that its handler has raised", %{node: node} do
      name = :"failing_#{System.unique_integer([:positive])}"
      assert :ok = :erpc.call(node, :full_node_fixture, :start, [Atom.to_string(name)])
      {reason, {GenServer, :call, _}} = catch_exit(GenServer.call({name, node}, :fail))
      assert {%SnakeBridge.PythonError{type: "ZeroDivisionError"}, _stack} = reason
      assert Exception.format_exit(reason) =~ "ZeroDivisionError"
      assert {:noproc, _} = catch_exit(GenServer.call({name, node}, {:add, 1}))
    end

    test "is seen by :sys, and stopped by GenServer.stop", %{node: node} do
      name = :"seen_#{System.unique_integer([:positive])}"
      assert :ok = :erpc.call(node, :full_node_fixture, :start, [Atom.to_string(name)])
      server = {name, node}
      assert :sys.get_state(server) == %{value: 0}
      assert {:status, _pid, {:module, _}, [_, :running, _, _, _]} = :sys.get_status(server)
      assert :sys.replace_state(server, fn state -> %{state | value: 7} end) == %{value: 7}
      assert :sys.suspend(server) == :ok
      assert {:timeout, _} = catch_exit(GenServer.call(server, {:add, 1}, 50))
      assert :sys.resume(server) == :ok
      assert GenServer.call(server, {:add, 1}) == 9
      assert GenServer.stop(server) == :ok
      assert {:noproc, _} = catch_exit(GenServer.call(server, {:add, 1}))
    end
  end

  describe ":erpc and :rpc" do
    test "call Python functions", %{node: node} do
      assert :erpc.call(node, :math, :sqrt, [16]) == 4.0
      assert :erpc.call(node, :full_node_fixture, :asynchronous, ["value"]) == "value"
      assert :rpc.call(node, :math, :sqrt, [16]) == 4.0
      assert :erpc.multicall([node, node], :math, :sqrt, [16]) == [{:ok, 4.0}, {:ok, 4.0}]
      assert :rpc.multicall([node], :math, :sqrt, [16]) == {[4.0], []}
    end

    test "tell of exceptions, exits, timeouts and what is not there", %{node: node} do
      error = catch_error(:erpc.call(node, :full_node_fixture, :fail, ["why"]))
      assert {:exception, %SnakeBridge.PythonError{message: "why"}, [_ | _]} = error
      assert {:exception, :bye} = catch_exit(:erpc.call(node, :full_node_fixture, :leave, [:bye]))

      assert {:exception, :undef, [{:math, :nonsense, [], []}]} =
               catch_error(:erpc.call(node, :math, :nonsense, []))

      assert {:erpc, :timeout} = catch_error(:erpc.call(node, :time, :sleep, [60], 10))
      assert {:badrpc, {:EXIT, {:undef, _}}} = :rpc.call(node, :math, :nonsense, [])
      assert {:badrpc, :timeout} = :rpc.call(node, :time, :sleep, [60], 10)
    end
  end
end
