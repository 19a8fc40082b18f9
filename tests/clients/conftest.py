import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.applications import APPLICATIONS, OF_ROUTERS, ROUTERS
from tests.clients.stage import API_KEY, Stage, staged

Stages = Callable[..., Stage]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each application's tests in one worker, beside one service; a router's are a part of all."""

    def application(item: pytest.Item) -> str:
        callspec = getattr(item, "callspec", None)
        return "" if callspec is None else str(callspec.params.get("name", ""))

    items[:] = [each for each in items if application(each) not in ROUTERS or each.path.name in OF_ROUTERS]
    for item in items:
        if name := application(item):
            item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(scope="session", params=APPLICATIONS)
def name(request: pytest.FixtureRequest) -> str:
    """The application under test."""
    application: str = request.param
    if reason := APPLICATIONS[application].missing():
        pytest.skip(reason)
    return application


@pytest.fixture(scope="session")
def shared_stage(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(name, tmp_path_factory.mktemp(name), service={"GUEST_API_KEYS": API_KEY}) as stage:
        stage.warm_up()
        yield stage


@pytest.fixture
def app(shared_stage: Stage) -> Iterator[Stage]:
    """The application with its service, as most sites have them; open at the end whatever a test did to it."""
    yield shared_stage
    if shared_stage.front.state != "open":
        shared_stage.reopen()


@pytest.fixture
def stages(name: str, tmp_path: Path) -> Iterator[Stages]:
    """Starts the application with settings of a test's own, for the service and for itself."""
    with contextlib.ExitStack() as life:
        yield lambda **settings: life.enter_context(staged(name, tmp_path, **settings))
