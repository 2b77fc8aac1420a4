defmodule SnakeBridge.Interpreter do
  @moduledoc false
  # Finds the Python to start.

  alias SnakeBridge.NodeUnavailableError

  @variable "SNAKEBRIDGE_PYTHON"

  @doc """
  Returns the path of the interpreter: `configured`, the environment variable SNAKEBRIDGE_PYTHON,
  the `.venv` of this directory or of one above it, or what PATH has, in this order.

  What somebody asked for by name is used or is an error: nothing else takes its place.
  """
  @spec find(String.t() | nil) :: {:ok, String.t()} | {:error, NodeUnavailableError.t()}
  def find(configured) do
    cond do
      configured -> named(configured, "The option :executable", ":executable")
      variable = present(System.get_env(@variable)) -> named(variable, @variable, @variable)
      found = virtual_environment(File.cwd!()) || on_path() -> {:ok, found}
      true -> {:error, missing("There is no Python here", @variable)}
    end
  end

  defp named(path, source, setting) do
    # With a slash it is a file, wherever Python will run; without, a program on the PATH.
    program = if path =~ "/", do: Path.expand(path), else: path

    case System.find_executable(program) do
      nil -> {:error, missing("#{source} names #{path}, which is no program", setting)}
      found -> {:ok, found}
    end
  end

  defp virtual_environment(directory) do
    candidate = Path.join(directory, ".venv/bin/python")
    parent = Path.dirname(directory)

    cond do
      File.regular?(candidate) -> candidate
      parent == directory -> nil
      true -> virtual_environment(parent)
    end
  end

  defp on_path, do: System.find_executable("python3") || System.find_executable("python")

  defp present(""), do: nil
  defp present(text), do: text

  defp missing(what, setting) do
    %NodeUnavailableError{
      reason: :no_interpreter,
      message:
        "#{what}: set #{setting} to the path of a Python (3.11 or newer) that has " <>
          "`pip install pynode-beam`, or the directory of a checkout in its place."
    }
  end
end
