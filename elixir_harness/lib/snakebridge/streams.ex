defmodule SnakeBridge.Streams do
  @moduledoc false
  # Python iterators as Elixir streams.

  alias SnakeBridge.{Ref, Runtime, StreamRef}

  @max_batch 1_000
  # Fetching this long (in microseconds) is too short for a round trip each, or too long to wait for.
  @quick 2_000
  @slow 20_000

  @spec stream(Ref.t() | StreamRef.t(), keyword()) :: Enumerable.t()
  def stream(ref, opts \\ []) do
    {max_batch, opts} = Keyword.pop(opts, :max_batch, @max_batch)
    {release, opts} = Keyword.pop(opts, :release, true)

    Stream.resource(
      fn -> {iterator(ref, opts), 1} end,
      &fetch(&1, max_batch, opts),
      fn {iterator, _size} -> if release, do: Runtime.release_ref(iterator, timeout(opts)) end
    )
  end

  defp iterator(%StreamRef{} = iterator, _opts), do: iterator

  defp iterator(%Ref{} = iterable, opts) do
    opts = [node: node(iterable.id)] ++ opts

    case Runtime.call("builtins", "iter", [iterable], opts) do
      {:ok, iterator} -> iterator
      {:error, exception} -> raise exception
    end
  end

  defp fetch({iterator, :done}, _max_batch, _opts), do: {:halt, {iterator, :done}}

  defp fetch({iterator, size}, max_batch, opts) do
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

  defp timeout(opts), do: Keyword.take(opts, [:timeout])
end
