defmodule SnakeBridge.LifecycleTest do
  # Who frees the objects: what happens when owners die, at whatever moment.
  use SnakeBridge.Case

  alias SnakeBridge.{SessionManager, SessionNotFoundError}

  defp counter, do: SnakeBridge.call!("collections", "Counter")

  describe "the implicit session" do
    test "comes with the first object, is named after its owner, and goes with it" do
      {pid, {before, ref, id}} =
        owner(fn ->
          SnakeBridge.call!("math", "sqrt", [16])
          before = SnakeBridge.current_session()
          {before, counter(), SnakeBridge.current_session()}
        end)

      assert before == nil
      assert ref.session_id == id
      assert id =~ ~r/^auto_<0\.\d+\.\d+>_\d{13}$/
      assert {:ok, %{owners: [^pid], refs: 1}} = SnakeBridge.session(id)
      assert {:ok, %{owners: [^pid]}} = SnakeBridge.session(pid)
      assert {:ok, [%{ref: ^ref}]} = SnakeBridge.refs(pid)

      kill(pid)
      eventually(fn -> whereabouts(ref) == :owner_down end)
      refute SessionManager.session_exists?(id)
      assert {:error, %SessionNotFoundError{reason: :owner_down}} = SnakeBridge.session(id)
    end

    test "is the current one, also beside one that was given away and is owned again" do
      {heir, nil} = owner(fn -> nil end)

      for _ <- 1..8 do
        given = counter().session_id
        :ok = SessionManager.give_away(given, heir)
        assert SnakeBridge.current_session() == nil
        :ok = SessionManager.add_owner(given, self())
        assert SnakeBridge.current_session() in [nil, counter().session_id]
        assert SnakeBridge.current_session() == counter().session_id
      end
    end

    test "is released by hand, and begins again" do
      first = counter()
      second = counter()
      assert SnakeBridge.release_auto_session() == {:ok, 2}
      assert SnakeBridge.release_auto_session() == {:ok, 0}
      assert SnakeBridge.current_session() == nil
      assert whereabouts(first) == :session_released
      assert whereabouts(second) == :session_released
      assert whereabouts(counter()) == :there
    end

    test "each process has its own, and they share no objects by accident" do
      {other, ref} = owner(&counter/0)
      assert ref.session_id != counter().session_id
      send(other, :stop)
      eventually(fn -> whereabouts(ref) == :owner_down end)
    end
  end

  describe "an owner that dies" do
    test "normally, by an error, by a signal, takes its objects along" do
      for reason <- [:normal, :shutdown, {:error, "with" <> "term"}, :kill] do
        {pid, ref} =
          owner(fn ->
            ref = counter()
            Process.flag(:trap_exit, false)
            ref
          end)

        if reason == :normal, do: send(pid, :stop), else: Process.exit(pid, reason)
        eventually(fn -> whereabouts(ref) == :owner_down end)
      end
    end

    test "while its call runs ends the call" do
      {pid, id} =
        owner(fn ->
          counter()
          SnakeBridge.current_session()
        end)

      test = self()

      caller =
        spawn(fn ->
          ref = counter()
          send(test, {:ref, ref})
          SnakeBridge.call("harness_fixture", "spin", [], timeout: :infinity)
        end)

      assert_receive {:ref, ref}, 5_000
      eventually(fn -> running(ref.session_id) == 1 end)
      kill(caller)
      eventually(fn -> whereabouts(ref) == :owner_down end)
      eventually(fn -> running(ref.session_id) == 0 end)
      assert SessionManager.session_exists?(id)
      kill(pid)
    end

    test "while its call waits behind another is not waited for" do
      id = unique("queue")
      test = self()
      :ok = SessionManager.register_session(id, self())

      spinning =
        Task.async(fn ->
          SnakeBridge.call("harness_fixture", "spin", [], session_id: id, timeout: :infinity)
        end)

      eventually(fn -> running(id) == 1 end)

      queued =
        spawn(fn ->
          send(test, {:own, counter()})
          SnakeBridge.call("collections", "Counter", [], session_id: id, timeout: :infinity)
        end)

      assert_receive {:own, own}, 5_000
      # Its second request has left when it waits again, and has arrived when another one has.
      eventually(fn -> Process.info(queued, :status) == {:status, :waiting} end)
      assert {:ok, %{refs: 0}} = SnakeBridge.session(id)

      kill(queued)
      eventually(fn -> whereabouts(own) == :owner_down end)
      assert running(id) == 1

      assert SnakeBridge.release_session(id) == {:ok, 0}
      assert {:error, %SessionNotFoundError{reason: :session_released}} = Task.await(spinning)
      refute SessionManager.session_exists?(id)
    end

    test "at any moment leaks nothing" do
      {:ok, %{sessions: sessions, refs: refs}} = settled()

      for round <- 1..100 do
        pid =
          spawn(fn ->
            for _ <- 1..20, do: SnakeBridge.call("collections", "Counter", ["abracadabra"])
          end)

        # From before the first request has left to after the last answer has come.
        for _ <- 1..(round * 20), do: :erlang.yield()
        Process.exit(pid, :kill)
      end

      eventually(fn -> match?({:ok, %{sessions: ^sessions, refs: ^refs}}, SnakeBridge.info()) end)
    end

    test "before its session is opened never has one" do
      {pid, nil} = owner(fn -> nil end)
      kill(pid)
      id = unique("stillborn")
      :ok = SessionManager.register_session(id, pid)
      eventually(fn -> not SessionManager.session_exists?(id) end)
    end
  end

  describe "owners on another BEAM node" do
    setup do
      {peer, node} = start_peer()
      %{peer: peer, node: node}
    end

    test "hold objects as well as local ones, and lose them with their node", context do
      python = SnakeBridge.PythonNode.node()
      id = unique("remote")
      remote = Node.spawn(context.node, :timer, :sleep, [:infinity])
      :ok = SessionManager.register_session(id, remote)
      ref = SnakeBridge.call!("collections", "Counter", [], session_id: id)

      {:ok, own} =
        :peer.call(context.peer, SnakeBridge, :call, [
          "collections",
          "Counter",
          [],
          [node: python]
        ])

      assert {:ok, %{owners: [^remote]}} = SnakeBridge.session(id)
      # The process that made it is gone already.
      eventually(fn -> whereabouts(own) == :owner_down end)
      assert whereabouts(ref) == :there

      :peer.stop(context.peer)
      eventually(fn -> whereabouts(ref) == :owner_down end)
      refute SessionManager.session_exists?(id)
    end

    test "are gone when their VM is killed", context do
      id = unique("remote")
      remote = Node.spawn(context.node, :timer, :sleep, [:infinity])
      :ok = SessionManager.register_session(id, remote)
      call = fn -> SnakeBridge.call("harness_fixture", "spin", [], session_id: id) end
      running = Task.async(call)
      eventually(fn -> running(id) == 1 end)

      os_pid = :peer.call(context.peer, :os, :getpid, [])
      Process.unlink(context.peer)
      kill_os_process(os_pid)

      # A call that runs for whoever lives on ends with it.
      assert {:error, %SessionNotFoundError{reason: :owner_down}} = Task.await(running)
      refute SessionManager.session_exists?(id)
    end

    test "may be killed there", context do
      id = unique("remote")
      remote = Node.spawn(context.node, :timer, :sleep, [:infinity])
      :ok = SessionManager.register_session(id, remote)
      assert SessionManager.session_exists?(id)
      Process.exit(remote, :kill)
      eventually(fn -> not SessionManager.session_exists?(id) end)
    end

    test "use refs that were sent to them", context do
      ref = SnakeBridge.call!("collections", "Counter", ["aab"])

      assert :peer.call(context.peer, SnakeBridge, :method, [ref, "most_common", [1]]) ==
               {:ok, [{"a", 2}]}
    end
  end

  # What is there when the sessions of earlier tests have gone.
  defp settled do
    eventually(fn ->
      {:ok, sessions} = SnakeBridge.sessions()

      alive =
        Enum.all?(sessions, fn {_id, session} -> Enum.all?(session.owners, &Process.alive?/1) end)

      if alive, do: SnakeBridge.info()
    end)
  end
end
