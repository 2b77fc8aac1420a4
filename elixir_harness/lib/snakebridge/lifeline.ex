defmodule SnakeBridge.Lifeline do
  @moduledoc false
  # Stands for the connection to the Python side of one node, and exits when that is lost.
  #
  # `GenServer.call/3` on a process of another node sends a monitor, the request and a demonitor.
  # Callers of ours monitor the lifeline in their own VM instead, which monitors the Python side once
  # for them all: so a call is one message there and one back. With many callers that is twice as many
  # calls in a second (docs/PERFORMANCE.md).

  use GenServer, restart: :temporary

  @doc "The lifeline of a node, or nil."
  @spec find(node()) :: pid() | nil
  def find(node), do: :persistent_term.get({__MODULE__, node}, nil)

  @doc "Starts the lifeline of a node that is connected, unless it has one or the application does not run."
  @spec start(node()) :: :ok
  def start(node) do
    _started_or_there = DynamicSupervisor.start_child(SnakeBridge.Lifelines, {__MODULE__, node})
    :ok
  catch
    :exit, _not_running -> :ok
  end

  @doc "Forgets a lifeline that is dead: if it was killed, it has not done so."
  @spec forget(node(), pid()) :: :ok
  def forget(node, lifeline) do
    if find(node) == lifeline, do: :persistent_term.erase({__MODULE__, node})
    :ok
  end

  @doc false
  @spec start_link(node()) :: GenServer.on_start()
  def start_link(node) do
    # A name, so that there is one for each node.
    GenServer.start_link(__MODULE__, node, name: :"#{inspect(__MODULE__)} #{node}")
  end

  # Whoever starts us does not wait for a node that has become unreachable.
  @impl true
  def init(node) do
    Process.flag(:trap_exit, true)
    {:ok, node, {:continue, :monitor}}
  end

  # Only when the node is monitored are we found: so a request that is sent by whoever has found us goes
  # over a connection whose end we see, or over a later one.
  @impl true
  def handle_continue(:monitor, node) do
    Process.monitor({:snakebridge, node})
    :persistent_term.put({__MODULE__, node}, self())
    {:noreply, node}
  end

  @impl true
  def handle_info({:DOWN, _monitor, :process, _python, reason}, node) do
    {:stop, {:shutdown, {:lost, reason}}, node}
  end

  # Too many calls hang on this to end with a stray message.
  def handle_info(_stray, node), do: {:noreply, node}

  @impl true
  def terminate(_reason, node), do: forget(node, self())
end
