"""Ports for servers that are about to start."""

import secrets
import socket
from collections import deque
from typing import Final

PORTS: Final = range(16_384, 32_768)
"""Below those that Linux gives to outgoing connections: one of these would take a port before its server is up."""
MOST_HELD: Final = 256
_held: Final[deque[socket.socket]] = deque()


def free_port() -> int:
    """A port of the loopback address that nobody had a moment ago, and that no other test gets before a server is up.

    The UDP port of the same number is held while this process runs, or until 256 more ports were handed out: nothing
    here listens on UDP, so two test processes that bind it for a number cannot both hand out that number.
    """
    while True:
        port = secrets.choice(PORTS)  # not by `random`, which hypothesis seeds alike in every process
        held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with socket.socket() as probe:
            try:
                held.bind(("127.0.0.1", port))
                probe.bind(("127.0.0.1", port))
            except OSError:
                held.close()
                continue
        _held.append(held)
        if len(_held) > MOST_HELD:
            _held.popleft().close()
        return port
