"""Where refs come from: the incarnation of this node that they name, and its clocks."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from pynode.terms import Reference

if TYPE_CHECKING:
    from collections.abc import Callable

_WORD = 32
_MASK = (1 << _WORD) - 1


class Origin:
    """Turns references of this node incarnation into integer keys and back.

    A key is the reference's words, the first (which counts fastest) as the lowest, below a 1
    that tells how many words there are: it takes a sixth of the memory of a `Reference`.
    """

    def __init__(
        self,
        new_reference: Callable[[], Reference],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.new_reference = new_reference
        self.clock = clock
        self._wall_clock = wall_clock

    @cached_property
    def example(self) -> Reference:
        """A reference of this node incarnation.

        It is made when first needed, because before the node is up there is no creation.
        """
        return self.new_reference()

    def key(self, reference: Reference) -> int | None:
        """Return the key of a reference, or None when it is not of this node incarnation."""
        example = self.example
        if reference.creation != example.creation or reference.node != example.node:
            return None
        key = 1
        for word in reversed(reference.ids):
            key = key << _WORD | word
        return key

    def mint(self) -> int:
        """Return the key of a new reference."""
        key = self.key(self.new_reference())
        if key is None:
            raise RuntimeError("The node made a reference that is not its own: report this bug.")
        return key

    def reference(self, key: int) -> Reference:
        """Return the reference that has this key."""
        example = self.example
        words = key.bit_length() // _WORD
        ids = tuple(key >> _WORD * index & _MASK for index in range(words))
        return Reference(example.node, example.creation, ids)

    def is_former(self, reference: Reference) -> bool:
        """Whether the reference is of this node, but of another incarnation of it."""
        example = self.example
        return reference.node == example.node and reference.creation != example.creation

    def unix(self, moment: float) -> int:
        """Convert a time of `clock` to whole Unix seconds, as the wall clock counts them now."""
        return int(self._wall_clock() - self.clock() + moment)
