defmodule SnakeBridge.RefNotFoundError do
  @moduledoc """
  The ref stands for no object any more, or never did.

  `reason` says where the object went:

    * `:released` - somebody released it
    * `:session_released` - its session was released
    * `:owner_down` - the last process that owned its session has exited, or the connection to its
      node was lost
    * `:expired` - its session has a `ttl_seconds`, and nobody used the ref for that long
    * `:evicted` - its session was full, and it was the least recently used
    * `:node_restarted` - the Python node that held it has been restarted since
    * `:unknown` - this Python node does not remember such a ref
  """

  @typedoc "Why a ref or a session is gone."
  @type reason ::
          :released
          | :session_released
          | :owner_down
          | :expired
          | :evicted
          | :node_restarted
          | :unknown

  @type t :: %__MODULE__{
          ref_id: reference() | nil,
          session_id: String.t() | nil,
          reason: reason() | nil,
          message: String.t() | nil
        }

  defexception [:ref_id, :session_id, :reason, :message]

  @impl true
  def message(%{message: message}) when is_binary(message), do: message

  def message(error) do
    "The ref #{inspect(error.ref_id)} is not there (#{error.reason || :unknown}): " <>
      "make the call that created its object again."
  end
end

defmodule SnakeBridge.SessionNotFoundError do
  @moduledoc """
  The session has ended, or never was.

  `reason` is `:session_released`, `:owner_down`, `:node_restarted` or `:unknown`, and means what it
  means for a `SnakeBridge.RefNotFoundError`.
  """

  @type t :: %__MODULE__{
          session_id: String.t() | pid() | nil,
          reason: SnakeBridge.RefNotFoundError.reason() | nil,
          message: String.t() | nil
        }

  defexception [:session_id, :reason, :message]

  @impl true
  def message(%{message: message}) when is_binary(message), do: message

  def message(error) do
    "The session #{inspect(error.session_id)} is not there (#{error.reason || :unknown}): open a new one."
  end
end

defmodule SnakeBridge.SessionMismatchError do
  @moduledoc """
  A ref of one session (`expected_session`) was used under another (`actual_session`).

  Without an explicit session a ref brings its own, so this is only seen inside
  `SnakeBridge.SessionContext.with_session/2` and with the option `:session_id`.
  """

  @type t :: %__MODULE__{
          expected_session: String.t() | nil,
          actual_session: String.t() | nil,
          ref_id: reference() | nil,
          message: String.t() | nil
        }

  defexception [:expected_session, :actual_session, :ref_id, :message]

  @impl true
  def message(%{message: message}) when is_binary(message), do: message

  def message(error) do
    "The ref belongs to session #{error.expected_session} and was used under session " <>
      "#{error.actual_session}: use it under its own session or without naming one."
  end
end

defmodule SnakeBridge.SessionFullError do
  @moduledoc """
  The session holds `max_refs` refs and was opened with `on_full: :error`.
  """

  @type t :: %__MODULE__{
          session_id: String.t() | nil,
          max_refs: non_neg_integer() | nil,
          message: String.t() | nil
        }

  defexception [:session_id, :max_refs, :message]

  @impl true
  def message(%{message: message}) when is_binary(message), do: message

  def message(error) do
    "The session #{inspect(error.session_id)} holds #{error.max_refs} refs, as many as it may: " <>
      "release some, or open it with a larger :max_refs."
  end
end

defmodule SnakeBridge.InvalidRefError do
  @moduledoc """
  What was given as a ref is none, or is one of another node: `reason` is then `:other_node`.
  """

  @type t :: %__MODULE__{reason: term(), message: String.t() | nil}

  defexception [:reason, :message]

  @impl true
  def message(%{message: message}) when is_binary(message), do: message

  def message(error) do
    "This is no ref (#{inspect(error.reason)}): use the %SnakeBridge.Ref{} that a call returned."
  end
end

