"""The service started as a person would, and a person's shell beside it, without settings of this machine."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import processes
from tests.ports import free_port


def environment() -> dict[str, str]:
    """What a person's shell has: this Python first, no settings of this project, no proxy for the loopback address."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return processes.environment({"PATH": path, "no_proxy": "127.0.0.1"})


@contextmanager
def served(folder: Path, **variables: str) -> Iterator[str]:
    """The address where the service listens, in `folder` and under further settings; it must end with exit code 0.

    The issuer is the default one, which names the port: so that is chosen here.
    """
    with processes.running(folder, GUEST_PORT=str(free_port()), GUEST_ISSUER="", **variables) as service:
        yield service.base_url.removeprefix("http://")
        assert service.stop() == 0
