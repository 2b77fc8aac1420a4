defmodule SnakeBridge.Case do
  @moduledoc """
  Tests against a running Python node: nothing here waits for time to pass, but for something to
  become true.
  """

  use ExUnit.CaseTemplate

  import ExUnit.CaptureLog

  alias SnakeBridge.PythonNode

  @patience 10_000
  @interval 2

  using do
    quote do
      import SnakeBridge.Case
    end
  end

  @doc "Returns what `fun` returns as soon as that is neither nil nor false."
  @spec eventually((() -> result)) :: result when result: term()
  def eventually(fun), do: eventually(fun, System.monotonic_time(:millisecond) + @patience)

  defp eventually(fun, deadline) do
    cond do
      result = fun.() ->
        result

      System.monotonic_time(:millisecond) > deadline ->
        flunk("it has not become true within #{@patience} ms")

      true ->
        receive do
        after
          @interval -> eventually(fun, deadline)
        end
    end
  end

  @doc """
  Runs `fun` in a process of its own that lives until it is told to stop or killed.
  Returns its pid and what `fun` returned.
  """
  @spec owner((() -> result)) :: {pid(), result} when result: term()
  def owner(fun) do
    test = self()

    pid =
      spawn(fn ->
        send(test, {self(), fun.()})

        receive do
          :stop -> :ok
        end
      end)

    receive do
      {^pid, result} -> {pid, result}
    after
      @patience -> flunk("the process has not got that far within #{@patience} ms")
    end
  end

  @doc "Kills a process and waits until it is dead."
  @spec kill(pid()) :: :ok
  def kill(pid) do
    monitor = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^pid, _reason}, @patience
    :ok
  end

  @doc """
  Starts one more Python node, under a supervisor of its own, so that failures do not touch the test.
  """
  @spec start_python(keyword()) :: {:ok, pid()} | {:error, term()}
  def start_python(options) do
    options = Keyword.merge([base: unique("extra_#{System.pid()}")], options)
    start_supervised({PythonNode, options}, id: make_ref(), restart: :temporary)
  end

  @doc "Writes a shell script that plays the interpreter, and returns its path."
  @spec script(String.t()) :: Path.t()
  def script(text) do
    path = Path.join(System.tmp_dir!(), unique("snakebridge_#{System.pid()}"))
    File.write!(path, "#!/bin/sh\n" <> text)
    File.chmod!(path, 0o755)
    on_exit(fn -> File.rm(path) end)
    path
  end

  @doc "Kills the Python of a PythonNode, waits until that has another one, and returns the log."
  @spec crash(GenServer.server()) :: String.t()
  def crash(server) do
    os_pid = PythonNode.os_pid(server)

    capture_log(fn ->
      kill_os_process(os_pid)

      eventually(fn ->
        state = :sys.get_state(server)
        state.phase == :up and state.process.pid != os_pid
      end)
    end)
  end

  @doc "Kills a process of the operating system with SIGKILL."
  @spec kill_os_process(pos_integer() | charlist()) :: :ok
  def kill_os_process(os_pid) do
    {_output, 0} = System.cmd("sh", ["-c", "kill -9 #{os_pid}"])
    :ok
  end

  @doc """
  Starts another BEAM node, which has the code of this one and ends with the test. Returns what
  `:peer` wants, and its name.
  """
  @spec start_peer() :: {:peer.server_ref(), node()}
  def start_peer do
    {:ok, peer, node} =
      :peer.start_link(%{
        name: String.to_charlist("peer#{System.unique_integer([:positive])}_#{System.pid()}"),
        host: ~c"127.0.0.1",
        longnames: true,
        connection: :standard_io,
        args: [~c"-pa" | :code.get_path()]
      })

    :peer.call(peer, :erlang, :set_cookie, [Node.get_cookie()])
    true = Node.connect(node)
    {:ok, _} = :peer.call(peer, :application, :ensure_all_started, [:elixir])
    {peer, node}
  end

  @doc "Calls a function under a context. It is here so that other BEAM nodes have it."
  @spec under(SnakeBridge.SessionContext.t(), module(), atom(), [term()]) :: term()
  def under(context, module, function, arguments) do
    SnakeBridge.SessionContext.with_session(context, fn ->
      apply(module, function, arguments)
    end)
  end

  @doc "A session id that no other test has."
  @spec unique(String.t()) :: String.t()
  def unique(name), do: "#{name}_#{System.unique_integer([:positive])}"

  @doc "The reason why a ref is not there, or `:there`."
  @spec whereabouts(SnakeBridge.Ref.t()) :: atom()
  def whereabouts(ref) do
    case SnakeBridge.attr(ref, "__class__") do
      {:ok, class} -> SnakeBridge.release_ref(class) && :there
      {:error, %SnakeBridge.RefNotFoundError{reason: reason}} -> reason
    end
  end

  @doc "How many calls of this session's run; 0 if there is no such session."
  @spec running(String.t() | pid()) :: non_neg_integer()
  def running(session) do
    case SnakeBridge.session(session) do
      {:ok, %{running: running}} -> running
      {:error, %SnakeBridge.SessionNotFoundError{}} -> 0
    end
  end
end
