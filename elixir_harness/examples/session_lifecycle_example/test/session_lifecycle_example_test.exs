defmodule SessionLifecycleExampleTest do
  use ExUnit.Case

  import ExUnit.CaptureIO

  @tag timeout: 120_000
  test "the tour ends with nothing left in Python" do
    test = self()
    output = capture_io(fn -> send(test, {:result, SessionLifecycleExample.tour()}) end)
    assert_received {:result, :ok}
    assert output =~ "Nothing is left in Python."
    assert output =~ ~r/Counter was\s+freed [0-9.]+ ms/
  end
end
