"""The floor: Python that sends back bytes as they come, over TCP, and looks at none of them."""

from __future__ import annotations

import socket


def main() -> None:
    """Say the port, accept one connection, and serve it until its end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(f"ready {server.getsockname()[1]}", flush=True)
        connection, _ = server.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = memoryview(bytearray(1 << 20))
        while size := connection.recv_into(buffer):
            connection.sendall(buffer[:size])


if __name__ == "__main__":
    main()
