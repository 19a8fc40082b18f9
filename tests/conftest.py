from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.api import Api, serving
from tests.doubles import HandClock
from tests.log_sieve import sifting

MakeApi = Callable[..., Awaitable[Api]]


@pytest.fixture(autouse=True)
def nothing_secret_is_logged() -> Iterator[None]:
    """Of the whole suite: no token, key or secret in any log record, at any level."""
    with sifting() as sieve:
        yield
    assert sieve.leaked == []


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
