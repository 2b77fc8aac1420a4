defmodule SnakeBridge.TelemetryTest do
  # There is no :telemetry here, so the test makes one, for as long as it runs.
  use SnakeBridge.Case

  alias SnakeBridge.Telemetry

  setup do
    test = self()
    table = :ets.new(:telemetry_test, [:named_table, :public])
    true = :ets.insert(table, {:receiver, test})

    defmodule :telemetry do
      def execute(event, measurements, metadata) do
        [{:receiver, pid}] = :ets.lookup(:telemetry_test, :receiver)
        send(pid, {event, measurements, metadata})
        :ok
      end
    end

    Telemetry.setup()

    on_exit(fn ->
      :code.purge(:telemetry)
      :code.delete(:telemetry)
      Telemetry.setup()
    end)

    :ok
  end

  test "a call begins and ends" do
    assert Telemetry.enabled?()
    assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16])
    node = SnakeBridge.PythonNode.node()

    assert_received {[:snakebridge, :call, :start], %{system_time: _, monotonic_time: start},
                     metadata}

    assert metadata == %{
             node: node,
             request: :call,
             module: "math",
             function: "sqrt",
             session_id: nil
           }

    assert_received {[:snakebridge, :call, :stop], %{duration: duration, monotonic_time: stop},
                     ^metadata}

    assert duration > 0 and stop == start + duration
    refute_received {[:snakebridge, :call, _], _, _}
  end

  test "a call that fails ends with an exception" do
    ref = SnakeBridge.put!(1, session_id: "traced")
    assert {:error, error} = SnakeBridge.method(ref, "nothing", [], session_id: "traced")
    assert_received {[:snakebridge, :call, :exception], %{duration: _}, metadata}
    assert %{request: :method, module: nil, function: "nothing", session_id: "traced"} = metadata
    assert %{kind: :error, reason: ^error, stacktrace: []} = metadata
    SnakeBridge.release_session("traced")
  end

  test "what is sent is not taken for the name of a session" do
    id = %{session_id: "none"}
    assert {:ok, 1} = SnakeBridge.call("builtins", "len", [[1]], kwargs: [])
    assert {:error, _no_such_argument} = SnakeBridge.call("builtins", "len", [], kwargs: id)
    assert {:ok, ref} = SnakeBridge.put(id)
    assert {:error, _no_such_attribute} = SnakeBridge.set_attr(ref, "a", id)

    for request <- [:call, :call, :put, :setattr] do
      assert_received {[:snakebridge, :call, :start], _, %{request: ^request, session_id: nil}}
    end
  end

  test "options that name no session are seen as such" do
    assert {:ok, _pi} = SnakeBridge.Runtime.request({:get, "math", "pi", %{}}, [])
    assert_received {[:snakebridge, :call, :start], _, %{request: :get, session_id: nil}}
  end

  test "a call that crashes ends, too" do
    for kind <- [:error, :throw, :exit] do
      try do
        Telemetry.span(node(), :info, fn -> :erlang.raise(kind, :oops, []) end)
      catch
        ^kind, _reason -> :ok
      end

      assert_received {[:snakebridge, :call, :start], _, _}
      assert_received {[:snakebridge, :call, :exception], %{duration: _}, metadata}
      assert %{kind: ^kind, reason: :oops, stacktrace: _} = metadata
    end
  end

  test "every kind of request is seen" do
    ref = SnakeBridge.call!("types", "SimpleNamespace")
    SnakeBridge.get!("math", "pi")
    SnakeBridge.set_attr!(ref, "a", 1)
    SnakeBridge.attr!(ref, "a")
    SnakeBridge.release_ref(ref)
    SnakeBridge.sessions()

    for {request, module, function} <- [
          {:call, "types", "SimpleNamespace"},
          {:get, "math", "pi"},
          {:setattr, nil, "a"},
          {:getattr, nil, "a"},
          {:release, nil, nil},
          {:sessions, nil, nil}
        ] do
      assert_received {[:snakebridge, :call, :stop], _,
                       %{request: ^request, module: ^module, function: ^function}}
    end
  end

  test "is off where there is no such library" do
    :code.purge(:telemetry)
    :code.delete(:telemetry)
    Telemetry.setup()
    refute Telemetry.enabled?()
    assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16])
    refute_received {[:snakebridge, :call, _], _, _}
  end
end
