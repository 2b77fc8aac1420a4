defmodule SnakeBridge.PythonLog do
  @moduledoc false
  # Decides how a line that Python wrote is logged. Lines of Python's logging, which begin with date,
  # time and level, are logged at their level; the traceback that may follow shares it.

  @levels %{
    "DEBUG" => :debug,
    "INFO" => :info,
    "WARNING" => :warning,
    "ERROR" => :error,
    "CRITICAL" => :error
  }

  defstruct level: :info, traceback?: false

  @type t :: %__MODULE__{level: Logger.level(), traceback?: boolean()}

  @doc "Returns the level, what to log, and what to remember for the next line."
  @spec line(binary(), t()) :: {Logger.level(), String.t(), t()}
  def line(text, memory) do
    text = valid(text)

    case Regex.run(~r/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ ([A-Z]+) (.*)$/s, text) do
      [_all, level, message] when is_map_key(@levels, level) ->
        level = @levels[level]
        {level, message, %__MODULE__{level: level}}

      _no_record ->
        other_line(text, memory)
    end
  end

  # Python may write any bytes, and Logger wants text.
  defp valid(line) do
    for part <- String.chunk(line, :valid), into: "" do
      if String.valid?(part), do: part, else: "\uFFFD"
    end
  end

  # A traceback is a headline, indented lines, and one that is not: the exception.
  defp other_line("Traceback (" <> _rest = text, %{level: level}) do
    level = if level == :info, do: :error, else: level
    {level, text, %__MODULE__{level: level, traceback?: true}}
  end

  defp other_line(" " <> _rest = text, %{traceback?: true} = memory) do
    {memory.level, text, memory}
  end

  defp other_line(text, %{traceback?: true, level: level}) do
    {level, text, %__MODULE__{}}
  end

  defp other_line(text, _memory), do: {:info, text, %__MODULE__{}}
end
