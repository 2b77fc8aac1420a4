defmodule SnakeBridge.ErrorsTest do
  # What needs no Python.
  use ExUnit.Case, async: true

  alias SnakeBridge.ErrorTranslator

  @exceptions [
    SnakeBridge.RefNotFoundError,
    SnakeBridge.SessionNotFoundError,
    SnakeBridge.SessionMismatchError,
    SnakeBridge.SessionFullError,
    SnakeBridge.InvalidRefError,
    SnakeBridge.InvalidRequestError,
    SnakeBridge.NotAllowedError,
    SnakeBridge.NodeUnavailableError,
    SnakeBridge.CallTimeoutError
  ]

  test "each exception has a message, its own or a sentence made of its fields" do
    for exception <- @exceptions do
      assert Exception.message(exception.exception("as told")) == "as told"
      assert Exception.message(exception.exception([])) =~ ~r/.{10,}: .+\.$/
    end
  end

  test "a Python exception shows what there is of it" do
    message = &Exception.message(struct(SnakeBridge.PythonError, &1))
    assert message.(type: "E", message: "m") == "E: m"
    assert message.(type: "E") == "E"
    assert message.(message: "m") == "m"
    assert message.(type: "E", message: "m", notes: ["a", "b"]) == "E: m\na\nb"
    assert message.(type: "E", message: "m", traceback: "E: m\n") == "E: m"
    frames = "Traceback (most recent call last):\n  File \"f\"\nE: m\n"

    assert message.(type: "E", message: "m", traceback: frames) ==
             "E: m\n\n" <> String.trim(frames)

    assert message.(type: "E", message: "m", notes: nil, traceback: "") == "E: m"
  end

  describe "translate" do
    test "leaves exceptions as they are" do
      error = %SnakeBridge.RefNotFoundError{reason: :released, message: "m"}
      assert ErrorTranslator.translate(error) == error
      assert ErrorTranslator.translate({:error, error}) == error
    end

    test "knows the exits of a call" do
      for {reason, expected} <- [
            {:noproc, :noproc},
            {{:nodedown, :"py@127.0.0.1"}, :nodedown},
            {:noconnection, :nodedown},
            {:killed, :killed}
          ] do
        call = {GenServer, :call, [{:snakebridge, :"py@127.0.0.1"}, :info, 100]}

        assert %SnakeBridge.NodeUnavailableError{node: :"py@127.0.0.1", reason: ^expected} =
                 error = ErrorTranslator.translate({reason, call})

        assert Exception.message(error) =~ "py@127.0.0.1"
      end
    end

    test "knows plain maps" do
      assert %SnakeBridge.PythonError{type: "KeyError", message: "m", notes: ["n"]} =
               ErrorTranslator.translate(%{type: "KeyError", message: "m", notes: ["n"]})
    end

    test "wraps what it does not know" do
      assert %ErlangError{original: :strange} = ErrorTranslator.translate(:strange)
    end
  end

  describe "log lines of Python" do
    alias SnakeBridge.PythonLog

    defp log(lines) do
      {logged, _memory} =
        Enum.map_reduce(lines, %PythonLog{}, fn line, memory ->
          {level, text, memory} = PythonLog.line(line, memory)
          {{level, text}, memory}
        end)

      logged
    end

    test "are text, whatever Python wrote" do
      assert log([<<"caf", 0xE9, "!">>, <<0xFF, 0xFE>>]) == [
               {:info, "caf\uFFFD!"},
               {:info, "\uFFFD"}
             ]
    end

    test "have the level that Python gave them, and so has their traceback" do
      assert log([
               "2026-11-21 22:10:15,621 INFO pynode.node: connected",
               "printed",
               "2026-11-21 22:10:15,622 WARNING a: careful",
               "Traceback (most recent call last):",
               "  File \"x.py\", line 1",
               "ValueError: 1",
               "printed",
               "  indented",
               "Traceback (most recent call last):",
               "  File \"x.py\", line 1",
               "ValueError: 2"
             ]) == [
               {:info, "pynode.node: connected"},
               {:info, "printed"},
               {:warning, "a: careful"},
               {:warning, "Traceback (most recent call last):"},
               {:warning, "  File \"x.py\", line 1"},
               {:warning, "ValueError: 1"},
               {:info, "printed"},
               {:info, "  indented"},
               {:error, "Traceback (most recent call last):"},
               {:error, "  File \"x.py\", line 1"},
               {:error, "ValueError: 2"}
             ]
    end
  end

  describe "inspecting a ref" do
    test "is one line, whatever is in it" do
      odd = %SnakeBridge.Ref{
        id: "a1",
        type_name: "two\nlines",
        python_module: {:no, :text},
        session_id: <<255>>
      }

      assert inspect(odd) == ~S|#SnakeBridge.Ref<"two\nlines" in {:no, :text}, <<255>>>|
    end

    test "is short, and copes with fields that are not there" do
      assert inspect(%SnakeBridge.Ref{id: nil}) == "#SnakeBridge.Ref<object>"

      assert inspect(%SnakeBridge.StreamRef{
               id: nil,
               type_name: "generator",
               python_module: "builtins",
               session_id: "s"
             }) == "#SnakeBridge.StreamRef<generator in builtins, s>"
    end
  end
end
