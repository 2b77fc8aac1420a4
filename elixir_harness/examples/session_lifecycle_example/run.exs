# mix run --no-start run.exs [DIRECTORY]
#
# Takes the tour through the *.py and *.ex files below DIRECTORY (this project's own, unless given), and
# exits with 1 if a step fails or anything is left in Python at the end.

Logger.configure(level: :warning)

# Why it could not be started is in the log.
with {:error, _reason} <- Application.ensure_all_started(:session_lifecycle_example) do
  exit({:shutdown, 1})
end

with {:error, sentence} <- SessionLifecycleExample.tour(System.argv()) do
  IO.puts(:stderr, sentence)
  exit({:shutdown, 1})
end
