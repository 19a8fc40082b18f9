from pathlib import Path

import pytest

from tests.processes import running
from tests.system.browsers import browse, replicas


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_click_of_a_browser_is_lost_and_none_counts_twice(tmp_path: Path, workers: int) -> None:
    with running(tmp_path, GUEST_WORKERS=str(workers), GUEST_MAX_TOKEN_BYTES="16384") as service:
        done = await browse([service.base_url], range(24))

    assert (done["seeds"], done["lost"]) == (24, 0)
    assert done["rebased"] > 100
    assert done["late"] > 0  # a login came in between


async def test_two_replicas_lose_clicks_unless_a_guest_stays_at_one() -> None:
    with replicas(2, GUEST_MAX_TOKEN_BYTES="16384") as base_urls:
        routed = await browse(base_urls, range(12))
        unrouted = await browse(base_urls, range(12), routed=False)

    assert routed["lost"] == 0
    assert unrouted["lost"] > 0  # the check can fail
