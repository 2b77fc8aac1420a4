defmodule SnakeBridge.StreamTest do
  use SnakeBridge.Case, async: true

  defp counting(name), do: SnakeBridge.call!("harness_fixture", "counting", [name])
  defp closed?(name), do: name in SnakeBridge.get!("harness_fixture", "closed")

  test "an iterator is enumerable" do
    assert Enum.to_list(SnakeBridge.call!("builtins", "iter", [Enum.to_list(1..3000)])) ==
             Enum.to_list(1..3000)

    assert Enum.count(SnakeBridge.call!("builtins", "iter", [[]])) == 0
    assert 7 in SnakeBridge.call!("builtins", "iter", [[6, 7]])
    assert Enum.at(SnakeBridge.call!("itertools", "count"), 500) == 500
  end

  test "nothing is fetched before it is needed" do
    stream = SnakeBridge.stream(SnakeBridge.call!("itertools", "count"), max_batch: 1)
    assert Enum.take(stream, 0) == []

    numbers = SnakeBridge.call!("itertools", "count")
    assert numbers |> SnakeBridge.stream(max_batch: 1, release: false) |> Enum.take(2) == [0, 1]
    assert SnakeBridge.next(numbers, 1) == {:ok, [2], :more}
  end

  test "two streams can be zipped" do
    letters = SnakeBridge.call!("builtins", "iter", [["a", "b"]])
    assert Enum.zip(counting(unique("zip")), letters) == [{1, "a"}, {2, "b"}]
  end

  test "the end of an enumeration closes a generator, however it ends" do
    for finish <- [
          &Enum.take(&1, 3),
          fn stream -> catch_throw(Enum.each(stream, fn _ -> throw(:enough) end)) end
        ] do
      name = unique("generator")
      ref = counting(name)
      finish.(ref)
      eventually(fn -> closed?(name) end)
      assert whereabouts(ref) == :released
    end
  end

  test "an iterator of another session is not released" do
    ref = counting(unique("theirs"))

    SnakeBridge.SessionContext.with_session(fn ->
      assert_raise SnakeBridge.SessionMismatchError, fn -> Enum.take(ref, 1) end
    end)

    assert SnakeBridge.next(ref, 1) == {:ok, [1], :more}
  end

  test "what is no ref is no stream" do
    assert_raise SnakeBridge.InvalidRefError, fn -> Enum.to_list(SnakeBridge.stream("ref")) end
  end

  test "an exception in the middle is raised when its time has come" do
    ref = SnakeBridge.call!("harness_fixture", "failing", [5])
    test = self()

    assert_raise SnakeBridge.PythonError, ~r/^ValueError: no more/, fn ->
      Enum.each(ref, &send(test, {:item, &1}))
    end

    for number <- 0..4, do: assert_received({:item, ^number})
  end

  test "whatever Python can iterate is a stream" do
    {:ok, counter} = SnakeBridge.call("collections", "Counter", ["aab"])
    assert counter |> SnakeBridge.stream() |> Enum.sort() == ["a", "b"]
    assert whereabouts(counter) == :there

    # The iterator that the stream made is released, come what may.
    {:ok, %{refs: before}} = SnakeBridge.session(self())
    assert counter |> SnakeBridge.stream(release: false) |> Enum.take(1) == ["a"]
    assert {:ok, %{refs: ^before}} = SnakeBridge.session(self())

    assert_raise SnakeBridge.PythonError, ~r/not iterable/, fn ->
      "builtins" |> SnakeBridge.call!("object") |> SnakeBridge.stream() |> Enum.to_list()
    end
  end

  test "items are fetched one by one, or as many as are wanted" do
    ref = SnakeBridge.call!("builtins", "iter", [[1, 2, 3]])
    assert SnakeBridge.next(ref, 2) == {:ok, [1, 2], :more}
    assert SnakeBridge.next(ref, 2) == {:ok, [3], :done}
    assert SnakeBridge.next(ref, 2) == {:ok, [], :done}
  end

  test "what is no iterator has no next" do
    assert {:error, error} = SnakeBridge.next(SnakeBridge.call!("collections", "Counter"), 1)
    assert %SnakeBridge.InvalidRefError{reason: :not_an_iterator} = error
  end

  test "lines of a file" do
    expected = __ENV__.file |> File.stream!() |> Enum.to_list()
    assert Enum.to_list(SnakeBridge.call!("builtins", "open", [__ENV__.file])) == expected
  end
end
