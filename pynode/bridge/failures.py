"""What is kept of the exceptions that travel."""

from __future__ import annotations


def without_frames(error: BaseException) -> BaseException:
    """Take the tracebacks out of an exception that is going to be kept, and return it.

    Their frames hold the local variables of everything that was running: whoever keeps the
    exception would keep those objects, too.
    """
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        current = todo.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            current.__traceback__ = None
            todo += (current.__cause__, current.__context__)
            if issubclass(type(current), BaseExceptionGroup):
                todo += current.exceptions  # type: ignore[attr-defined]
    return error
