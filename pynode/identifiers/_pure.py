"""Pids, ports and references in pure Python: the reference for `_compiled`, its twin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, final

if TYPE_CHECKING:
    from pynode.terms import Atom


class _Identifier:
    """What pids, ports and references have in common: immutability, and a node incarnation.

    They are made and compared for every message, hence by hand and not as dataclasses: this
    takes three quarters of the time of a frozen dataclass. The node's name is part of the hash,
    which makes it a secret of this process: who chose numbers with equal hashes could make a dict
    take quadratic time. `wire` belongs to the codec, which
    keeps there the encoded form that it has made or seen; it is no part of the value.
    """

    __slots__ = ("creation", "node", "wire")

    #: The name of the node that made it.
    node: Atom
    #: Which incarnation of that node; 32 bits.
    creation: int
    wire: bytes | None

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: make a new one.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: make a new one.")


def _setter(cls: type, name: str) -> Any:
    """Return the slot's own setter, which __setattr__ does not stand in front of."""
    return cls.__dict__[name].__set__


_set_node = _setter(_Identifier, "node")
_set_creation = _setter(_Identifier, "creation")
#: ``set_wire(identifier, data)``: for the codec alone.
set_wire = _setter(_Identifier, "wire")


@final
class Pid(_Identifier):
    """A process identifier (erl_ext_dist, NEW_PID_EXT). `id` and `serial` have 32 bits each."""

    __module__ = "pynode.terms"

    __slots__ = ("_hash", "id", "serial")
    __match_args__ = ("node", "id", "serial", "creation")

    id: int
    serial: int
    _hash: int

    def __init__(
        self,
        node: Atom,
        id: int,  # noqa: A002 (as OTP calls it)
        serial: int,
        creation: int,
        *,
        _wire: bytes | None = None,
    ) -> None:
        _set_node(self, node)
        _set_pid_id(self, id)
        _set_serial(self, serial)
        _set_creation(self, creation)
        set_wire(self, _wire)
        _set_hash(self, hash((node, id, serial, creation)))

    def __eq__(self, other: object) -> bool:
        if type(other) is not Pid:
            return NotImplemented
        return (
            self.id == other.id
            and self.serial == other.serial
            and self.creation == other.creation
            and self.node == other.node
        )

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return Pid, (self.node, self.id, self.serial, self.creation)

    def __repr__(self) -> str:
        return f"Pid({self.node!r}, {self.id}, {self.serial}, {self.creation})"

    def __str__(self) -> str:
        """Return it as its own node prints it."""
        return f"<0.{self.id}.{self.serial}>"


_set_pid_id = _setter(Pid, "id")
_set_serial = _setter(Pid, "serial")
_set_hash = _setter(Pid, "_hash")


@final
class Port(_Identifier):
    """A port identifier (erl_ext_dist, V4_PORT_EXT). `id` has 64 bits."""

    __module__ = "pynode.terms"

    __slots__ = ("id",)
    __match_args__ = ("node", "id", "creation")

    id: int

    def __init__(
        self,
        node: Atom,
        id: int,  # noqa: A002 (as OTP calls it)
        creation: int,
        *,
        _wire: bytes | None = None,
    ) -> None:
        _set_node(self, node)
        _set_port_id(self, id)
        _set_creation(self, creation)
        set_wire(self, _wire)

    def __eq__(self, other: object) -> bool:
        if type(other) is not Port:
            return NotImplemented
        return self.id == other.id and self.creation == other.creation and self.node == other.node

    def __hash__(self) -> int:
        return hash((self.node, self.id, self.creation))

    def __reduce__(self) -> tuple[Any, ...]:
        return Port, (self.node, self.id, self.creation)

    def __repr__(self) -> str:
        return f"Port({self.node!r}, {self.id}, {self.creation})"

    def __str__(self) -> str:
        """Return it as its own node prints it."""
        return f"#Port<0.{self.id}>"


_set_port_id = _setter(Port, "id")


@final
class Reference(_Identifier):
    """A reference (erl_ext_dist, NEWER_REFERENCE_EXT).

    `ids` are 1 to 5 words of 32 bits in the order in which they travel; OTP 25 sends 3, an alias
    of OTP 28 has 5. They are opaque.
    """

    __module__ = "pynode.terms"

    __slots__ = ("ids",)
    __match_args__ = ("node", "creation", "ids")

    ids: tuple[int, ...]

    def __init__(
        self, node: Atom, creation: int, ids: tuple[int, ...], *, _wire: bytes | None = None
    ) -> None:
        _set_node(self, node)
        _set_creation(self, creation)
        _set_ids(self, ids)
        set_wire(self, _wire)

    def __eq__(self, other: object) -> bool:
        if type(other) is not Reference:
            return NotImplemented
        return self.ids == other.ids and self.creation == other.creation and self.node == other.node

    def __hash__(self) -> int:
        return hash((self.node, self.creation, self.ids))

    def __reduce__(self) -> tuple[Any, ...]:
        return Reference, (self.node, self.creation, self.ids)

    def __repr__(self) -> str:
        return f"Reference({self.node!r}, {self.creation}, {self.ids!r})"

    def __str__(self) -> str:
        """Return it as its own node prints it: the last word first."""
        return f"#Ref<0.{'.'.join(map(str, reversed(self.ids)))}>"


_set_ids = _setter(Reference, "ids")
