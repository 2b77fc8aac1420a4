defmodule SnakeBridge.PythonErrorsTest do
  use SnakeBridge.Case, async: true

  alias SnakeBridge.{InvalidRequestError, PythonError}

  test "an exception tells type, message and traceback" do
    assert {:error, %PythonError{type: "ValueError", message: "math domain error"} = error} =
             SnakeBridge.call("math", "sqrt", [-1])

    assert Exception.message(error) == "ValueError: math domain error"

    assert {:error, %PythonError{type: "statistics.StatisticsError"} = error} =
             SnakeBridge.call("statistics", "mean", [[]])

    assert error.traceback =~ "Traceback (most recent call last)"
    assert error.traceback =~ "statistics.py"
    refute error.traceback =~ "bridge.py"
    assert Exception.message(error) =~ error.message
    assert Exception.message(error) =~ "statistics.py"
  end

  test "notes and causes are there" do
    assert {:error, %PythonError{notes: ["Try another one."]} = error} =
             SnakeBridge.call("harness_fixture", "failing_with_note")

    assert error.traceback =~ "harness_fixture.py"
    assert error.traceback =~ "KeyError: 'cause'"
    assert Exception.message(error) =~ "ValueError: bad value\nTry another one.\n"
  end

  test "the exception itself is an object" do
    assert {:error, %PythonError{ref: ref}} = SnakeBridge.call("json", "loads", ["{oops"])

    assert SnakeBridge.attr(ref, "pos") == {:ok, 1}
    assert SnakeBridge.attr(ref, "doc") == {:ok, "{oops"}
  end

  test "an exception of a module is named with it" do
    assert {:error, %PythonError{type: "json.decoder.JSONDecodeError"}} =
             SnakeBridge.call("json", "loads", ["{oops"])
  end

  test "a module that is not there is named" do
    assert {:error, %PythonError{type: "ModuleNotFoundError"} = error} =
             SnakeBridge.call("no_such_module", "f")

    assert Exception.message(error) =~ "no_such_module"
  end

  test "a function that is not there is named" do
    assert {:error, %PythonError{type: "AttributeError", message: message}} =
             SnakeBridge.call("math", "squirt", [16])

    assert message =~ "squirt"
  end

  test "wrong arity is a TypeError that names the function" do
    assert {:error, %PythonError{type: "TypeError", message: message}} =
             SnakeBridge.call("math", "sqrt", [])

    assert message =~ "sqrt"

    assert {:error, %PythonError{type: "TypeError", message: message}} =
             SnakeBridge.call("json", "dumps", [1, 2, 3])

    assert message =~ "dumps"

    assert {:error, %PythonError{type: "TypeError", message: message}} =
             SnakeBridge.call("json", "loads", ["1"], kwargs: [colour: 1])

    assert message =~ "colour"
  end

  test "what is no function is a TypeError" do
    assert {:error, %PythonError{type: "TypeError"}} = SnakeBridge.call("math", "pi")
  end

  test "SystemExit and KeyboardInterrupt end the call, not the node" do
    pid = SnakeBridge.PythonNode.os_pid()

    for {module, function} <- [{"sys", "exit"}, {"_thread", "exit"}] do
      assert {:error, %PythonError{type: "SystemExit"}} = SnakeBridge.call(module, function)
    end

    assert {:error, %PythonError{type: "KeyboardInterrupt"}} =
             SnakeBridge.call("builtins", "exec", ["raise KeyboardInterrupt"])

    assert SnakeBridge.PythonNode.os_pid() == pid
    assert SnakeBridge.call("math", "sqrt", [16]) == {:ok, 4.0}
  end

  test "recursion without end is an error" do
    assert {:error, %PythonError{type: "RecursionError"}} =
             SnakeBridge.call("builtins", "exec", ["def f(): f()\nf()", %{}])
  end

  test "requests that the protocol does not know are refused" do
    {:ok, node} = SnakeBridge.Config.default_node()

    for request <- [:nonsense, {:nonsense}, {:call, "math"}, "text", {}, {:call, 1, 2, 3, 4}] do
      assert {:error, %InvalidRequestError{} = error} =
               GenServer.call({:snakebridge, node}, request)

      assert is_binary(error.message)
    end
  end

  test "messages that are no calls do no harm" do
    {:ok, node} = SnakeBridge.Config.default_node()
    send({:snakebridge, node}, :hello)
    GenServer.cast({:snakebridge, node}, :hello)
    assert SnakeBridge.call("math", "sqrt", [16]) == {:ok, 4.0}
  end
end
