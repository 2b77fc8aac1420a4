defmodule SnakeBridge.ErrorTranslator do
  @moduledoc """
  Makes an exception of whatever went wrong.

  Python nodes send the exception structs of this library as they are. What is translated is what
  the BEAM says when there is no answer: the exit reasons of `GenServer.call/3`.
  """

  alias SnakeBridge.{CallTimeoutError, Distribution, NodeUnavailableError, PythonError}

  @doc """
  Returns the exception that says what `error` is.

    * an exception stays what it is, and `{:error, error}` is `error`
    * the exit reason of a call that got no answer becomes a `SnakeBridge.CallTimeoutError`, or
      a `SnakeBridge.NodeUnavailableError` with a message that says what to check
    * a map with `type` and `message` (keys are atoms or strings) becomes a `SnakeBridge.PythonError`
    * anything else becomes what `Exception.normalize/2` makes of it

  ## Examples

      iex> SnakeBridge.ErrorTranslator.translate(%{"type" => "ValueError", "message" => "no"})
      %SnakeBridge.PythonError{type: "ValueError", message: "no"}

      iex> call = {GenServer, :call, [{:snakebridge, :"py@127.0.0.1"}, :info, 100]}
      iex> SnakeBridge.ErrorTranslator.translate({:timeout, call})
      %SnakeBridge.CallTimeoutError{
        node: :"py@127.0.0.1",
        timeout: 100,
        message:
          "py@127.0.0.1 has not answered within 100 ms, and the call may still run there: " <>
            "give a larger :timeout, or open the session with cancel_on_timeout: true."
      }
  """
  @spec translate(term()) :: Exception.t()
  def translate(%{__exception__: true} = exception), do: exception
  def translate({:error, error}), do: translate(error)

  def translate({reason, {GenServer, :call, [{:snakebridge, node}, _request, timeout]}}) do
    translate_exit(reason, node, timeout)
  end

  def translate(%{"type" => type, "message" => message} = error) do
    python_error(type, message, error["traceback"], error["notes"])
  end

  def translate(%{type: type, message: message} = error) do
    python_error(type, message, error[:traceback], error[:notes])
  end

  def translate(other), do: Exception.normalize(:error, other)

  defp python_error(type, message, traceback, notes) do
    %PythonError{type: type, message: message, traceback: traceback, notes: notes || []}
  end

  defp translate_exit(:timeout, node, timeout) do
    error = %CallTimeoutError{node: node, timeout: timeout}
    %{error | message: Exception.message(error)}
  end

  defp translate_exit(reason, node, _timeout) do
    {reason, explanation} = explain(reason, node)
    %NodeUnavailableError{node: node, reason: reason, message: explanation}
  end

  defp explain(:noproc, node) do
    {:noproc,
     "The node #{node} runs, but no Python side answers there: " <>
       "check the name, it should be that of a `pynode serve`."}
  end

  defp explain(:lifeline, node) do
    {:not_running,
     "The application :snakebridge was stopped while #{node} was asked, so the answer is not known: " <>
       "call again when it runs."}
  end

  defp explain({:nodedown, _node}, node), do: {:nodedown, not_connected(node)}
  defp explain(:noconnection, node), do: {:nodedown, not_connected(node)}

  defp explain(reason, node) do
    {reason,
     "The Python side of #{node} exited before it answered (#{inspect(reason)}): " <>
       "look at its log, and call again when it is back."}
  end

  @doc false
  @spec not_connected(node()) :: String.t()
  def not_connected(node) do
    cond do
      not Node.alive?() ->
        "This VM is not distributed, so it cannot reach #{node}: start it with --sname (or " <>
          "--name, if the host in that name has a dot), or have the Python node started here with `config :snakebridge, python: []`."

      mismatch = Distribution.mismatch(node) ->
        "There is no connection to #{node}: " <> mismatch

      node in Node.list(:connected) ->
        "The connection to #{node} was lost while the call ran: it is back, " <>
          "but sessions of this VM without grace_seconds have ended, so start over."

      Distribution.registered?(node) ->
        "There is no connection to #{node}, although its host knows the name: check that it has " <>
          "this VM's cookie (PYNODE_COOKIE) and did not just go down."

      true ->
        "There is no node #{node}: start it with `pynode serve --name #{node}`, " <>
          "or wait until it is back if it is being restarted."
    end
  end
end
