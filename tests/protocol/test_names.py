from __future__ import annotations

import pytest

from pynode.protocol.names import is_host, is_node_name, require_node_name


@pytest.mark.parametrize(
    "name", ["py@127.0.0.1", "a@b", "c-1_x.y@höst", "a@" + "h" * 253, "a@[::1]"]
)
def test_is_a_node_name(name: str) -> None:
    assert is_node_name(name)
    require_node_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "@", "py", "py@", "@h", "a@b@c", "a b@h", "a@h\n", "\x7f@h", "日@h", "a@" + "h" * 254],
)
def test_is_no_node_name(name: str) -> None:
    assert not is_node_name(name)
    with pytest.raises(ValueError, match="is no node name; write name@host"):
        require_node_name(name)


def test_hosts() -> None:
    assert is_host("127.0.0.1")
    assert not is_host("")
    assert not is_host("a@h")
    assert not is_host("h\n")
    assert not is_host("h" * 256)
