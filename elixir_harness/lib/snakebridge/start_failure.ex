defmodule SnakeBridge.StartFailure do
  @moduledoc false
  # Why a Python node could not be started, each in a sentence.

  alias SnakeBridge.{Distribution, NodeUnavailableError}

  @doc "Python exited before it was ready. `lines` is what it said, the last line first."
  @spec exited(node(), Path.t(), non_neg_integer() | nil, [String.t()]) ::
          NodeUnavailableError.t()
  def exited(node, python, status, lines) do
    cond do
      Enum.any?(lines, &(&1 =~ ~r/No module named '?pynode'?/)) ->
        %NodeUnavailableError{
          node: node,
          reason: :no_pynode,
          message:
            "#{python} has no module pynode: run `#{python} -m pip install pynode-beam`, or with " <>
              "the directory of a checkout in its place."
        }

      Distribution.registered?(node) ->
        name_taken(node)

      true ->
        said = Enum.find(lines, "it said nothing.", &(String.trim(&1) != ""))
        failed(node, "#{python} exited#{if status, do: " with status #{status}"}: #{said}")
    end
  end

  @spec not_connected(node(), pos_integer()) :: NodeUnavailableError.t()
  def not_connected(node, os_pid) do
    advice =
      Distribution.mismatch(node) ||
        "check that both have the same cookie, and look at its log."

    %NodeUnavailableError{
      node: node,
      reason: :not_connected,
      message:
        "The Python node #{node} runs (os pid #{os_pid}), but this VM could not " <>
          "connect to it: #{advice}"
    }
  end

  @spec failed(node(), String.t()) :: NodeUnavailableError.t()
  def failed(node, detail) do
    %NodeUnavailableError{
      node: node,
      reason: :start_failed,
      message: "The Python node #{node} did not start, #{detail}"
    }
  end

  @spec timeout(node()) :: NodeUnavailableError.t()
  def timeout(node) do
    %NodeUnavailableError{
      node: node,
      reason: :start_timeout,
      message:
        "The Python node #{node} was not ready in time and is stopped: look at its log, or give it " <>
          "a larger :start_timeout."
    }
  end

  @spec name_taken(node()) :: NodeUnavailableError.t()
  def name_taken(node) do
    %NodeUnavailableError{
      node: node,
      reason: :name_taken,
      message:
        "The node name #{node} is in use on its host: stop the node that has it, or choose another name."
    }
  end
end
