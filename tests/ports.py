"""Ports for servers that are about to start."""

import secrets
import socket
from typing import Final

PORTS: Final = range(16_384, 32_768)
"""Below those that Linux gives to outgoing connections: one of these would take a port before its server is up."""


def free_port() -> int:
    """A port of the loopback address that nobody had a moment ago."""
    while True:
        port = secrets.choice(PORTS)  # not by `random`, which hypothesis seeds alike in every process
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
