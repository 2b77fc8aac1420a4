defmodule SnakeBridge.ValuesTest do
  # The table of `SnakeBridge.Types`, both ways.
  use SnakeBridge.Case, async: true

  alias SnakeBridge.{Ref, StreamRef}

  # What Python makes of a value, written as Python writes it.
  defp described(value), do: SnakeBridge.call!("harness_fixture", "describe", [value])

  # The value that is written like this in Python.
  defp evaluated(text), do: SnakeBridge.call!("builtins", "eval", [text])

  defp echoed(value), do: SnakeBridge.call!("copy", "copy", [value])

  test "plain values are what they are in Python" do
    for {value, python} <- [
          {nil, "NoneType None"},
          {true, "bool True"},
          {false, "bool False"},
          {0, "int 0"},
          {-7, "int -7"},
          {2 ** 200, "int #{2 ** 200}"},
          {1.5, "float 1.5"},
          {"text", "str 'text'"},
          {"żółw 🐢", "str 'żółw 🐢'"},
          {"", "str ''"},
          {<<255, 0>>, "bytes b'\\xff\\x00'"},
          {SnakeBridge.bytes("text"), "bytes b'text'"},
          {:atom, "Atom Atom('atom')"},
          {[], "list []"},
          {[1, [2, "a"]], "list [1, [2, 'a']]"},
          {~c"abc", "list [97, 98, 99]"},
          {{1, {}}, "tuple (1, ())"},
          {%{}, "dict {}"},
          {%{"a" => 1, 2 => [nil]}, "dict {2: [None], 'a': 1}"},
          {1..3, "range range(1, 4)"},
          {~D[2026-11-21], "date datetime.date(2026, 11, 21)"},
          {~T[01:02:03.004], "time datetime.time(1, 2, 3, 4000)"}
        ] do
      assert described(value) == python
    end
  end

  test "values come back as they went" do
    for value <- [
          nil,
          true,
          false,
          0,
          -1,
          2 ** 31,
          2 ** 63,
          -(2 ** 200),
          0.0,
          -1.5,
          1.0e300,
          "",
          "text",
          "żółw 🐢",
          <<0, 255>>,
          :atom,
          :"an atom with spaces, żółw",
          [],
          [1, 2, 3],
          ~c"charlist",
          Enum.to_list(1..1000),
          [[[]]],
          {},
          {:ok, "two"},
          %{},
          %{"a" => %{b: {1, [2]}}},
          %{1 => :integer, 1.0 => :float},
          %{true => 1, 1 => 2},
          %{:a => 1, "a" => 2},
          %{[1] => 2, %{} => 3},
          MapSet.new([1, "two", {3}]),
          1..10//3,
          10..1//-2,
          ~D[2026-11-21],
          ~T[23:59:59.123456],
          ~N[2026-11-21 01:02:03.000004],
          ~U[2026-11-21 01:02:03.000004Z],
          self(),
          make_ref(),
          List.first(Port.list())
        ] do
      assert echoed(value) === value
    end
  end

  test "Python's own types arrive as the nearest of Elixir's" do
    for {text, value} <- [
          {"float('inf')", :infinity},
          {"float('-inf')", :neg_infinity},
          {"float('nan')", :nan},
          {"b'\\xff'", <<255>>},
          {"bytearray(b'ab')", "ab"},
          {"memoryview(b'ab')", "ab"},
          {"{1, 2}", MapSet.new([1, 2])},
          {"frozenset('a')", MapSet.new(["a"])},
          {"(1, 'a')", {1, "a"}},
          {"range(0, 10, 2)", 0..9//2},
          {"10**30", 10 ** 30},
          {"__import__('datetime').date(2026, 1, 2)", ~D[2026-01-02]},
          {"{'k': [None, True]}", %{"k" => [nil, true]}}
        ] do
      assert Enum.to_list([evaluated(text)]) === [value]
    end
  end

  test "a Decimal is a Decimal" do
    decimal = evaluated("__import__('decimal').Decimal('-1.50')")
    assert %{__struct__: Decimal, sign: -1, coef: 150, exp: -2} = decimal
    assert described(decimal) == "Decimal Decimal('-1.50')"
  end

  test "a map with __struct__ that Python does not know is a dict" do
    assert described(%URI{host: "h"}) =~ "dict {"
    assert echoed(%URI{host: "h"}) == %URI{host: "h"}
  end

  test "a function is callable, and comes back as itself" do
    assert SnakeBridge.call("harness_fixture", "apply", [&(&1 * 2), 21]) == {:ok, 42}
    fun = fn -> :ok end
    assert echoed(fun) == fun
  end

  test "what a function raises is an exception in Python, and an error here" do
    assert {:error, %SnakeBridge.PythonError{} = error} =
             SnakeBridge.call("harness_fixture", "apply", [fn -> raise "broken" end])

    assert Exception.message(error) =~ "broken"
  end

  test "only the leaf that cannot travel becomes a ref" do
    assert {:ok, %{"number" => 1, "items" => [ref, "text", {inner}]}} =
             SnakeBridge.call("harness_fixture", "mixed")

    assert %Ref{type_name: "object", python_module: "builtins"} = ref
    assert %Ref{} = inner
    assert ref != inner
  end

  test "a cycle becomes a ref where it closes" do
    assert {:ok, [1, %Ref{type_name: "list"} = ring]} =
             SnakeBridge.call("harness_fixture", "cycle")

    assert SnakeBridge.method(ring, "__len__") == {:ok, 2}
  end

  test "iterators, files and cursors are streams" do
    for {module, function, args} <- [
          {"itertools", "count", []},
          {"builtins", "iter", [[1]]},
          {"builtins", "open", [__ENV__.file]},
          {"harness_fixture", "counting", ["x"]}
        ] do
      assert {:ok, %StreamRef{} = stream} = SnakeBridge.call(module, function, args)
      assert SnakeBridge.release_ref(stream) == {:ok, 1}
    end
  end

  test "large values travel both ways" do
    megabytes = :binary.copy(<<255>>, 8_000_000)
    assert echoed(megabytes) == megabytes
    assert SnakeBridge.call("builtins", "len", [megabytes]) == {:ok, 8_000_000}
    numbers = Enum.to_list(1..200_000)
    assert SnakeBridge.call("builtins", "sum", [numbers]) == {:ok, Enum.sum(numbers)}
  end

  test "deep nesting travels both ways" do
    deep = Enum.reduce(1..5_000, [], fn _, inner -> [inner] end)
    {:ok, ref} = SnakeBridge.put(deep)
    assert SnakeBridge.method(ref, "__getitem__", [0]) == {:ok, hd(deep)}
  end

  test "what cannot be sent is an error to its caller alone" do
    {:ok, other} = SnakeBridge.put([1])

    for text <- ["{'a': 1, b'a': 2}", "[{'a': 1, b'a': 2}, object()]"] do
      assert {:error, %SnakeBridge.PythonError{type: "pynode.errors.EncodeError"}} =
               SnakeBridge.call("builtins", "eval", [text])
    end

    # Neither does it take the connection along.
    assert SnakeBridge.method(other, "__len__") == {:ok, 1}
  end
end
