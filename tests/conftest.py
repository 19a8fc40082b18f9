from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.api import Api, HandClock, serving

MakeApi = Callable[..., Awaitable[Api]]


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def make_api(tmp_path: Path, clock: HandClock) -> AsyncIterator[MakeApi]:
    """Starts services in this process: `await make_api(GUEST_TTL="60")`; each answer is held against openapi.yaml."""
    async with serving(tmp_path, clock) as start:
        yield start


@pytest.fixture
async def api(make_api: MakeApi) -> Api:
    """A service with the embedded defaults."""
    return await make_api()
