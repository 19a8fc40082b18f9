"""Where and when a computation runs: in place or in a thread, and at its turn among other requests' computations."""

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

T = TypeVar("T")


class Compute(Protocol):
    """Runs a computation that may take milliseconds, so that it does not block everything else."""

    async def __call__(self, work: Callable[[], T], /) -> T:
        """Return the result of `work`, or raise its exception."""


class _NextTurn:
    def __await__(self) -> Generator[None, None, None]:
        yield


NEXT_TURN: Final = _NextTurn()
"""Awaited, it lets what else is ready run first, as `asyncio.sleep(0)` does, without that one's two coroutines: an
issue, which does this twice, takes 5 % less time."""


async def run_inline(work: Callable[[], T], /) -> T:
    """Run short work in place: the `Compute` for small inputs."""
    return work()


class OffloadThread:
    """Runs computations one after the other in a thread of its own, which starts with the first of them.

    Python's threads take turns every few milliseconds, so the event loop continues, at worst at half its speed; beside
    an RSA signature, which releases the interpreter's lock, at its full speed where there is a second core.
    """

    def __init__(self) -> None:
        # Not the loop's default executor: a crowd of large requests must not delay the reading of the keyring's file.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="offload")

    async def __call__(self, work: Callable[[], T], /) -> T:
        """Returns what `work` returns, or raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
