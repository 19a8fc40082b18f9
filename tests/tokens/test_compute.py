import asyncio
import threading
from functools import partial
from typing import Any

import pytest

from service.tokens.compute import OffloadThread, run_inline


async def test_computations_run_one_after_the_other_in_a_thread_of_their_own() -> None:
    offload = OffloadThread()
    seen: list[str] = []

    def work(name: str) -> str:
        seen.append(f"{name} begins")
        seen.append(f"{name} ends")
        return threading.current_thread().name

    threads = await asyncio.gather(*(offload(partial(work, name)) for name in "abc"))

    assert len(set(threads)) == 1
    assert threads[0] != threading.current_thread().name
    assert seen == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]


@pytest.mark.parametrize("compute", [run_inline, OffloadThread()])
async def test_what_the_work_raises_comes_out(compute: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        await compute(lambda: 1 // 0)
