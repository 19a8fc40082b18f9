"""Where a computation runs: in place, or in a thread so that the event loop stays free for other requests."""

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Compute(Protocol):
    """Runs a computation that may take milliseconds, so that it does not block everything else."""

    async def __call__(self, work: Callable[[], T], /) -> T:
        """Return the result of `work`, or raise its exception."""


async def run_inline(work: Callable[[], T], /) -> T:
    """Run short work in place: the `Compute` for small inputs."""
    return work()
