defmodule SnakeBridge.Streams do
  @moduledoc false
  # Python iterators as Elixir streams.

  alias SnakeBridge.{Options, Ref, Runtime, StreamRef}

  @max_batch 1_000
  # Fetching this long (in microseconds) is too short for a round trip each, or too long to wait for.
  @quick 2_000
  @slow 20_000

  @spec stream(Ref.t() | StreamRef.t(), [SnakeBridge.stream_option()]) :: Enumerable.t()
  def stream(ref, opts \\ []) do
    Options.check!(opts, [:timeout, :session_id, :max_batch, :release], "a stream")
    max_batch = Keyword.get(opts, :max_batch, @max_batch)
    # What the stream has made itself is of no use to anybody else.
    release? = match?(%Ref{}, ref) or Keyword.get(opts, :release, true)
    opts = Keyword.take(opts, [:timeout, :session_id])

    # The size of the next batch is :first as long as nothing was fetched, and :done in the end. An
    # iterator that refused to be read, such as one of another session, is not ours to release.
    Stream.resource(
      fn -> {iterator(ref, opts), :first} end,
      &fetch(&1, max_batch, opts),
      fn {iterator, size} ->
        if release? and (size != :first or iterator != ref), do: Runtime.release_ref(iterator)
      end
    )
  end

  defp iterator(%Ref{} = iterable, opts) do
    opts = [node: node(iterable.id)] ++ opts

    case Runtime.call("builtins", "iter", [iterable], opts) do
      {:ok, iterator} -> iterator
      {:error, exception} -> raise exception
    end
  end

  defp iterator(iterator, _opts), do: iterator

  defp fetch({iterator, :done}, _max_batch, _opts), do: {:halt, {iterator, :done}}
  defp fetch({iterator, :first}, max_batch, opts), do: fetch(iterator, 1, max_batch, opts)
  defp fetch({iterator, size}, max_batch, opts), do: fetch(iterator, size, max_batch, opts)

  defp fetch(iterator, size, max_batch, opts) do
    start = System.monotonic_time(:microsecond)

    case Runtime.next(iterator, size, opts) do
      {:ok, items, :done} ->
        {items, {iterator, :done}}

      {:ok, items, :more} ->
        elapsed = System.monotonic_time(:microsecond) - start
        {items, {iterator, next_size(size, elapsed, max_batch)}}

      {:error, exception} ->
        raise exception
    end
  end

  defp next_size(size, elapsed, max_batch) when elapsed < @quick, do: min(size * 2, max_batch)
  defp next_size(size, elapsed, _max_batch) when elapsed > @slow, do: max(div(size, 4), 1)
  defp next_size(size, _elapsed, _max_batch), do: size
end