defmodule SnakeBridge.InvalidRequestError do
  @moduledoc """
  The request is none of those that a Python node knows, or has the wrong shape.
  """

  @type t :: %__MODULE__{reason: term(), message: String.t() | nil}

  defexception [:reason, :message]

  @impl true
  def message(%{message: message}) when is_binary(message), do: message

  def message(error) do
    "The Python node does not know this request (#{inspect(error.reason)}): " <>
      "check that library and node are of the same version."
  end
end

defmodule SnakeBridge.NotAllowedError do
  @moduledoc """
  The Python node was started with `--allow`, and this module is not on its list.
  """

  @type t :: %__MODULE__{module: String.t() | nil, message: String.t() | nil}

  defexception [:module, :message]

  @impl true
  def message(%{message: message}) when is_binary(message), do: message

  def message(error) do
    "The Python node may not be asked for #{inspect(error.module)}: start it with --allow #{error.module}."
  end
end

defmodule SnakeBridge.PythonError do
  @moduledoc """
  A Python exception.

    * `type` - the exception's class, such as `"ValueError"`
    * `message` - what `str()` says of the exception
    * `traceback` - the text that Python would print
    * `notes` - what was added with `add_note`
    * `ref` - the exception object itself, to look at its attributes, or `nil`

  `Exception.message/1` puts them together, traceback included, so that a crash report in the log
  names the line of Python that failed.
  """

  @type t :: %__MODULE__{
          type: String.t() | nil,
          message: String.t() | nil,
          traceback: String.t() | nil,
          notes: [String.t()],
          ref: SnakeBridge.Ref.t() | nil
        }

  defexception type: nil, message: nil, traceback: nil, notes: [], ref: nil

  @impl true
  def message(error) do
    [headline(error) | error.notes || []]
    |> Enum.join("\n")
    |> append_traceback(error.traceback)
  end

  defp headline(%{type: type, message: message}) when message in [nil, ""], do: "#{type}"
  defp headline(%{type: nil, message: message}), do: message
  defp headline(%{type: type, message: message}), do: "#{type}: #{message}"

  # Without a frame, a traceback says no more than the headline.
  defp append_traceback(text, traceback) do
    if traceback && traceback =~ "Traceback (",
      do: text <> "\n\n" <> String.trim_trailing(traceback),
      else: text
  end
end

defmodule SnakeBridge.NodeUnavailableError do
  @moduledoc """
  There is no Python node to ask, or the Python node cannot reach that of an owner.

  `node` is its name, or `nil` when none is configured. `reason` is what the BEAM said, such as
  `:nodedown` or `:noproc`; or for a node that could not be started one of `:no_interpreter`,
  `:no_pynode`, `:name_taken`, `:start_failed`, `:start_timeout`, `:not_connected`,
  `:not_distributed`, `:not_running` and `:not_configured`; or `:owner_unreachable`, and then `node` is
  the owner's.

  When a connection is lost while a call runs, nobody knows whether the call was carried out.
  """

  @type t :: %__MODULE__{node: node() | nil, reason: term(), message: String.t() | nil}

  defexception [:node, :reason, :message]

  @impl true
  def message(%{message: message}) when is_binary(message), do: message

  def message(error) do
    "The Python node #{error.node} is not available (#{inspect(error.reason)}): check that it runs."
  end
end

defmodule SnakeBridge.CallTimeoutError do
  @moduledoc """
  No answer within `timeout` milliseconds.

  The Python call goes on, unless its session was opened with `cancel_on_timeout: true`; its
  answer is dropped, and an object that it returns stays in the session.
  """

  @type t :: %__MODULE__{node: node() | nil, timeout: timeout() | nil, message: String.t() | nil}

  defexception [:node, :timeout, :message]

  @impl true
  def message(%{message: message}) when is_binary(message), do: message

  def message(error) do
    "#{error.node} has not answered within #{error.timeout} ms, and the call may still run there: " <>
      "give a larger :timeout, or open the session with cancel_on_timeout: true."
  end
end
