defmodule SessionLifecycleExample.Census do
  @moduledoc """
  What is alive in the Python node.
  """

  @doc "Prints the sessions with their owners, and their refs by type."
  @spec print() :: :ok
  def print do
    {:ok, sessions} = SnakeBridge.sessions()
    refs = sessions |> Map.values() |> Enum.map(& &1.refs) |> Enum.sum()
    IO.puts("   -> alive in Python: sessions #{map_size(sessions)}, refs #{refs}")

    for {id, session} <- Enum.sort(sessions) do
      owners = Enum.map_join(session.owners, ", ", &inspect/1)

      IO.puts(
        "      #{String.pad_trailing(id, 30)} #{String.pad_trailing(owners, 14)} #{types(id)}"
      )
    end

    :ok
  end

  defp types(session_id) do
    {:ok, refs} = SnakeBridge.refs(session_id)

    refs
    |> Enum.frequencies_by(& &1.type_name)
    |> Enum.sort()
    |> Enum.map_join(", ", fn {type, count} -> "#{count} #{type}" end)
  end
end
