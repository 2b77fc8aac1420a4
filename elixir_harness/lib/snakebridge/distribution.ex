defmodule SnakeBridge.Distribution do
  @moduledoc false
  # Makes this VM a node, because only nodes can talk to a Python node. A VM that is one already is
  # left as it is. One that is not becomes a node on the loopback interface, with a name of its own
  # and, unless a cookie was given, a random one: nothing outside of this machine can reach it.

  alias SnakeBridge.NodeUnavailableError

  @loopback {127, 0, 0, 1}
  @host "127.0.0.1"
  @epmd_timeout 5_000
  @poll 20
  # How long we wait for the port mapper of a host that may be unreachable.
  @lookup_timeout 1_000

  @spec ensure_started() :: :ok | {:error, Exception.t()}
  def ensure_started do
    if Node.alive?(), do: :ok, else: start()
  end

  @doc "The node name `base@host`, with the host of this node."
  @spec node_name(String.t()) :: node()
  def node_name(base) do
    [_name, host] = node() |> Atom.to_string() |> String.split("@")
    :"#{base}@#{host}"
  end

  @doc "The part of this node's name that is before the @."
  @spec base_name() :: String.t()
  def base_name, do: node() |> Atom.to_string() |> String.split("@") |> hd()

  @doc "Whether the port mapper of the node's host knows a node of that name."
  @spec registered?(node()) :: boolean()
  def registered?(node) do
    case node |> Atom.to_charlist() |> :string.split(~c"@") do
      [name, host] ->
        match?({:port, _port, _version}, :erl_epmd.port_please(name, host, @lookup_timeout))

      _no_host ->
        false
    end
  end

  @doc """
  What to do about it if this VM and the node cannot reach each other because one has a long name, with
  a dot in the host, and the other a short one; else nil.
  """
  @spec mismatch(node()) :: String.t() | nil
  def mismatch(node) do
    long? = node |> Atom.to_string() |> String.split("@") |> List.last() |> String.contains?(".")

    if Node.alive?() and long? != :net_kernel.longnames() do
      [theirs, ours] = if long?, do: ["long", "short"], else: ["short", "long"]

      "#{node} has a #{theirs} name and this VM, #{node()}, a #{ours} one, and such nodes cannot " <>
        "talk: start both with long names (--name app@host.domain) or both with short ones (--sname)."
    end
  end

  @doc "The address that the node's host has, as text, or nil if it has none that is known here."
  @spec address(node()) :: String.t() | nil
  def address(node) do
    [_name, host] = node |> Atom.to_charlist() |> :string.split(~c"@")

    case :inet.getaddr(host, :inet) do
      {:ok, address} -> List.to_string(:inet.ntoa(address))
      {:error, _reason} -> nil
    end
  end

  @doc "The port at which this VM looks for EPMD, if it was told another than the usual one."
  @spec epmd_port() :: String.t() | nil
  def epmd_port do
    case :init.get_argument(:epmd_port) do
      {:ok, [[port | _] | _]} -> List.to_string(port)
      _none -> nil
    end
  end

  defp start do
    with :ok <- ensure_epmd(), do: start_net_kernel()
  end

  defp start_net_kernel do
    if Application.get_env(:kernel, :inet_dist_use_interface) == nil do
      Application.put_env(:kernel, :inet_dist_use_interface, @loopback)
    end

    name = :"snakebridge_#{System.pid()}_#{:rand.uniform(1_000_000)}@#{@host}"

    case :net_kernel.start(name, %{name_domain: :longnames}) do
      {:ok, _pid} -> set_cookie()
      {:error, {:already_started, _pid}} -> :ok
      {:error, reason} -> {:error, not_started(inspect(reason))}
    end
  end

  # net_kernel makes this file before anybody can give it a cookie.
  defp not_started(reason) do
    if reason =~ "cookie" do
      %NodeUnavailableError{
        reason: :not_distributed,
        message:
          "This VM could not be made a distributed node, because ~/.erlang.cookie can neither be " <>
            "read nor made: set HOME to a directory of yours, or start the VM with --cookie."
      }
    else
      not_distributed("net_kernel said #{reason}")
    end
  end

  defp set_cookie do
    cond do
      cookie = Application.get_env(:snakebridge, :cookie) -> Node.set_cookie(cookie)
      :init.get_argument(:setcookie) == :error -> Node.set_cookie(random_cookie())
      true -> true
    end

    :ok
  end

  defp random_cookie do
    # The only atom that is ever made of random bytes here.
    32 |> :crypto.strong_rand_bytes() |> Base.url_encode64(padding: false) |> String.to_atom()
  end

  defp ensure_epmd do
    cond do
      epmd?() -> :ok
      executable = epmd_executable() -> start_epmd(executable)
      true -> {:error, not_distributed("no EPMD runs, and this runtime has no program epmd")}
    end
  end

  defp start_epmd(executable) do
    # The daemon outlives this VM, as it does when `erl` starts it: other nodes may depend on it.
    port = if port = epmd_port(), do: ["-port", port], else: []

    {output, status} =
      System.cmd(executable, ["-daemon", "-address", @host | port], stderr_to_stdout: true)

    if status == 0 and await_epmd(System.monotonic_time(:millisecond) + @epmd_timeout) do
      :ok
    else
      {:error, not_distributed("#{executable} did not start (#{String.trim(output)})")}
    end
  end

  defp await_epmd(deadline) do
    cond do
      epmd?() ->
        true

      System.monotonic_time(:millisecond) >= deadline ->
        false

      true ->
        Process.sleep(@poll)
        await_epmd(deadline)
    end
  end

  defp epmd?, do: match?({:ok, _names}, :erl_epmd.names(@loopback))

  defp epmd_executable do
    erts = ~c"erts-" ++ :erlang.system_info(:version)

    [[:code.root_dir(), erts, ~c"bin"], [:code.root_dir(), ~c"bin"]]
    |> Enum.map(&List.to_string(:filename.join(&1 ++ [~c"epmd"])))
    |> Enum.find(System.find_executable("epmd"), &File.exists?/1)
  end

  defp not_distributed(detail) do
    %NodeUnavailableError{
      reason: :not_distributed,
      message:
        "This VM could not be made a distributed node, #{detail}: start it with " <>
          "`elixir --name app@127.0.0.1` (or --sname) to see why, or to do without this step."
    }
  end
end
