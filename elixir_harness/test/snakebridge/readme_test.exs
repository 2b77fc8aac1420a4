defmodule SnakeBridge.ReadmeTest do
  # What the READMEs show, done.
  use SnakeBridge.Case

  test "the examples come out as they are printed" do
    assert run("README.md") == 12
  end

  test "the examples of the project come out as they are printed" do
    assert run("../README.md") == 9
  end

  defp run(path) do
    {_peer, node} = start_peer()

    # Each is an expression, on one line, and what comes of it, unless that is not shown.
    examples =
      for [block] <- Regex.scan(~r/^```elixir\n.*?^```/ms, File.read!(path)),
          block =~ "SnakeBridge",
          example <-
            Regex.scan(~r/^iex> (.+)\n((?!iex>|```).+)?/m, block, capture: :all_but_first),
          do: example

    for [expression | expected] <- examples, reduce: [] do
      binding ->
        expression = String.replace(expression, ~s(:"app@gpu2"), inspect(node))
        {value, binding} = Code.eval_string(expression, binding)
        assert expected in [[inspect(value, limit: :infinity)], []], expression
        binding
    end

    length(examples)
  end
end
