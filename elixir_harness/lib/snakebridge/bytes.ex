defmodule SnakeBridge.Bytes do
  @moduledoc """
  A binary that Python is to get as `bytes`, even if it is valid UTF-8. Made by `SnakeBridge.bytes/1`.
  """

  @enforce_keys [:data]
  defstruct [:data]

  @type t :: %__MODULE__{data: binary()}
end
