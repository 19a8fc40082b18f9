import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests.clients.applications import APPLICATIONS, CORES, OF_ROUTERS, ROUTERS
from tests.clients.stage import API_KEY, Stage, staged
from tests.gateways.guest_service import GuestService, guest_service

Services = Callable[..., GuestService]
Stages = Callable[..., Stage]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "core: of what no framework has a part in; runs in one application of each core")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A router's tests, and those of what only the cores decide, are a part of all."""

    def counts(item: pytest.Item) -> bool:
        callspec = getattr(item, "callspec", None)
        name = "" if callspec is None else callspec.params.get("name", "")
        of_core = item.get_closest_marker("core") is not None
        if name in ROUTERS:
            return item.path.name in OF_ROUTERS and not of_core
        return not name or name in CORES or not of_core

    items[:] = [each for each in items if counts(each)]


class ByApplication(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Each application's tests in one worker, which starts it once; others by their file.

    Under pytest 9.2 the groups of pytest-xdist 3.8 have no effect.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        parameters = test.partition("[")[2]
        return next((name for name in APPLICATIONS if parameters.startswith((f"{name}-", f"{name}]"))), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByApplication:
    return ByApplication(config, log)


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """One service for each set of settings, from when a test first asks for it; applications come and go before it."""
    with contextlib.ExitStack() as life:

        @functools.cache
        def started(**settings: str) -> GuestService:
            return life.enter_context(guest_service(tmp_path_factory.mktemp("service"), **settings))

        yield started


@pytest.fixture(scope="session", params=APPLICATIONS)
def name(request: pytest.FixtureRequest) -> str:
    """The application under test."""
    application: str = request.param
    if reason := APPLICATIONS[application].missing():
        pytest.skip(reason)
    return application


@pytest.fixture(scope="session")
def shared_stage(name: str, services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(name, services(GUEST_API_KEYS=API_KEY), tmp_path_factory.mktemp(name)) as stage:
        stage.warm_up()
        yield stage


@pytest.fixture
def app(shared_stage: Stage) -> Iterator[Stage]:
    """The application with its service, as most sites have them; at the end it finds it available, whatever happened.

    On a busy machine a client may have waited for the service too long; it says so in its log.
    """
    log_bytes = shared_stage.log_path.stat().st_size
    yield shared_stage
    if shared_stage.front.state != "open" or shared_stage.log_path.stat().st_size != log_bytes:
        shared_stage.reopen()


@pytest.fixture
def stages(name: str, services: Services, tmp_path: Path) -> Iterator[Stages]:
    """Starts the application with settings of a test's own, before a service with settings of its own."""
    with contextlib.ExitStack() as life:

        def start(*, service: Mapping[str, str] | None = None, **settings: str) -> Stage:
            return life.enter_context(staged(name, services(**(service or {})), tmp_path, **settings))

        yield start
