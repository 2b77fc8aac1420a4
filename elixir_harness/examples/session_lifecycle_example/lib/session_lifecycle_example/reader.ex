defmodule SessionLifecycleExample.Reader do
  @moduledoc """
  A process that reads source files with Python, and keeps what it makes of them there.
  """

  alias SnakeBridge.SessionContext

  @enforce_keys [:pid, :monitor, :session]
  defstruct [:pid, :monitor, :session]

  @type t :: %__MODULE__{pid: pid(), monitor: reference(), session: String.t()}

  @doc "Starts a reader of the files below `directory` that match `glob`."
  @spec start(String.t(), Path.t(), String.t()) :: t()
  def start(session, directory, glob) do
    parent = self()
    {pid, monitor} = spawn_monitor(fn -> run(parent, session, directory, glob) end)
    %__MODULE__{pid: pid, monitor: monitor, session: session}
  end

  @doc "Waits for what the reader has to tell."
  @spec await(t(), atom(), timeout()) :: term()
  def await(%{pid: pid, monitor: monitor, session: session}, topic, timeout) do
    receive do
      {^pid, ^topic, answer} ->
        answer

      {:DOWN, ^monitor, :process, ^pid, reason} ->
        raise "the #{session} has crashed: #{Exception.format_exit(reason)}"
    after
      timeout -> raise "#{session} has not answered within #{timeout} ms"
    end
  end

  @doc "Asks the reader to do something, and returns what came of it."
  @spec ask(t(), atom(), timeout()) :: term()
  def ask(reader, topic, timeout) do
    send(reader.pid, topic)
    await(reader, topic, timeout)
  end

  @doc "Makes the reader run a query that takes very long; returns a counter of what it has done."
  @spec start_query(t()) :: :counters.counters_ref()
  def start_query(reader) do
    pairs = :counters.new(1, [])
    send(reader.pid, {:query, pairs})
    pairs
  end

  @doc "Lets the reader end, and returns when it has."
  @spec stop(t()) :: :ok
  def stop(%{pid: pid, monitor: monitor}) do
    send(pid, :stop)

    receive do
      {:DOWN, ^monitor, :process, ^pid, :normal} -> :ok
    end
  end

  # SQLite connections may be used on one thread only, so the session asks for one of its own.
  defp run(parent, session, directory, glob) do
    options = [session_id: session, own_thread: true, tags: %{"reads" => glob}]

    SessionContext.with_session(options, fn ->
      counter = SnakeBridge.call!("collections", "Counter")
      pattern = SnakeBridge.call!("re", "compile", ["[a-z_]{3,}"])
      database = create_database()
      paths = list(directory, glob)
      lines = Enum.sum(for path <- paths, do: read(path, pattern, counter, database))

      send(parent, {self(), :read, {counter, summary(paths, lines, counter, database)}})
      loop(parent, paths, database)
    end)
  end

  defp loop(parent, paths, database) do
    receive do
      :release_paths ->
        {:ok, count} = SnakeBridge.release_ref(paths)
        send(parent, {self(), :release_paths, count})
        loop(parent, [], database)

      {:query, pairs} ->
        alike(database, pairs)
        loop(parent, paths, database)

      :stop ->
        :ok
    end
  end

  defp create_database do
    database = SnakeBridge.call!("sqlite3", "connect", [":memory:"])
    execute!(database, "create table lines (file text, number integer, text text)")
    database
  end

  # A generator in Python, read as an Elixir stream; its items are refs to pathlib's paths.
  defp list(directory, glob) do
    directory = SnakeBridge.call!("pathlib", "Path", [directory])
    files = SnakeBridge.method!(directory, "rglob", [glob])
    Enum.to_list(files)
  end

  defp read(path, pattern, counter, database) do
    text =
      SnakeBridge.method!(path, "read_text", [], kwargs: [encoding: "utf-8", errors: "replace"])

    name = SnakeBridge.attr!(path, "name")
    words = SnakeBridge.method!(pattern, "findall", [text])
    SnakeBridge.method!(counter, "update", [words])

    rows =
      for {line, number} <- Enum.with_index(String.split(text, "\n"), 1),
          line = String.trim(line),
          line != "",
          do: {name, number, line}

    execute!(database, "insert into lines values (?, ?, ?)", rows)
    length(rows)
  end

  defp summary(paths, lines, counter, database) do
    words =
      counter
      |> SnakeBridge.method!("most_common", [3])
      |> Enum.map_join(", ", fn {word, count} -> "#{word} #{count}" end)

    [{longest}] =
      database
      |> SnakeBridge.method!("execute", ["select max(length(text)) from lines"])
      |> Enum.to_list()

    "#{length(paths)} files, #{lines} lines (the longest has #{longest} characters), words: #{words}"
  end

  defp alike(database, pairs) do
    similar = fn left, right ->
      :counters.add(pairs, 1, 1)
      String.jaro_distance(left, right)
    end

    SnakeBridge.method!(database, "create_function", ["similar", 2, similar])

    query =
      "select count(*) from lines a join lines b on a.rowid < b.rowid " <>
        "where similar(a.text, b.text) > 0.95"

    SnakeBridge.method!(database, "execute", [query], timeout: :infinity)
  end

  # What `execute` returns is a cursor; nothing is to be read from these.
  defp execute!(database, sql), do: done(SnakeBridge.method!(database, "execute", [sql]))

  defp execute!(database, sql, rows) do
    done(SnakeBridge.method!(database, "executemany", [sql, rows]))
  end

  defp done(cursor) do
    {:ok, 1} = SnakeBridge.release_ref(cursor)
    :ok
  end
end
