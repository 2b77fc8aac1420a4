defmodule SnakeBridge.SessionsTest do
  use SnakeBridge.Case

  alias SnakeBridge.{
    RefNotFoundError,
    SessionContext,
    SessionFullError,
    SessionManager,
    SessionMismatchError,
    SessionNotFoundError
  }

  defp counter(opts \\ []), do: SnakeBridge.call!("collections", "Counter", [], opts)

  describe "with_session" do
    test "is nested, and comes back after an exception" do
      SessionContext.with_session([session_id: "outer"], fn ->
        assert SnakeBridge.current_session() == "outer"

        assert_raise RuntimeError, fn ->
          SessionContext.with_session([session_id: "inner"], fn ->
            assert SnakeBridge.current_session() == "inner"
            assert counter().session_id == "inner"
            raise "out of here"
          end)
        end

        assert SnakeBridge.current_session() == "outer"
        assert counter().session_id == "outer"
      end)

      assert SessionContext.current() == nil
      assert counter().session_id =~ "auto_"
      assert SnakeBridge.release_session("outer") == {:ok, 1}
      assert SnakeBridge.release_session("inner") == {:ok, 1}
      assert SnakeBridge.release_session("inner") == {:ok, 0}
    end

    test "does not end the session, its owner does" do
      {pid, ref} = owner(fn -> SessionContext.with_session(&counter/0) end)
      assert whereabouts(ref) == :there
      assert {:ok, %{owners: [^pid]}} = SnakeBridge.session(ref.session_id)
      kill(pid)
      eventually(fn -> whereabouts(ref) == :owner_down end)
    end

    test "may have another owner than the process that runs it" do
      {pid, _} = owner(fn -> nil end)
      ref = SessionContext.with_session([owner_pid: pid], &counter/0)
      assert {:ok, %{owners: [^pid]}} = SnakeBridge.session(ref.session_id)
      kill(pid)
      eventually(fn -> whereabouts(ref) == :owner_down end)
    end

    test "has the node of the block around it" do
      node = SnakeBridge.PythonNode.node()
      assert SessionContext.create().node == node

      SessionContext.with_session([node: node], fn ->
        # As if the default node were another.
        SnakeBridge.Config.put_default_node(:"nobody@127.0.0.1")

        try do
          SessionContext.with_session(fn ->
            assert SessionContext.current().node == node
            assert counter().session_id == SnakeBridge.current_session()
          end)
        after
          SnakeBridge.Config.put_default_node(node)
        end
      end)
    end

    test "a context whose session is not open is no session" do
      SessionContext.put_current(SessionContext.create())
      assert {:error, %SessionNotFoundError{}} = SnakeBridge.call("collections", "Counter")
      context = SessionContext.clear_current()
      assert SessionManager.session_exists?(context.session_id) == false

      # One that is only named is opened by its first object.
      id = unique("named")
      assert counter(session_id: id).session_id == id
    end

    test "says what is wrong with a setting" do
      for {setting, sentence} <- [
            {{:max_refs, -1}, ~r/:max_refs must be a number of refs, .* not -1/},
            {{:max_refs, 1.5}, ~r/:max_refs must be/},
            {{:ttl_seconds, -1}, ~r/:ttl_seconds must be seconds, .* not -1/},
            {{:ttl_seconds, 1.0e10}, ~r/:ttl_seconds must be/},
            {{:grace_seconds, "long"}, ~r/:grace_seconds must be seconds/},
            {{:on_full, :explode}, ~r/:on_full must be :evict or :error, not :explode/},
            {{:tags, [job: 1]}, ~r/:tags must be a map/},
            {{:cancel_on_timeout, 1}, ~r/:cancel_on_timeout must be true or false/},
            {{:own_thread, "yes"}, ~r/:own_thread must be true or false/}
          ],
          open <- [
            &SessionContext.create/1,
            &SessionContext.open/1,
            &SessionContext.with_session(&1, fn -> flunk("not reached") end),
            &SessionManager.register_session(unique("wrong"), self(), &1)
          ] do
        assert_raise ArgumentError, sentence, fn -> open.([setting]) end
      end

      assert SessionContext.current() == nil
    end

    test "takes a setting that is nil as not given" do
      settings = SnakeBridge.Options.settings()
      {:ok, default} = SessionContext.open()
      {:ok, context} = SessionContext.open(Enum.map(settings, &{&1, nil}))
      assert Map.take(context, settings) == Map.take(default, settings)

      id = unique("nils")
      :ok = SessionManager.register_session(id, self(), Enum.map(settings, &{&1, nil}))
      {:ok, session} = SnakeBridge.session(id)
      assert %{max_refs: 10_000, ttl_seconds: 0, on_full: :evict, tags: %{}} = session
    end

    test "takes fractions of seconds, and zeros for no limit" do
      {:ok, context} = SessionContext.open(ttl_seconds: 0.5, grace_seconds: 0, max_refs: 0)
      {:ok, session} = SnakeBridge.session(context.session_id)
      assert %{ttl_seconds: 0.5, grace_seconds: 0, max_refs: 0} = session
    end

    test "is named by what can be an id, or its owner" do
      for id <- [nil, true, 7, ~c"id"],
          call <- [
            &SnakeBridge.session/1,
            &SnakeBridge.refs/1,
            &SnakeBridge.release_session/1,
            &SessionManager.session_exists?/1,
            &SessionManager.list_refs/1,
            &SessionManager.release_session/1,
            &SessionManager.register_ref(&1, 1),
            &SessionManager.register_ref(&1, %SnakeBridge.Ref{id: nil, session_id: &1})
          ] do
        assert_raise FunctionClauseError, fn -> call.(id) end
      end

      id = unique("atom")
      :ok = SessionManager.register_session(id, self())

      for name <- [id, String.to_atom(id)] do
        assert SessionManager.session_exists?(name)
        assert SessionManager.list_refs(name) == []
      end

      assert SnakeBridge.release_session(String.to_atom(id)) == {:ok, 0}
    end

    test "a context may be given to other processes" do
      context =
        SessionContext.with_session([session_id: unique("team")], &SessionContext.current/0)

      ref =
        Task.await(
          Task.async(fn ->
            SessionContext.put_current(context)
            counter()
          end)
        )

      # It lives in the session, not with the task.
      assert ref.session_id == context.session_id
      assert whereabouts(ref) == :there
      assert SessionManager.release_session(context.session_id) == :ok
      assert whereabouts(ref) == :session_released
    end

    test "after its release answers that it is gone" do
      SessionContext.with_session([session_id: unique("gone")], fn ->
        counter()
        {:ok, 1} = SnakeBridge.release_session(SnakeBridge.current_session())

        assert {:error, %SessionNotFoundError{reason: :session_released} = error} =
                 SnakeBridge.call("collections", "Counter")

        assert Exception.message(error) =~ error.session_id
      end)
    end

    test "with a thread of its own keeps to it" do
      # Calls of others, so that this session is not the only one to be served.
      others =
        for _ <- 1..4 do
          Task.async(fn -> for _ <- 1..50, do: SnakeBridge.call!("time", "sleep", [0.003]) end)
        end

      SessionContext.with_session([own_thread: true], fn ->
        db = SnakeBridge.call!("sqlite3", "connect", [":memory:"])
        SnakeBridge.method!(db, "execute", ["create table t (n integer)"])

        for n <- 1..50, do: SnakeBridge.method!(db, "execute", ["insert into t values (?)", [n]])

        threads = for _ <- 1..50, do: SnakeBridge.call!("threading", "get_ident")
        assert [_the_same] = Enum.uniq(threads)

        rows = SnakeBridge.method!(db, "execute", ["select sum(n) from t"])
        assert Enum.to_list(rows) == [{Enum.sum(1..50)}]
        SnakeBridge.release_session(SnakeBridge.current_session())
      end)

      Task.await_many(others, 30_000)
    end
  end

  describe "a session mismatch" do
    test "is found by method, attribute and argument" do
      ref = counter()
      own = ref.session_id
      id = unique("other")

      SessionContext.with_session([session_id: id], fn ->
        for result <- [
              SnakeBridge.method(ref, "total"),
              SnakeBridge.attr(ref, "total"),
              SnakeBridge.call("builtins", "len", [ref]),
              SnakeBridge.call("builtins", "len", [[ref]])
            ] do
          assert {:error, %SessionMismatchError{} = error} = result
          assert %{expected_session: ^own, actual_session: ^id} = error
          assert error.ref_id == ref.id
          assert Exception.message(error) =~ id
        end
      end)

      assert {:error, %SessionMismatchError{}} =
               SnakeBridge.method(ref, "total", [], session_id: id)

      assert {:error, %SessionMismatchError{}} = SessionManager.register_ref(id, ref)
      assert SnakeBridge.method(ref, "total") == {:ok, 0}
    end

    test "does not arise without an explicit session: a ref brings its own" do
      {pid, ref} = owner(&counter/0)
      assert {:ok, copy} = SnakeBridge.method(ref, "copy")
      assert copy.session_id == ref.session_id
      kill(pid)
      eventually(fn -> whereabouts(copy) == :owner_down end)
    end
  end

  describe "time to live" do
    test "is off: nothing expires that nobody asked to expire" do
      assert {:ok, %{ttl_seconds: 0}} = SnakeBridge.session(counter().session_id)
      assert SessionContext.create().ttl_seconds == 0
    end

    @tag timeout: 30_000
    test "lets go of what nobody used, and of nothing else" do
      ref = SessionContext.with_session([ttl_seconds: 1], fn -> counter() end)
      eternal = counter()
      session = ref.session_id

      # Looking at the session is no use of the ref.
      eventually(fn -> match?({:ok, []}, SnakeBridge.refs(session)) end)

      assert {:error, %RefNotFoundError{reason: :expired} = error} =
               SnakeBridge.method(ref, "total")

      assert Exception.message(error) =~ "ttl_seconds"
      assert SnakeBridge.method(eternal, "total") == {:ok, 0}
      assert SessionManager.session_exists?(session)
    end

    @tag timeout: 30_000
    test "begins anew with each use" do
      {used, unused} =
        SessionContext.with_session([ttl_seconds: 1], fn -> {counter(), counter()} end)

      eventually(fn ->
        assert SnakeBridge.method(used, "total") == {:ok, 0}
        {:ok, refs} = SnakeBridge.refs(used.session_id)
        unused not in Enum.map(refs, & &1.ref)
      end)

      assert SnakeBridge.method(used, "total") == {:ok, 0}
    end
  end

  describe "a full session" do
    test "lets the least recently used ref go" do
      SessionContext.with_session([max_refs: 3], fn ->
        [a, b, c] = for _ <- 1..3, do: counter()
        # Touched in the order b, a, c; so b is the first to go.
        for ref <- [b, a, c], do: SnakeBridge.method!(ref, "total")
        d = counter()

        assert {:error, %RefNotFoundError{reason: :evicted} = error} =
                 SnakeBridge.method(b, "total")

        assert Exception.message(error) =~ "max_refs"
        for ref <- [a, c, d], do: assert(SnakeBridge.method(ref, "total") == {:ok, 0})
        assert {:ok, %{refs: 3}} = SnakeBridge.session(SnakeBridge.current_session())
      end)
    end

    test "or refuses, and then nothing goes" do
      SessionContext.with_session([max_refs: 2, on_full: :error], fn ->
        refs = [a, _b] = for _ <- 1..2, do: counter()
        id = SnakeBridge.current_session()

        assert {:error, %SessionFullError{session_id: ^id, max_refs: 2} = error} =
                 SnakeBridge.call("collections", "Counter")

        assert Exception.message(error) =~ "max_refs"

        # An answer with several objects is refused as a whole.
        SnakeBridge.release_ref(a)
        assert {:error, %SessionFullError{}} = SnakeBridge.call("harness_fixture", "mixed")
        assert {:ok, %{refs: 1}} = SnakeBridge.session(id)
        assert [:released, :there] = Enum.map(refs, &gone/1)
        assert {:ok, _there_is_room} = SnakeBridge.call("collections", "Counter")
      end)
    end

    test "is nobody else's problem" do
      mine = counter()

      SessionContext.with_session([max_refs: 1], fn ->
        for _ <- 1..50, do: counter()
      end)

      assert SnakeBridge.method(mine, "total") == {:ok, 0}
    end

    defp gone(ref) do
      case SnakeBridge.method(ref, "total") do
        {:ok, 0} -> :there
        {:error, %RefNotFoundError{reason: reason}} -> reason
      end
    end
  end

  describe "several processes in one session" do
    test "take turns" do
      id = unique("shared")
      :ok = SessionManager.register_session(id, self())
      counter = counter(session_id: id)

      1..20
      |> Enum.map(fn _ ->
        Task.async(fn ->
          for _ <- 1..20 do
            # Read, add, write: only safe because no other call of the session runs in between.
            code = "import time; n = c['n']; time.sleep(0); c['n'] = n + 1"
            SnakeBridge.call!("builtins", "exec", [code, %{"c" => counter}], session_id: id)
          end
        end)
      end)
      |> Task.await_many(30_000)

      assert SnakeBridge.method(counter, "__getitem__", ["n"]) == {:ok, 400}
    end

    test "do not hold up other sessions" do
      id = unique("busy")
      :ok = SessionManager.register_session(id, self())
      task = Task.async(fn -> SnakeBridge.call("harness_fixture", "spin", [], session_id: id) end)
      eventually(fn -> running(id) == 1 end)
      assert SnakeBridge.call("math", "sqrt", [16]) == {:ok, 4.0}
      assert counter() |> SnakeBridge.method("total") == {:ok, 0}
      SnakeBridge.release_session(id)
      assert {:error, %SessionNotFoundError{reason: :session_released}} = Task.await(task)
    end

    test "own it together, until the last of them has gone" do
      id = unique("owned")
      {first, :ok} = owner(fn -> SessionManager.register_session(id, self(), max_refs: 7) end)
      {second, :ok} = owner(fn -> SessionManager.register_session(id, self(), max_refs: 8) end)
      ref = counter(session_id: id)

      assert {:ok, %{owners: owners, max_refs: 7}} = SnakeBridge.session(id)
      assert Enum.sort(owners) == Enum.sort([first, second])

      kill(first)
      eventually(fn -> match?({:ok, %{owners: [^second]}}, SnakeBridge.session(id)) end)
      assert whereabouts(ref) == :there
      kill(second)
      eventually(fn -> whereabouts(ref) == :owner_down end)
    end

    test "give it away" do
      id = unique("given")
      {heir, _} = owner(fn -> nil end)
      {giver, :ok} = owner(fn -> SessionManager.register_session(id, self()) end)
      ref = counter(session_id: id)

      assert {:error, %SnakeBridge.InvalidRequestError{reason: :not_owner}} =
               SessionManager.give_away(id, heir)

      assert :ok = SessionManager.give_away(id, heir, from: giver)
      kill(giver)
      assert {:ok, %{owners: [^heir]}} = SnakeBridge.session(id)
      assert whereabouts(ref) == :there
      kill(heir)
      eventually(fn -> whereabouts(ref) == :owner_down end)
    end

    test "are added to the owners of a session that is there, and to no other" do
      {maker, ref} = owner(&counter/0)
      {keeper, nil} = owner(fn -> nil end)
      id = ref.session_id

      # A process' implicit session, which its objects may so outlive.
      assert SessionManager.add_owner(id, keeper) == :ok
      assert SessionManager.add_owner(id, keeper) == :ok
      assert {:ok, %{owners: [^maker, ^keeper]}} = SnakeBridge.session(id)
      kill(maker)
      eventually(fn -> match?({:ok, %{owners: [^keeper]}}, SnakeBridge.session(id)) end)
      assert whereabouts(ref) == :there
      kill(keeper)
      eventually(fn -> whereabouts(ref) == :owner_down end)

      assert {:error, %SessionNotFoundError{session_id: ^id, reason: :owner_down}} =
               SessionManager.add_owner(id, self())

      assert {:error, %SessionNotFoundError{reason: :unknown}} =
               SessionManager.add_owner(unique("never"), self())
    end

    test "leave it while they live on, and the last one's leaving releases it" do
      id = unique("left")
      {other, :ok} = owner(fn -> SessionManager.register_session(id, self()) end)
      :ok = SessionManager.add_owner(id, self())
      ref = counter(session_id: id)

      assert SessionManager.remove_owner(id, other) == :ok
      me = self()
      assert {:ok, %{owners: [^me]}} = SnakeBridge.session(id)
      assert SessionManager.remove_owner(id, other) == :ok
      kill(other)
      assert whereabouts(ref) == :there

      assert SessionManager.remove_owner(id, self()) == :ok
      assert whereabouts(ref) == :session_released
      assert SessionManager.remove_owner(id, self()) == :ok
    end

    test "that are dead already keep nothing alive" do
      {dead, nil} = owner(fn -> nil end)
      kill(dead)
      id = unique("left")
      :ok = SessionManager.register_session(id, self())
      ref = counter(session_id: id)
      assert SessionManager.add_owner(id, dead) == :ok
      assert SessionManager.remove_owner(id, self()) == :ok
      eventually(fn -> whereabouts(ref) in [:owner_down, :session_released] end)
    end

    test "use a ref that was sent to them" do
      {pid, ref} = owner(&counter/0)

      {user, result} =
        owner(fn ->
          SnakeBridge.method!(ref, "update", [["a", "a", "b"]])
          # Its own session has come into being with nothing but itself in it.
          {SnakeBridge.method!(ref, "total"), SnakeBridge.current_session()}
        end)

      assert result == {3, nil}
      kill(user)
      assert SnakeBridge.method(ref, "total") == {:ok, 3}
      kill(pid)
      eventually(fn -> whereabouts(ref) == :owner_down end)
    end
  end

  describe "callbacks" do
    test "of Python into Elixir may call the same session" do
      id = unique("callback")

      SessionContext.with_session([session_id: id], fn ->
        context = SessionContext.current()

        callback = fn number ->
          SessionContext.put_current(context)
          SnakeBridge.call!("operator", "add", [number, 1])
        end

        assert SnakeBridge.call("harness_fixture", "apply", [callback, 41]) == {:ok, 42}
      end)
    end
  end

  describe "stopping calls" do
    test "a caller that gives up cancels, if its session says so" do
      SessionContext.with_session([cancel_on_timeout: true], fn ->
        id = SnakeBridge.current_session()

        assert {:error, %SnakeBridge.CallTimeoutError{}} =
                 SnakeBridge.call("harness_fixture", "spin", [], timeout: 50)

        eventually(fn -> running(id) == 0 end)
        assert SnakeBridge.call("math", "sqrt", [16]) == {:ok, 4.0}
      end)
    end

    test "cancel/1 stops what runs for a process" do
      {pid, id} =
        owner(fn ->
          counter()
          SnakeBridge.current_session()
        end)

      test = self()

      caller =
        spawn(fn ->
          send(test, {self(), SnakeBridge.call("harness_fixture", "spin", [], session_id: id)})
        end)

      eventually(fn -> running(id) == 1 end)
      assert SnakeBridge.cancel(caller) == :ok
      assert_receive {^caller, {:error, %SnakeBridge.PythonError{} = error}}, 5_000
      assert error.type == "pynode.CallInterrupted"
      eventually(fn -> running(id) == 0 end)
      kill(pid)
    end
  end

  describe "SessionManager" do
    test "registers refs" do
      id = unique("refs")
      :ok = SessionManager.register_session(id, self())
      ref = counter(session_id: id)
      assert SessionManager.register_ref(id, ref) == :ok
      assert SessionManager.register_ref(id, %{"any" => "term"}) == :ok
      assert [%SnakeBridge.Ref{}, %SnakeBridge.Ref{}] = refs = SessionManager.list_refs(id)
      assert ref in refs
      assert SessionManager.release_session(id) == :ok
      assert SessionManager.list_refs(id) == []
      assert SessionManager.release_session(id) == :ok
      assert SessionManager.list_refs(unique("never")) == []
    end

    test "raises where it cannot answer" do
      assert_raise SnakeBridge.NodeUnavailableError, fn ->
        SessionManager.session_exists?("any", node: :"nobody@127.0.0.1")
      end

      assert_raise SnakeBridge.NodeUnavailableError, fn ->
        SessionManager.list_refs("any", node: :"nobody@127.0.0.1")
      end
    end
  end
end
