defmodule SnakeBridge.Application do
  @moduledoc false

  use Application

  require Logger

  alias SnakeBridge.{Config, Distribution, PythonNode, Telemetry}

  @impl true
  def start(_type, _args) do
    Telemetry.setup()

    with {:ok, children} <- children(Config.python()) do
      start_supervisor(children)
    else
      {:error, error} ->
        Logger.error(Exception.message(error))
        {:error, {error, []}}
    end
  end

  @impl true
  def stop(_state), do: Config.delete_default_node()

  defp children(nil), do: {:ok, []}

  # The name is chosen once, before there is a supervisor, so that a restarted Python has it again:
  # refs of the old one are then answered with the reason `node_restarted`.
  defp children(options) do
    with :ok <- Distribution.ensure_started() do
      node = options[:node] || free_name(options[:base] || PythonNode.default_base(), 1)
      Config.put_default_node(node)

      {:ok,
       [{PythonNode, Keyword.merge([name: PythonNode], options) |> Keyword.put(:node, node)}]}
    end
  end

  defp free_name(base, attempt) do
    name = Distribution.node_name(if attempt == 1, do: base, else: "#{base}#{attempt}")
    if Distribution.registered?(name), do: free_name(base, attempt + 1), else: name
  end

  defp start_supervisor(children) do
    case Supervisor.start_link(children, strategy: :one_for_one, name: SnakeBridge.Supervisor) do
      {:error,
       {:shutdown, {:failed_to_start_child, _id, {:shutdown, %{__exception__: true} = error}}}} ->
        # In this form the reason is printed as a sentence.
        {:error, {error, []}}

      result ->
        result
    end
  end
end
