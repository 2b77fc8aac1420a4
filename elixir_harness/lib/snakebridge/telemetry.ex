defmodule SnakeBridge.Telemetry do
  @moduledoc """
  Events for `:telemetry`, where that library is loaded when this application starts. Where it is
  not, a call pays for one look at a flag.

  | event | measurements | metadata |
  |---|---|---|
  | `[:snakebridge, :call, :start]` | `system_time`, `monotonic_time` | `node`, `request`, `module`, `function`, `session_id` |
  | `[:snakebridge, :call, :stop]` | `duration`, `monotonic_time` | the same |
  | `[:snakebridge, :call, :exception]` | `duration`, `monotonic_time` | the same, and `kind`, `reason` and `stacktrace` |

  Times are in native units. There is one `:start` for every request, and one `:stop` or one
  `:exception`. That is of kind `:error`, with the exception as `reason` and an empty `stacktrace`, if
  the request came back as `{:error, exception}`, and tells what it was if the call crashed. `request` is the request's name, such as `:call`
  or `:method`; `module` is `nil` where a ref was asked.
  """

  @enabled {__MODULE__, :enabled}

  # Of how many parts the requests consist that may be in a session: docs/PROTOCOL.md.
  @parts %{call: 5, get: 3, method: 5, getattr: 3, setattr: 4, next: 3, put: 2}

  @doc false
  @spec setup() :: :ok
  def setup, do: :persistent_term.put(@enabled, Code.ensure_loaded?(:telemetry))

  @doc false
  @spec enabled?() :: boolean()
  def enabled?, do: :persistent_term.get(@enabled, false)

  @doc false
  @spec span(node(), tuple() | atom(), (() -> result)) :: result when result: term()
  def span(node, request, fun) do
    metadata = metadata(node, request)
    start = System.monotonic_time()
    execute(:start, %{system_time: System.system_time(), monotonic_time: start}, metadata)

    try do
      fun.()
    catch
      kind, reason ->
        failed(start, metadata, kind, reason, __STACKTRACE__)
        :erlang.raise(kind, reason, __STACKTRACE__)
    else
      {:error, exception} = result ->
        failed(start, metadata, :error, exception, [])
        result

      answer ->
        execute(:stop, since(start), metadata)
        answer
    end
  end

  defp failed(start, metadata, kind, reason, stacktrace) do
    failure = %{kind: kind, reason: reason, stacktrace: stacktrace}
    execute(:exception, since(start), Map.merge(metadata, failure))
  end

  defp since(start) do
    stop = System.monotonic_time()
    %{duration: stop - start, monotonic_time: stop}
  end

  # The module is in a variable because it need not exist: neither compiler nor dialyzer is to look.
  defp execute(event, measurements, metadata) do
    telemetry = :telemetry
    telemetry.execute([:snakebridge, :call, event], measurements, metadata)
  end

  defp metadata(node, request) when is_atom(request), do: metadata(node, {request})

  defp metadata(node, request) do
    {module, function} = target(request)

    %{
      node: node,
      request: elem(request, 0),
      module: module,
      function: function,
      session_id: session_id(request)
    }
  end

  defp target(request) when elem(request, 0) in [:call, :get],
    do: {elem(request, 1), elem(request, 2)}

  defp target(request) when elem(request, 0) in [:method, :getattr, :setattr],
    do: {nil, elem(request, 2)}

  defp target(_request), do: {nil, nil}

  # A map that names the session may follow the parts of a request.
  defp session_id(request) do
    parts = @parts[elem(request, 0)]

    case parts && tuple_size(request) > parts && elem(request, parts) do
      %{session_id: id} -> id
      _none -> nil
    end
  end
end
