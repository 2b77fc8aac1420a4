defmodule SnakeBridgeTest do
  use SnakeBridge.Case

  alias SnakeBridge.{Bytes, InvalidRefError, NodeUnavailableError, Ref, SessionContext}

  doctest SnakeBridge
  doctest SnakeBridge.SessionContext
  doctest SnakeBridge.SessionManager
  doctest SnakeBridge.Types
  doctest SnakeBridge.ErrorTranslator

  describe "call" do
    test "takes names as strings and atoms, and dotted ones" do
      assert {:ok, 3} = SnakeBridge.call(:operator, :add, [1, 2])
      assert {:ok, "/a/b"} = SnakeBridge.call("os.path", "join", ["/a", "b"])
      assert {:ok, "/a/b"} = SnakeBridge.call("os", "path.join", ["/a", "b"])
    end

    test "takes keyword arguments as a map or a keyword list" do
      for kwargs <- [[default: 1], %{default: 1}, %{"default" => 1}] do
        assert {:ok, 1} = SnakeBridge.call("builtins", "max", [[]], kwargs: kwargs)
      end
    end

    test "awaits a coroutine" do
      assert SnakeBridge.call("harness_fixture", "later", [7]) == {:ok, 7}
    end

    test "refuses options that do not exist, and says which" do
      assert_raise ArgumentError, ~r/\[:time_out\]/, fn ->
        SnakeBridge.call("math", "sqrt", [16], time_out: 5)
      end

      assert_raise ArgumentError, ~r/\[:kwargs\]/, fn ->
        SnakeBridge.get("math", "pi", kwargs: [])
      end

      ref = SnakeBridge.put!(1)

      assert_raise ArgumentError, ~r/\[:node\]/, fn ->
        SnakeBridge.method(ref, "bit_length", [], node: :nowhere@nowhere)
      end

      assert_raise ArgumentError, ~r/\[:colour\]/, fn -> SessionContext.create(colour: 1) end
    end

    test "takes the first of several options of a name" do
      opts = [timeout: 5_000, kwargs: [default: 1, default: 2]] ++ [timeout: 0, kwargs: []]
      assert SnakeBridge.call("builtins", "max", [[]], opts) == {:ok, 1}
      assert SessionContext.create([ttl_seconds: 1] ++ [ttl_seconds: 2]).ttl_seconds == 1
    end

    test "refuses options with wrong values, before anything is sent" do
      for {option, sentence} <- [
            {{:timeout, -1}, ~r/:timeout must be :infinity or milliseconds.*not -1/},
            {{:timeout, 1.5}, ~r/:timeout must be/},
            {{:timeout, nil}, ~r/:timeout must be/},
            {{:timeout, 4_294_967_296}, ~r/:timeout must be.*4294967295/},
            {{:node, "py@127.0.0.1"}, ~r/:node must be the name of a node, an atom/},
            {{:session_id, 7}, ~r/:session_id must be a string/},
            {{:kwargs, :none}, ~r/:kwargs must be a map or a keyword list/}
          ] do
        assert_raise ArgumentError, sentence, fn ->
          SnakeBridge.call("math", "sqrt", [16], [option])
        end
      end

      assert_raise ArgumentError, ~r/a keyword list, not %\{\}/, fn -> SnakeBridge.info(%{}) end

      assert_raise ArgumentError, ~r/:owner_pid must be a pid, not nil/, fn ->
        SessionContext.with_session([owner_pid: nil], fn -> flunk("not reached") end)
      end

      assert_raise ArgumentError, ~r/:session_id must be a string, not :mine/, fn ->
        SessionContext.with_session([session_id: :mine], fn -> flunk("not reached") end)
      end

      for max_batch <- [0, :many] do
        assert_raise ArgumentError, ~r/:max_batch must be/, fn ->
          SnakeBridge.stream(SnakeBridge.put!([]), max_batch: max_batch)
        end
      end
    end

    test "refuses nil and booleans as names" do
      for name <- [nil, true, false] do
        assert_raise FunctionClauseError, fn -> SnakeBridge.call(name, "sqrt", [16]) end
        assert_raise FunctionClauseError, fn -> SnakeBridge.get("math", name) end
      end
    end

    test "says which node there is not" do
      node = :"nobody@127.0.0.1"

      assert {:error, %NodeUnavailableError{node: ^node, reason: :nodedown} = error} =
               SnakeBridge.call("math", "sqrt", [16], node: node)

      assert Exception.message(error) =~ "pynode serve --name nobody@127.0.0.1"
      assert {:error, %NodeUnavailableError{}} = SnakeBridge.info(node: :no_host)
      assert_raise NodeUnavailableError, fn -> SnakeBridge.get!("math", "pi", node: node) end
    end

    test "says that a BEAM node is no Python node" do
      assert {:error, %NodeUnavailableError{reason: :noproc} = error} =
               SnakeBridge.info(node: node())

      assert Exception.message(error) =~ "pynode serve"
    end

    test "times out, and the connection goes on" do
      assert {:error, %SnakeBridge.CallTimeoutError{timeout: 20} = error} =
               SnakeBridge.call("time", "sleep", [0.2], timeout: 20)

      assert Exception.message(error) =~ "cancel_on_timeout"
      assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16])
      refute_received _late_answer
    end
  end

  describe "bang functions" do
    test "return or raise" do
      assert SnakeBridge.call!("math", "sqrt", [16]) == 4.0
      assert SnakeBridge.get!("math", "tau") > 6.28
      object = SnakeBridge.call!("types", "SimpleNamespace", [], kwargs: [a: 1])
      assert SnakeBridge.attr!(object, "a") == 1
      assert SnakeBridge.set_attr!(object, "a", [2]) == :ok
      assert SnakeBridge.attr!(object, "a") == [2]

      assert_raise SnakeBridge.PythonError, ~r/^AttributeError: /, fn ->
        SnakeBridge.method!(object, "nothing")
      end
    end
  end

  describe "refs" do
    test "tell what they stand for" do
      ref = SnakeBridge.call!("collections", "Counter", ["abracadabra"])

      assert %Ref{
               python_module: "collections",
               library: "collections",
               type_name: "Counter",
               schema: 1
             } = ref

      assert ref.session_id == SnakeBridge.current_session()
      assert node(ref.id) == SnakeBridge.PythonNode.node()

      assert inspect(ref) ==
               "#SnakeBridge.Ref<Counter in collections, #{ref.session_id} on #{node(ref.id)}>"
    end

    test "travel as arguments, also inside of containers" do
      left = SnakeBridge.call!("collections", "Counter", ["aab"])
      right = SnakeBridge.call!("collections", "Counter", ["abc"])

      sum =
        SnakeBridge.call!("functools", "reduce", [
          SnakeBridge.get!("operator", "add"),
          [left, right]
        ])

      assert SnakeBridge.method!(sum, "total") == 6
    end

    test "anything else is refused with a sentence" do
      for no_ref <- [nil, "ref", %{"__type__" => "ref", "id" => "a1"}, %Ref{id: "a1"}] do
        assert {:error, %InvalidRefError{reason: :not_a_ref} = error} =
                 SnakeBridge.method(no_ref, "upper")

        assert Exception.message(error) =~ "is no ref"
        assert {:error, %InvalidRefError{}} = SnakeBridge.release_ref(no_ref)
        assert {:error, %InvalidRefError{}} = SnakeBridge.release_ref([no_ref])
      end
    end

    test "are released in lists, and none if one of them is no ref" do
      refs = for number <- 1..3, do: SnakeBridge.put!(number)
      assert {:error, %InvalidRefError{}} = SnakeBridge.release_ref(refs ++ ["ref"])
      assert SnakeBridge.release_ref(refs) == {:ok, 3}
      assert SnakeBridge.release_ref([]) == {:ok, 0}
    end

    test "ref?/1 and bytes/1" do
      assert SnakeBridge.ref?(SnakeBridge.call!("itertools", "count"))
      refute SnakeBridge.ref?(%{"__type__" => "ref"})
      assert SnakeBridge.bytes("abc") == %Bytes{data: "abc"}
    end
  end

  describe "introspection" do
    test "shows the node, the sessions and their refs" do
      id = unique("seen")

      SessionContext.with_session([session_id: id, tags: %{"job" => 7}, max_refs: 9], fn ->
        SnakeBridge.call!("collections", "Counter")
      end)

      assert {:ok, %{node: node, sessions: sessions, refs: refs, creation: _, uptime: _}} =
               SnakeBridge.info()

      assert node == SnakeBridge.PythonNode.node()
      assert sessions >= 1 and refs >= 1

      assert {:ok, session} = SnakeBridge.session(id)
      assert session.owners == [self()]
      assert %{refs: 1, max_refs: 9, ttl_seconds: 0, on_full: :evict, running: 0} = session
      assert session.tags == %{"job" => 7}
      assert_in_delta session.created_at, System.system_time(:second), 60

      assert {:ok, %{^id => ^session}} = SnakeBridge.sessions()
      assert {:ok, [%{ref: %Ref{session_id: ^id}, type_name: "Counter"}]} = SnakeBridge.refs(id)
    end
  end

  describe "configuration" do
    test "without a Python node says what to configure" do
      assert {:ok, node} = SnakeBridge.Config.default_node()
      python = Application.get_env(:snakebridge, :python)
      SnakeBridge.Config.delete_default_node()

      try do
        # It is configured, and so it must have failed, or have been stopped.
        assert {:error, %NodeUnavailableError{reason: :not_running} = error} = SnakeBridge.info()
        assert Exception.message(error) =~ "Application.ensure_all_started(:snakebridge)"

        Application.delete_env(:snakebridge, :python)

        assert {:error, %NodeUnavailableError{reason: :not_configured} = error} =
                 SnakeBridge.call("math", "sqrt", [16])

        assert Exception.message(error) =~ "config :snakebridge"
      after
        Application.put_env(:snakebridge, :python, python)
        SnakeBridge.Config.put_default_node(node)
      end
    end

    test "is checked, and each problem named" do
      for {key, value, sentence} <- [
            {:python, %{}, ~r/a keyword list, not %\{\}/},
            {:python, [args: "--allow"], ~r/:args must be a list of strings, not "--allow"/},
            {:python, [cd: "/no/where"], ~r/:cd must be a directory that exists/},
            {:python, [shutdown: "5"], ~r/:shutdown must be :infinity, :brutal_kill or/},
            {:python, [cookie: "secret"], ~r/:cookie must be an atom/},
            {:python, [start_timeout: 0], ~r/:start_timeout must be/},
            {:python, [env: %{}], ~r/:env must be a list such as/},
            {:python, [node: :py], ~r/:node must have a host.*not :py/},
            {:cookie, "secret", ~r/cookie: ...` must be the cookie, an atom, not "secret"/},
            {:node, "py@gpu1", ~r/node: ...` must be the name of a node/},
            {:timeout, "soon", ~r/:timeout must be/}
          ] do
        before = Application.fetch_env(:snakebridge, key)
        Application.put_env(:snakebridge, key, value)

        try do
          assert_raise ArgumentError, sentence, &SnakeBridge.Config.check!/0
        after
          case before do
            {:ok, value} -> Application.put_env(:snakebridge, key, value)
            :error -> Application.delete_env(:snakebridge, key)
          end
        end
      end

      assert SnakeBridge.Config.check!() == :ok
    end

    test "reads limits from the environment" do
      System.put_env("SNAKEBRIDGE_REF_MAX", "17")
      System.put_env("SNAKEBRIDGE_REF_TTL_SECONDS", "soon")

      try do
        assert SnakeBridge.Config.max_refs() == 17

        assert_raise ArgumentError, ~r/SNAKEBRIDGE_REF_TTL_SECONDS is "soon"/, fn ->
          SessionContext.create()
        end
      after
        System.delete_env("SNAKEBRIDGE_REF_MAX")
        System.delete_env("SNAKEBRIDGE_REF_TTL_SECONDS")
      end
    end
  end
end
