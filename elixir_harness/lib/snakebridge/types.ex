defmodule SnakeBridge.Types do
  @moduledoc """
  What Elixir values become in Python, and back.

  Values travel as native Erlang terms, and the Python node does the conversion, so there is nothing
  to encode or decode on this side: both functions return what they are given. They are there for code
  that was written for a bridge which encodes.

  | Elixir to Python | | Python to Elixir | |
  |---|---|---|---|
  | `nil`, booleans | `None`, `bool` | `None`, `bool` | the same |
  | integers, floats | `int`, `float` | the same; `inf`, `-inf`, `nan` | `:infinity`, `:neg_infinity`, `:nan` |
  | atoms | `Atom`, a `str` | `Atom` | atom |
  | UTF-8 binaries, others | `str`, `bytes` | `str`, `bytes`, `bytearray`, `memoryview` | binary |
  | `SnakeBridge.bytes(b)` | `bytes` | | |
  | lists, charlists | `list` (of ints for charlists) | `list`, `tuple`, `dict` | list, tuple, map |
  | tuples, maps | `tuple`, `dict` | `set`, `frozenset` | `MapSet` |
  | `MapSet`, `Date`, `Time`, `NaiveDateTime`, `DateTime`, `Decimal`, `Range` | `set`, `datetime.*`, `Decimal`, `range` | the same back | |
  | pids, ports, references, functions | `Pid`, `Port`, `Reference`, `Fun` (callable) | the same back | |
  | other structs | `dict` with `__struct__` | anything else | `SnakeBridge.Ref` |

  Containers keep their shape: only the leaf that cannot travel becomes a ref.
  """

  @doc """
  Returns what travels to Python for `term`: the term itself.

      iex> SnakeBridge.Types.encode(%{"__type__" => "ref", "id" => "a1"})
      %{"__type__" => "ref", "id" => "a1"}
  """
  @spec encode(term()) :: term()
  def encode(term), do: term

  @doc """
  Returns what `term`, which came from Python, is in Elixir: the term itself.

      iex> SnakeBridge.Types.decode([1, 2.0, nil, "text"])
      [1, 2.0, nil, "text"]
  """
  @spec decode(term()) :: term()
  def decode(term), do: term
end
