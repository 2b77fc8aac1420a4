defmodule SnakeBridge.Application do
  @moduledoc false

  use Application

  require Logger

  alias SnakeBridge.{Config, Distribution, PythonNode, Telemetry}

  @impl true
  def start(_type, _args) do
    Telemetry.setup()
    Config.check!()

    with {:error, _reason} = failed <- start_python(Config.python()) do
      Config.delete_default_node()
      failed
    end
  rescue
    error in ArgumentError -> refuse(error)
  end

  @impl true
  def stop(_state), do: Config.delete_default_node()

  defp refuse(error) do
    Logger.error(Exception.message(error))
    failed(error)
  end

  # In this form the reason is printed as a sentence.
  defp failed(error), do: {:error, {error, []}}

  defp start_python(nil), do: start_supervisor([])

  defp start_python(options) do
    case {Distribution.ensure_started(), options[:node]} do
      {:ok, nil} -> start_free(options[:base] || PythonNode.default_base(), 1, options)
      {:ok, node} -> start_node(node, options)
      {{:error, error}, _node} -> refuse(error)
    end
  end

  # The name is chosen once, so that a restarted Python has it again: refs of the old one are then
  # answered with the reason `node_restarted`.
  defp start_free(base, attempt, options) do
    node = Distribution.node_name(if attempt == 1, do: base, else: "#{base}#{attempt}")
    started = if Distribution.registered?(node), do: :taken, else: start_node(node, options)

    case started do
      :taken -> start_free(base, attempt + 1, options)
      # Somebody else was quicker.
      {:error, {%{reason: :name_taken}, []}} -> start_free(base, attempt + 1, options)
      result -> result
    end
  end

  defp start_node(node, options) do
    Config.put_default_node(node)
    options = Keyword.merge([name: PythonNode], options)
    start_supervisor([{PythonNode, Keyword.put(options, :node, node)}])
  end

  defp start_supervisor(children) do
    lifelines = {DynamicSupervisor, name: SnakeBridge.Lifelines, strategy: :one_for_one}
    children = [lifelines | children]

    case Supervisor.start_link(children, strategy: :one_for_one, name: SnakeBridge.Supervisor) do
      # The Python node has written why into the log.
      {:error, {:shutdown, {:failed_to_start_child, _id, {:shutdown, error}}}} -> failed(error)
      result -> result
    end
  end
end
