defmodule SnakeBridge.ServeCommand do
  @moduledoc false
  # The command `python -m pynode serve ...` that a `SnakeBridge.PythonNode` runs.

  alias SnakeBridge.{Config, Distribution}

  # How much of a line is logged at once.
  @line_length 16_384
  # What Python itself needs of :shutdown, beside the running calls, and what these have at least.
  @shutdown_margin 5_000

  @doc "The options of its port, for a Python node of that name with those options."
  @spec port_options(node(), keyword()) :: list()
  def port_options(node, options) do
    arguments = ["-m", "pynode", "serve", "--name", "#{node}", "--stop-on-eof"]
    listen = if address = Distribution.address(node), do: ["--listen", address], else: []
    cd = if options[:cd], do: [cd: options[:cd]], else: []
    more = Keyword.get(options, :args, [])

    [
      :binary,
      :exit_status,
      :hide,
      :stderr_to_stdout,
      line: @line_length,
      args: arguments ++ listen ++ shutdown_seconds(Config.shutdown(options)) ++ more,
      env: environment(options)
    ] ++ cd
  end

  # How long running calls may take to finish; without it Python gives them five seconds.
  defp shutdown_seconds(:infinity), do: ["--shutdown-seconds", "#{365 * 24 * 3_600}"]

  defp shutdown_seconds(shutdown) when shutdown > 2 * @shutdown_margin,
    do: ["--shutdown-seconds", "#{(shutdown - @shutdown_margin) / 1_000}"]

  defp shutdown_seconds(_shutdown), do: []

  defp environment(options) do
    ours = [
      {"PYNODE_COOKIE", Atom.to_string(options[:cookie] || Node.get_cookie())},
      {"PYTHONUNBUFFERED", "1"},
      {"ERL_EPMD_PORT", Distribution.epmd_port() || System.get_env("ERL_EPMD_PORT")}
    ]

    for {name, value} <- ours ++ Keyword.get(options, :env, []), value != nil do
      {String.to_charlist(name), String.to_charlist(value)}
    end
  end
end
