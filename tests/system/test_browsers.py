from pathlib import Path

import pytest

from tests.processes import running
from tests.system.browsers import browse


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_click_of_a_browser_is_lost_and_none_counts_twice(tmp_path: Path, workers: int) -> None:
    with running(tmp_path, GUEST_WORKERS=str(workers), GUEST_MAX_TOKEN_BYTES="16384") as service:
        done = await browse(service.base_url, range(24))

    assert done["seeds"] == 24
    assert done["rebased"] > 100
