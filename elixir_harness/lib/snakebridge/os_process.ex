defmodule SnakeBridge.OsProcess do
  @moduledoc false
  # A process of the operating system that a port of this VM started, and its process group. The VM
  # makes each such process the leader of a group of its own, so the group is what it has started.
  #
  # The operating system gives numbers of dead processes to others. The moment at which ours began
  # tells them apart: nothing is ever sent to another process.

  @enforce_keys [:pid, :began]
  defstruct [:pid, :began]

  @type t :: %__MODULE__{pid: pos_integer(), began: String.t() | nil}

  @doc "Takes note of the process with that number, which was just started."
  @spec new(pos_integer()) :: t()
  def new(pid) do
    case look(pid) do
      {_state, began} -> %__MODULE__{pid: pid, began: began}
      nil -> %__MODULE__{pid: pid, began: nil}
    end
  end

  @doc "Whether it runs. One that has exited and is not yet buried does not."
  @spec alive?(t()) :: boolean()
  def alive?(%__MODULE__{pid: pid, began: began}) do
    case look(pid) do
      {state, ^began} -> not String.starts_with?(state, ["Z", "X"])
      _gone_or_another -> false
    end
  end

  @doc "Asks the process to end."
  @spec terminate(t()) :: :ok
  def terminate(process), do: if(alive?(process), do: signal("TERM", "#{process.pid}"), else: :ok)

  @doc """
  Kills the process, if it still runs, and all that is left of its group.

  The number of a leader that is gone is not given away as long as its group has members.
  """
  @spec kill_group(t()) :: :ok
  def kill_group(%__MODULE__{pid: pid, began: began}) do
    case look(pid) do
      {_state, other} when other != began -> :ok
      _ours_or_gone -> signal("KILL", "-#{pid}")
    end
  end

  # The shell's own `kill`, because slim containers have no other.
  defp signal(name, target) do
    _nothing = :os.cmd(~c"kill -s #{name} -- #{target}")
    :ok
  end

  # {state, when it began}, or nil if there is no such process.
  defp look(pid) do
    case File.read("/proc/#{pid}/stat") do
      {:ok, stat} ->
        # "PID (NAME) STATE ...", and the name may hold anything (proc(5)).
        fields = stat |> String.split(")") |> List.last() |> String.split()
        {hd(fields), Enum.at(fields, 19)}

      {:error, _reason} ->
        if File.exists?("/proc/self/stat"), do: nil, else: ask_ps(pid)
    end
  end

  defp ask_ps(pid) do
    case ~c"ps -o stat=,lstart= -p #{pid}" |> :os.cmd() |> List.to_string() |> String.split() do
      [] -> nil
      [state | began] -> {state, Enum.join(began, " ")}
    end
  end
end
