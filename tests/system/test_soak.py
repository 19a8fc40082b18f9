import asyncio
import random

import pytest

from soak.tally import HANG_S, Tally
from soak.traffic import STALLED_S, Traffic
from tests.doubles import HandClock


@pytest.mark.parametrize(
    ("after_s", "hangs"), [(STALLED_S + 0.1, 0), (STALLED_S + HANG_S - 0.1, 0), (STALLED_S + HANG_S + 0.1, 1)]
)
async def test_a_stalled_client_that_is_answered_late_is_a_hang(after_s: float, hangs: int) -> None:
    clock = HandClock()

    async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        clock.now_s += after_s
        writer.write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer_late, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        tally = Tally(clock)
        base_url, chance = f"http://127.0.0.1:{port}", random.Random(1)  # noqa: S311 - a load, no secret
        traffic = Traffic(base_url=base_url, api_key="", tally=tally, chance=chance, steady_clock=clock)
        try:
            await traffic.sloth()
        finally:
            await traffic.close()

    assert tally.hostile["stalled"] == 1
    assert tally.broken == ({"hang": hangs} if hangs else {})


@pytest.mark.parametrize(("last_mib", "broken"), [(69.9, 0), (70.0, 1)])
def test_memory_that_grows_after_the_warm_up_is_a_broken_promise(last_mib: float, broken: int) -> None:
    clock = HandClock()
    tally = Tally(clock)
    for rss_mib in [20.0] * 30 + [60.0] * 45 + [last_mib] * 45:
        clock.now_s += 1
        tally.sample(rss_mib)

    tally.end()

    assert tally.broken["memory"] == broken
