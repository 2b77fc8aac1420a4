"""gRPC at its lightest: one method, messages packed by msgpack in place of generated classes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import msgpack

from benchmarks.targets import function

#: What both sides must say, so that a message may have any length.
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def _call(request: list[Any], _context: object) -> Any:
    module, name, args = request
    return function(module, name)(*args)


def main() -> None:
    """Say the port, and serve until killed."""
    server = grpc.server(ThreadPoolExecutor(16), options=OPTIONS)
    handler = grpc.unary_unary_rpc_method_handler(_call, msgpack.unpackb, msgpack.packb)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("bench", {"Call": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"ready {port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
