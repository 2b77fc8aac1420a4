"""Valid inputs with damage: what hypothesis tries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: What is written over four, eight, two or one byte: what a length or a number could be.
NUMBERS = [0, 1, 2, 127, 128, 255, 256, 65_535, 65_536, 1 << 31, (1 << 32) - 1, 1 << 63]


def damaged(seeds: Sequence[bytes], words: Sequence[bytes] = (b"\0",)) -> st.SearchStrategy[bytes]:
    """Inputs made of `seeds` by a few steps of damage; `words` are what is put in as a whole."""
    return st.builds(
        _apply,
        st.sampled_from(seeds),
        st.lists(st.one_of(*_steps(seeds, words)), min_size=1, max_size=5),
    )


def _apply(data: bytes, steps: list[Callable[[bytearray], None]]) -> bytes:
    buffer = bytearray(data)
    for step in steps:
        step(buffer)
    return bytes(buffer)


def _steps(
    seeds: Sequence[bytes], words: Sequence[bytes]
) -> list[st.SearchStrategy[Callable[[bytearray], None]]]:
    at = st.integers(0, 2_000)
    pieces = st.tuples(st.sampled_from(seeds), at, st.integers(1, 60))
    return [
        st.builds(_flip_bit, at, st.integers(0, 7)),
        st.builds(_insert, at, st.integers(0, 1), st.binary(min_size=1, max_size=4)),
        st.builds(_insert, at, st.just(0), st.sampled_from(words)),
        st.builds(_set_number, at, st.sampled_from([1, 2, 4, 8]), st.sampled_from(NUMBERS)),
        st.builds(_truncate, at),
        st.builds(_delete, at, st.integers(1, 20)),
        st.builds(_splice, at, pieces),
        st.builds(_repeat, at, st.integers(1, 40), st.integers(1, 20)),
    ]


def _flip_bit(at: int, bit: int) -> Callable[[bytearray], None]:
    def step(data: bytearray) -> None:
        if data:
            data[at % len(data)] ^= 1 << bit

    return step


def _insert(at: int, instead: int, new: bytes) -> Callable[[bytearray], None]:
    def step(data: bytearray) -> None:
        start = at % (len(data) + 1)
        data[start : start + instead * len(new)] = new

    return step


def _set_number(at: int, size: int, number: int) -> Callable[[bytearray], None]:
    return _insert(at, 1, (number % (1 << 8 * size)).to_bytes(size))


def _truncate(at: int) -> Callable[[bytearray], None]:
    def step(data: bytearray) -> None:
        del data[at % (len(data) + 1) :]

    return step


def _delete(at: int, size: int) -> Callable[[bytearray], None]:
    def step(data: bytearray) -> None:
        start = at % (len(data) + 1)
        del data[start : start + size]

    return step


def _splice(at: int, piece: tuple[bytes, int, int]) -> Callable[[bytearray], None]:
    seed, start, size = piece
    start %= len(seed)
    return _insert(at, 0, seed[start : start + size])


def _repeat(at: int, size: int, times: int) -> Callable[[bytearray], None]:
    def step(data: bytearray) -> None:
        start = at % (len(data) + 1)
        data[start:start] = data[start : start + size] * times

    return step
