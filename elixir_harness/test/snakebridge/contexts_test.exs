defmodule SnakeBridge.ContextsTest do
  # Contexts in other processes, in other VMs, and longer than their session.
  use SnakeBridge.Case

  import ExUnit.CaptureLog

  alias SnakeBridge.{
    NodeUnavailableError,
    PythonNode,
    RefNotFoundError,
    SessionContext,
    SessionNotFoundError
  }

  @moduletag timeout: 120_000

  defp counter(opts \\ []), do: SnakeBridge.call!("collections", "Counter", [], opts)

  describe "with_session" do
    test "is left with the context that was there before, however it is left" do
      for leave <- [fn -> raise "error" end, fn -> throw(:thrown) end, fn -> exit(:exited) end] do
        SessionContext.with_session([session_id: unique("outer")], fn ->
          outer = SessionContext.current()

          try do
            SessionContext.with_session(fn ->
              assert SessionContext.current() != outer
              leave.()
            end)
          catch
            _kind, _reason -> :ok
          end

          assert SessionContext.current() == outer
          assert counter().session_id == outer.session_id
        end)

        assert SessionContext.current() == nil
      end
    end

    test "uses the session of a context as it is" do
      {:ok, context} = SessionContext.open(session_id: unique("mine"))
      {:ok, before} = SnakeBridge.session(context.session_id)

      ref = SessionContext.with_session(context, &counter/0)
      assert ref.session_id == context.session_id
      assert {:ok, %{owners: owners, refs: 1}} = SnakeBridge.session(context.session_id)
      assert owners == [self()] and owners == before.owners

      SnakeBridge.release_session(context.session_id)

      assert_raise SessionNotFoundError, ~r/was released/, fn ->
        SessionContext.with_session(context, &counter/0)
      end

      assert SessionContext.current() == nil
    end

    test "knows its session by name, too" do
      SessionContext.with_session([session_id: unique("named")], fn ->
        id = SnakeBridge.current_session()
        assert counter(session_id: id).session_id == id
        SnakeBridge.release_session(id)

        # It is not opened by an object, as one would be that never was.
        assert {:error, %SessionNotFoundError{reason: :session_released}} =
                 SnakeBridge.call("collections", "Counter", [], session_id: id)
      end)
    end

    test "has all its settings from the options and the environment" do
      settings = [
        max_refs: 7,
        ttl_seconds: 60,
        grace_seconds: 5,
        tags: %{"job" => 1},
        on_full: :error
      ]

      {:ok, context} = SessionContext.open(settings)
      assert Map.take(context, Keyword.keys(settings)) == Map.new(settings)
      assert {:ok, session} = SnakeBridge.session(context.session_id)
      assert Map.take(session, Keyword.keys(settings)) == Map.new(settings)
      assert session.absent == []
      assert {:ok, %{creation: creation}} = SnakeBridge.info()
      assert context.opened_on == creation

      System.put_env("SNAKEBRIDGE_GRACE_SECONDS", "3")
      assert SessionContext.create().grace_seconds == 3
    after
      System.delete_env("SNAKEBRIDGE_GRACE_SECONDS")
    end
  end

  describe "open" do
    test "returns what is wrong" do
      assert {:error, %NodeUnavailableError{}} = SessionContext.open(node: :"nobody@127.0.0.1")
      assert_raise ArgumentError, fn -> SessionContext.open(opened_on: 1) end
    end

    test "makes a session of an owner that is dead already, which has ended" do
      {pid, nil} = owner(fn -> nil end)
      kill(pid)
      {:ok, context} = SessionContext.open(owner_pid: pid)

      assert_raise SessionNotFoundError, ~r/ended with its last owner/, fn ->
        eventually(fn ->
          SessionContext.with_session(context, &counter/0)
          nil
        end)
      end
    end
  end

  describe "a context without a node" do
    test "says its session to the node that is called" do
      {:ok, node} = SnakeBridge.Config.default_node()
      python = Application.get_env(:snakebridge, :python)
      Application.delete_env(:snakebridge, :python)
      SnakeBridge.Config.delete_default_node()
      context = SessionContext.create()
      Application.put_env(:snakebridge, :python, python)
      SnakeBridge.Config.put_default_node(node)
      assert context.node == nil

      call = fn -> SnakeBridge.call("collections", "Counter") end

      assert {:error, %SessionNotFoundError{reason: :unknown}} =
               SessionContext.with_session(context, call)

      :ok = SnakeBridge.SessionManager.register_session(context.session_id, self())
      assert {:ok, ref} = SessionContext.with_session(context, call)
      assert ref.session_id == context.session_id

      assert {:ok, 0} =
               SessionContext.with_session(context, fn -> SnakeBridge.method(ref, "total") end)
    end
  end

  test "the context nil is none" do
    {:ok, context} = SessionContext.open()
    assert SessionContext.put_current(context) == nil
    assert SessionContext.put_current(nil) == context
    assert SessionContext.put_current(nil) == nil
    assert SessionContext.current() == nil
  end

  describe "a task" do
    test "has no context but the one that it is given" do
      SessionContext.with_session([session_id: unique("team")], fn ->
        context = SessionContext.current()
        assert Task.await(Task.async(&SessionContext.current/0)) == nil
        assert Task.await(Task.async(SessionContext.wrap(&SessionContext.current/0))) == context

        with_context = fn -> SessionContext.with_session(context, &SessionContext.current/0) end
        assert Task.await(Task.async(with_context)) == context
      end)
    end

    test "that uses a session does not own it: the session outlives the task" do
      {:ok, context} = SessionContext.open()
      make = fn -> {SessionContext.with_session(context, &counter/0), counter()} end
      {ref, own} = Task.await(Task.async(make))

      eventually(fn -> whereabouts(own) == :owner_down end)
      assert ref.session_id == context.session_id
      assert whereabouts(ref) == :there
      assert {:ok, %{owners: owners}} = SnakeBridge.session(context.session_id)
      assert owners == [self()]
    end

    test "is told when the owner dies, in the middle of a call and after it" do
      test = self()

      {owner, {context, ref}} =
        owner(fn ->
          {:ok, context} = SessionContext.open()
          {context, SessionContext.with_session(context, &counter/0)}
        end)

      task =
        Task.async(fn ->
          SessionContext.with_session(context, fn ->
            running = SnakeBridge.call("harness_fixture", "spin", [], timeout: :infinity)
            send(test, {self(), running})
            SnakeBridge.call("collections", "Counter")
          end)
        end)

      eventually(fn -> running(context.session_id) == 1 end)
      kill(owner)

      pid = task.pid
      assert_receive {^pid, {:error, %SessionNotFoundError{reason: :owner_down} = error}}, 5_000
      assert error.session_id == context.session_id
      assert {:error, ^error} = Task.await(task)
      assert whereabouts(ref) == :owner_down
    end
  end

  describe "wrap" do
    test "takes functions of none to three arguments, and gives back the caller's own context" do
      SessionContext.with_session([session_id: unique("wrapped")], fn ->
        id = SnakeBridge.current_session()
        zero = SessionContext.wrap(fn -> SnakeBridge.current_session() end)
        one = SessionContext.wrap(fn a -> {SnakeBridge.current_session(), a} end)
        two = SessionContext.wrap(fn a, b -> {SnakeBridge.current_session(), a, b} end)
        three = SessionContext.wrap(fn a, b, c -> {SnakeBridge.current_session(), a, b, c} end)
        raising = SessionContext.wrap(fn -> raise "error" end)

        SessionContext.with_session(fn ->
          inner = SessionContext.current()
          assert zero.() == id
          assert one.(1) == {id, 1}
          assert two.(1, 2) == {id, 1, 2}
          assert three.(1, 2, 3) == {id, 1, 2, 3}
          assert_raise RuntimeError, raising
          assert SessionContext.current() == inner
        end)
      end)

      assert_raise FunctionClauseError, fn ->
        SessionContext.wrap(fn _a, _b, _c, _d -> nil end)
      end
    end

    test "keeps a function that was made without a context without one" do
      implicit = SessionContext.wrap(fn -> counter().session_id end)
      assert SessionContext.with_session(implicit) =~ "auto_"
    end

    test "gives callbacks of Python's their session" do
      SessionContext.with_session([session_id: unique("callback")], fn ->
        add = fn number -> {SnakeBridge.current_session(), counter(), number + 1} end
        callback = SessionContext.wrap(add)
        assert {:ok, {id, ref, 42}} = SnakeBridge.call("harness_fixture", "apply", [callback, 41])
        assert id == SnakeBridge.current_session() and ref.session_id == id
      end)
    end
  end

  describe "a context on another BEAM node" do
    test "is used there, and ends with the process here" do
      {peer, _node} = start_peer()
      {owner, {:ok, context}} = owner(&SessionContext.open/0)
      assert {:ok, ref} = use_it(peer, context)
      assert ref.session_id == context.session_id
      kill(owner)
      eventually(fn -> whereabouts(ref) == :owner_down end)
      assert {:error, %SessionNotFoundError{reason: :owner_down}} = use_it(peer, context)
    end
  end

  defp use_it(peer, context) do
    call = ["collections", "Counter", ["aab"]]
    :peer.call(peer, SnakeBridge.Case, :under, [context, SnakeBridge, :call, call])
  end

  describe "a session that outlived its node" do
    setup do
      {:ok, python} = start_python([])
      %{python: python, node: PythonNode.node(python)}
    end

    test "is reported by each call, with one error and nothing else", %{
      python: python,
      node: node
    } do
      {:ok, context} = SessionContext.open(session_id: unique("lost"), node: node)
      id = context.session_id
      counter = SnakeBridge.call!("collections", "Counter", [], session_id: id, node: node)
      stream = SnakeBridge.call!("itertools", "count", [], session_id: id, node: node)
      crash(python)

      log =
        capture_log(fn ->
          SessionContext.with_session(context, fn ->
            for result <- [
                  SnakeBridge.call("math", "sqrt", [16]),
                  SnakeBridge.call("math", "sqrt", [16], session_id: id),
                  SnakeBridge.put(1),
                  SnakeBridge.method(counter, "total"),
                  SnakeBridge.call("builtins", "len", [counter])
                ] do
              assert {:error, %SessionNotFoundError{session_id: ^id} = error} = result
              assert error.reason == :node_restarted
              assert Exception.message(error) =~ ~r/^The session #{id} ended when .* restarted/
            end

            for call <- [
                  fn -> SnakeBridge.call!("math", "sqrt", [16]) end,
                  fn -> SnakeBridge.method!(counter, "total") end,
                  fn -> Enum.take(stream, 1) end
                ] do
              assert_raise SessionNotFoundError, ~r/restarted/, call
            end
          end)

          for ref <- [counter, stream] do
            assert {:error, %RefNotFoundError{} = error} = SnakeBridge.attr(ref, "__class__")
            assert error.ref_id == ref.id and error.session_id == id
            assert error.reason == :node_restarted
          end
        end)

      assert log == ""
      assert Process.info(self(), :messages) == {:messages, []}
      assert {:ok, %{sessions: 0}} = SnakeBridge.info(node: node)

      # It may be opened again, which makes another session: the context from before is no use there.
      {:ok, again} = SessionContext.open(session_id: id, node: node)
      assert again.opened_on != context.opened_on
      assert %{session_id: ^id} = SessionContext.with_session(again, &counter/0)

      assert {:error, %SessionNotFoundError{reason: :node_restarted}} =
               SessionContext.with_session(context, fn -> SnakeBridge.put(1) end)
    end

    test "if it was an implicit one, begins again", %{python: python, node: node} do
      lost = counter(node: node)
      crash(python)
      assert {:error, %RefNotFoundError{reason: :node_restarted}} = SnakeBridge.attr(lost, "n")
      assert whereabouts(counter(node: node)) == :there
    end

    test "is reported to other BEAM nodes, too", %{python: python, node: node} do
      {peer, _node} = start_peer()
      {:ok, context} = SessionContext.open(node: node)
      assert {:ok, _ref} = use_it(peer, context)
      crash(python)
      eventually(fn -> :peer.call(peer, SnakeBridge, :info, [[node: node]]) |> elem(0) == :ok end)
      assert {:error, %SessionNotFoundError{reason: :node_restarted}} = use_it(peer, context)
    end

    test "is known at once to who monitors the node", %{python: python, node: node} do
      monitor = Process.monitor({:snakebridge, node})
      crash(python)
      assert_receive {:DOWN, ^monitor, :process, {:snakebridge, ^node}, :noconnection}
      assert {:ok, _info} = SnakeBridge.info(node: node)
      assert Process.info(self(), :messages) == {:messages, []}
    end

    test "crashes a server that raises, once, and its successor has another",
         %{python: python, node: node} do
      start_supervised!({__MODULE__.Server, {node, self()}})
      assert_receive {:started, first, context}
      assert %{session_id: id} = GenServer.call(first, :count)
      assert id == context.session_id
      crash(python)

      log =
        capture_log(fn ->
          assert {{%SessionNotFoundError{session_id: ^id, reason: :node_restarted}, _trace},
                  _call} = catch_exit(GenServer.call(first, :count))

          assert_receive {:started, second, %{session_id: other}}, 5_000
          assert %{session_id: ^other} = GenServer.call(second, :count)
        end)

      assert [_once] = Regex.scan(~r/\[error\]/, log)
      refute_received {:started, _pid, _context}
    end

    test "is no cause for anybody to exit, whatever they do meanwhile",
         %{python: python, node: node} do
      test = self()

      # Each opens a session and works in it until it is lost, twice.
      tasks =
        for _ <- 1..8 do
          Task.async(fn ->
            errors = for _ <- 1..2, do: work(test, node)
            {errors, Process.info(self(), :messages)}
          end)
        end

      for _ <- 1..2 do
        for _ <- tasks, do: assert_receive(:working, 10_000)
        crash(python)
      end

      for {errors, messages} <- Task.await_many(tasks, 60_000) do
        assert messages == {:messages, []}

        for {context, error} <- errors do
          assert %SessionNotFoundError{reason: :node_restarted} = error
          assert error.session_id == context.session_id
        end
      end
    end

    # Returns what a call in the end says that is not about a node which is away.
    defp work(test, node) do
      context =
        eventually(fn ->
          case SessionContext.open(node: node) do
            {:ok, context} -> context
            {:error, %NodeUnavailableError{}} -> nil
          end
        end)

      {:ok, _ref} = SessionContext.with_session(context, &new/0)
      send(test, :working)
      error = SessionContext.with_session(context, fn -> eventually(fn -> failure(new()) end) end)
      {context, error}
    end

    defp new, do: SnakeBridge.call("collections", "Counter")

    defp failure({:ok, _ref}), do: nil
    defp failure({:error, %NodeUnavailableError{}}), do: nil
    defp failure({:error, error}), do: error
  end

  test "while its node is away, a context answers that at once" do
    {:ok, interpreter} = SnakeBridge.Interpreter.find(nil)
    held = Path.join(System.tmp_dir!(), unique("held_#{System.pid()}"))
    on_exit(fn -> File.rm(held) end)
    hold = "while [ -e #{held} ]; do sleep 0.01; done"
    {:ok, python} = start_python(executable: script("#{hold}; exec #{interpreter} \"$@\""))
    node = PythonNode.node(python)
    {:ok, context} = SessionContext.open(node: node)

    SessionContext.with_session(context, fn ->
      File.touch!(held)
      monitor = Process.monitor({:snakebridge, node})

      capture_log(fn ->
        kill_os_process(PythonNode.os_pid(python))
        assert_receive {:DOWN, ^monitor, :process, _name, :noconnection}, 5_000

        assert {:error, %NodeUnavailableError{node: ^node, reason: :nodedown}} =
                 SnakeBridge.call("math", "sqrt", [16], timeout: :infinity)

        File.rm!(held)

        assert %SessionNotFoundError{reason: :node_restarted} =
                 eventually(fn ->
                   case SnakeBridge.call("math", "sqrt", [16]) do
                     {:error, %NodeUnavailableError{}} -> nil
                     {:error, error} -> error
                   end
                 end)
      end)
    end)
  end

  describe "a lost connection" do
    test "is the end of the owners over there, and the error says so" do
      {ref, log} = disconnect(grace_seconds: 0)
      eventually(fn -> whereabouts(ref) == :owner_down end)
      assert {:error, error} = SnakeBridge.attr(ref, "n")
      assert Exception.message(error) =~ "or the connection to it was lost"
      assert log =~ "was lost and is back"
    end

    test "is not, within the session's grace_seconds" do
      {ref, _log} = disconnect(grace_seconds: 60)
      assert whereabouts(ref) == :there
      eventually(fn -> match?({:ok, %{absent: []}}, SnakeBridge.session(ref.session_id)) end)
      me = self()
      assert {:ok, %{owners: [^me], grace_seconds: 60}} = SnakeBridge.session(ref.session_id)
      SnakeBridge.release_session(ref.session_id)
    end

    defp disconnect(options) do
      node = PythonNode.node()
      ref = SessionContext.with_session(options, &counter/0)

      log =
        capture_log(fn ->
          Node.disconnect(node)
          eventually(fn -> node in Node.list(:connected) end)
          _ = :sys.get_state(PythonNode)
        end)

      {ref, log}
    end
  end

  # A server as the documentation of SessionContext has it.
  defmodule Server do
    use GenServer

    def start_link(arguments), do: GenServer.start_link(__MODULE__, arguments)

    @impl true
    def init({node, test}) do
      case SessionContext.open(node: node) do
        {:ok, context} ->
          send(test, {:started, self(), context})
          {:ok, context}

        {:error, error} ->
          {:stop, error}
      end
    end

    @impl true
    def handle_call(:count, _from, context) do
      count = fn -> SnakeBridge.call!("collections", "Counter", ["aab"]) end
      {:reply, SessionContext.with_session(context, count), context}
    end
  end
end
