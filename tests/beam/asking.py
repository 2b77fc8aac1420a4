"""What tests of the lifecycle ask a Python node, as a process of a BEAM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pynode.terms import Atom, Pid
from pynode.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    from pynode.testing import BeamNode, BeamProcess, PynodeProcess

#: The module of what the Python node is asked for.
SPECIMENS = "tests.beam.specimens"
CALL = "gen_server:call({snakebridge, Node}, Request, infinity)"


def ask(process: BeamProcess | BeamNode, python: PynodeProcess, *request: object) -> Any:
    """Send a request and return the answer."""
    return start(process, python, *request).result(60)


def start(process: BeamProcess | BeamNode, python: PynodeProcess, *request: object) -> Future[Any]:
    """Send a request; the future has the answer."""
    term = request if len(request) > 1 else request[0]
    return process.start_eval(CALL, Node=Atom(python.name), Request=term)


def send(process: BeamProcess, python: PynodeProcess, *requests: object) -> None:
    """Send requests whose answers nobody waits for."""
    process.eval(
        "[gen_server:send_request({snakebridge, Node}, R) || R <- Requests], ok",
        Node=Atom(python.name),
        Requests=list(requests),
    )


def call(name: str, *args: object, **options: Any) -> Any:
    """Return the request to call one of the `SPECIMENS`, or another function with a dot."""
    module, _, function = name.rpartition(".")
    return (Atom("call"), module or SPECIMENS, function, list(args), {}, options)


def make(
    process: BeamProcess | BeamNode, python: PynodeProcess, name: str, *args: object, **options: Any
) -> Any:
    """Call one of the `SPECIMENS`, or another function with a dot, and return its value."""
    answer = ask(process, python, *call(name, *args, **options))
    assert answer[0] == "ok", answer
    return answer[1]


def open_session(
    process: BeamProcess, python: PynodeProcess, name: str = "", **settings: Any
) -> str:
    """Open a session that `process` owns; return its name."""
    name = name or f"session of {process.pid}"
    atoms = {Atom(key): value for key, value in settings.items()}
    assert ask(process, python, Atom("open_session"), name, process.pid, atoms) == Atom("ok")
    return name


def fails(answer: Any) -> dict[str, Any]:
    """Return the fields of the exception in an answer, and its name as `struct`."""
    tag, value = answer
    assert tag == "error", answer
    return {**value, "struct": value["__struct__"].removeprefix("Elixir.SnakeBridge.")}


def sessions(beam: BeamNode, python: PynodeProcess) -> dict[str, Any]:
    """Return the sessions of the node."""
    found: dict[str, Any] = ask(beam, python, Atom("sessions"))[1]
    return found


def owned_by(beam: BeamNode, python: PynodeProcess, owner: Pid) -> list[str]:
    """Return the sessions that a process owns."""
    return [name for name, s in sessions(beam, python).items() if owner in s["owners"]]


def info(beam: BeamNode, python: PynodeProcess) -> dict[str, Any]:
    """Return what the node tells about itself."""
    found: dict[str, Any] = ask(beam, python, Atom("info"))[1]
    return found


def reason(beam: BeamNode | BeamProcess, python: PynodeProcess, ref: Any) -> str:
    """Return why a ref is gone."""
    return str(fails(ask(beam, python, Atom("getattr"), ref, "__doc__"))["reason"])


def is_there(beam: BeamNode | BeamProcess, python: PynodeProcess, ref: Any) -> bool:
    """Whether a ref stands for its object."""
    return bool(ask(beam, python, Atom("getattr"), ref, "__doc__")[0] == "ok")


def events(beam: BeamNode | BeamProcess, python: PynodeProcess, key: str) -> list[Any]:
    """Return what the specimens of this key have noted."""
    found: list[Any] = make(beam, python, "events", key)
    return found


def wait_for_events(
    beam: BeamNode, python: PynodeProcess, key: str, wanted: Iterable[Any]
) -> list[Any]:
    """Wait until all these events were noted, and return all that were."""
    wanted = list(wanted)

    def noted() -> list[Any]:
        found = events(beam, python, key)
        return found if all(found.count(one) >= wanted.count(one) for one in wanted) else []

    return wait_until(noted, 30.0)
