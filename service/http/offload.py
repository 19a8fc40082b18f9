"""One thread for long computations, beside the event loop: they wait for each other, and requests for none of them.

Python's threads take turns every few milliseconds, so that the loop goes on, at worst at half its speed.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class OffloadThread:
    """A `tokens.compute.Compute`. Its thread starts with the first call."""

    def __init__(self) -> None:
        # Not the loop's own threads: a crowd of large requests must not stand before the look at the keyring's file.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="aside")

    async def __call__(self, work: Callable[[], T], /) -> T:
        """What `work` answers or raises."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
