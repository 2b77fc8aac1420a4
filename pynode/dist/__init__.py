"""All input and output: sockets, TLS, EPMD, the connection table, the engine that runs calls."""
