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

  test "a directory with too little in it ends the tour before it begins" do
    empty = Path.join(System.tmp_dir!(), "session_lifecycle_example_#{System.pid()}")
    File.mkdir_p!(empty)
    on_exit(fn -> File.rm_rf(empty) end)
    assert {:error, sentence} = SessionLifecycleExample.tour([empty])
    assert sentence =~ "no *.py file below #{empty}"

    File.write!(Path.join(empty, "a.py"), "pass")
    assert {:error, sentence} = SessionLifecycleExample.tour([empty])
    assert sentence =~ "*.ex files below #{empty}"
    assert {:error, sentence} = SessionLifecycleExample.tour([Path.join(empty, "nowhere")])
    assert sentence =~ "is no directory"
  end
end
