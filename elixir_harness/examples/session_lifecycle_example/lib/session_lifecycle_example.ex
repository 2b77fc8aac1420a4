defmodule SessionLifecycleExample do
  @moduledoc """
  A tour of how Python objects live and end, over real files: the source of this project.

  Two processes read it with Python, each in a session of its own: one the Python files, one the
  Elixir files. Each has a `collections.Counter`, a compiled regular expression and an SQLite
  database in Python. One of them is killed while a query of its runs, the other one ends as
  processes do. What is alive in the Python node is shown before and after, and measured.
  """

  alias SessionLifecycleExample.{Census, Reader}

  @root Path.expand("../../../..", __DIR__)
  @patience 60_000
  @lines 500

  @doc """
  Takes the tour through the files below a directory, and prints what happens.

  Returns `:ok` if nothing is left in the Python node at the end, else `{:error, sentence}`. A step
  that fails raises.
  """
  @spec tour([Path.t()]) :: :ok | {:error, String.t()}
  def tour(arguments \\ []) do
    {python, elixir} = directories(arguments)
    with :ok <- check(python, elixir), do: tour_of(python, elixir)
  end

  defp directories([directory | _]), do: {Path.expand(directory), Path.expand(directory)}
  defp directories([]), do: {Path.join(@root, "pynode"), Path.join(@root, "elixir_harness/lib")}

  # The query of step 4 compares pairs of lines, and is to run for a while.
  defp check(python, elixir) do
    lines = for path <- Path.wildcard(Path.join(elixir, "**/*.ex")), do: length(lines(path))

    cond do
      not File.dir?(python) ->
        {:error, "#{python} is no directory: name one with Python and Elixir files in it."}

      Path.wildcard(Path.join(python, "**/*.py")) == [] ->
        {:error, "There is no *.py file below #{python}: name a directory that has some."}

      Enum.sum(lines) < @lines ->
        {:error,
         "The *.ex files below #{elixir} have fewer than #{@lines} lines, too few for a query to be " <>
           "stopped while it runs: name a directory that has more."}

      true ->
        :ok
    end
  end

  defp lines(path), do: path |> File.read!() |> String.split("\n", trim: true)

  defp tour_of(python, elixir) do
    introduce()

    watch = objects_and_values()
    {python, elixir} = two_readers(python, elixir, watch)
    by_hand(python)
    an_owner_is_killed(elixir, watch)
    the_others_go(python)
    verdict()
  end

  defp introduce do
    {:ok, info} = SnakeBridge.info()

    say("""
    Python #{info.python} is node #{info.node},
    OS process #{SnakeBridge.PythonNode.os_pid()}, started and supervised by this application.\
    """)

    Census.print()
  end

  defp objects_and_values do
    title("1. Plain values travel, everything else stays and is referred to")

    show("math.sqrt(16)", SnakeBridge.call!("math", "sqrt", [16]))
    show("datetime.date(2026, 11, 21)", SnakeBridge.call!("datetime", "date", [2026, 11, 21]))

    pattern = SnakeBridge.call!("re", "compile", ["[a-z_]{3,}"])
    show("pattern = re.compile(...)", pattern)
    words = SnakeBridge.method!(pattern, "findall", ["who frees the objects?"])
    show("pattern.findall(...)", words)

    # It is told of objects, and does not keep them alive: what is not in it any more was freed.
    watch = SnakeBridge.call!("weakref", "WeakValueDictionary")
    show("watch = WeakValueDictionary()", watch)
    Census.print()
    watch
  end

  defp two_readers(python, elixir, watch) do
    title("2. Two processes read source files, each in a session of its own")

    python = Reader.start("python reader", python, "*.py")
    elixir = Reader.start("elixir reader", elixir, "*.ex")

    for reader <- [python, elixir] do
      {counter, summary} = Reader.await(reader, :read, @patience)
      SnakeBridge.method!(watch, "__setitem__", [reader.session, counter])
      say("   #{reader.session}: #{summary}")
    end

    Census.print()
    {python, elixir}
  end

  defp by_hand(reader) do
    title("3. A process that lives on lets go by hand")
    count = Reader.ask(reader, :release_paths, @patience)
    say("   release_ref([...]) by the #{reader.session}: #{count} paths released")
    Census.print()
  end

  defp an_owner_is_killed(reader, watch) do
    title("4. An owner is killed in the middle of its work")

    say("""
       The #{reader.session} asks SQLite for pairs of lines that are alike. The comparison is
       Elixir's: for each pair Python calls String.jaro_distance/2 in this VM.\
    """)

    pairs = Reader.start_query(reader)
    wait_until(fn -> :counters.get(pairs, 1) >= 1_000 and running(reader) == 1 end)
    say("   #{:counters.get(pairs, 1)} pairs compared, and the call is still running. Kill.")

    killed = System.monotonic_time()
    Process.exit(reader.pid, :kill)

    wait_until(fn -> not SnakeBridge.SessionManager.session_exists?(reader.session) end)
    ended = System.monotonic_time()
    wait_until(fn -> not SnakeBridge.method!(watch, "__contains__", [reader.session]) end)
    freed = System.monotonic_time()
    wait_until(fn -> match?({:ok, %{running_calls: 0}}, SnakeBridge.info()) end)

    say("""
       The session had ended #{milliseconds(ended - killed)} ms after the kill, and its Counter was
       freed #{milliseconds(freed - killed)} ms after it (asked about once a millisecond).
       No call is running any more: the query was stopped after #{:counters.get(pairs, 1)} pairs.\
    """)

    Census.print()
  end

  defp the_others_go(reader) do
    title("5. A process that ends takes its objects along; this one lets go of its own")
    Reader.stop(reader)
    wait_until(fn -> not SnakeBridge.SessionManager.session_exists?(reader.session) end)
    say("   The #{reader.session} has exited, and its session with it.")
    {:ok, count} = SnakeBridge.release_auto_session()
    say("   release_auto_session(): #{count} objects released")
    Census.print()
  end

  defp verdict do
    case SnakeBridge.info() do
      {:ok, %{sessions: 0, refs: 0}} -> say("\nNothing is left in Python.")
      {:ok, %{refs: refs}} -> {:error, "The tour failed: #{refs} objects are left in Python."}
    end
  end

  defp running(reader) do
    {:ok, session} = SnakeBridge.session(reader.session)
    session.running
  end

  defp wait_until(fun), do: wait_until(fun, System.monotonic_time(:millisecond) + @patience)

  defp wait_until(fun, deadline) do
    cond do
      fun.() ->
        :ok

      System.monotonic_time(:millisecond) > deadline ->
        raise "waited for #{div(@patience, 1_000)} seconds in vain"

      true ->
        Process.sleep(1)
        wait_until(fun, deadline)
    end
  end

  defp milliseconds(native) do
    Float.round(System.convert_time_unit(native, :native, :microsecond) / 1_000, 1)
  end

  defp title(text), do: say("\n" <> text)
  defp show(left, right), do: say("   #{String.pad_trailing(left, 30)} #{inspect(right)}")
  defp say(text), do: IO.puts(text)
end
