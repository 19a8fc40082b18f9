from pathlib import Path

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from service.config import Settings
from service.http.auth import ApiKeyAuth
from service.http.problems import HttpProblem
from tests.conftest import MakeApi
from tests.doubles import HandClock

OLD, NEW = "o" * 20, "n" * 20


def presenting(key: str) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict({"X-API-Key": key}))


async def test_the_keys_file_is_read_again_when_it_changes(make_api: MakeApi, tmp_path: Path, clock: HandClock) -> None:
    file = tmp_path / "api-keys"
    file.write_text(OLD)
    api = await make_api(GUEST_API_KEYS_FILE=str(file))

    async def status(key: str) -> int:
        return (await api.post("/v1/issue", {}, headers={"X-API-Key": key})).status

    before = [await status(OLD), await status(NEW)]
    file.write_text(f"{NEW}\n{NEW}2")
    clock.now_s += 2
    after = [await status(OLD), await status(NEW)]

    assert (before, after) == ([201, 401], [401, 201])


async def test_a_keys_file_that_turns_unusable_leaves_the_keys_as_they_were(
    make_api: MakeApi, tmp_path: Path, clock: HandClock
) -> None:
    file = tmp_path / "api-keys"
    file.write_text(OLD)
    api = await make_api(GUEST_API_KEYS_FILE=str(file))

    for content in ("", "# nothing\n", "short\n", None):
        if content is None:
            file.unlink()
        else:
            file.write_text(content)
        clock.now_s += 2
        assert (await api.post("/v1/issue", {}, headers={"X-API-Key": OLD})).status == 201
        assert (await api.post("/v1/issue", {})).status == 401


def test_a_keys_file_that_vanishes_is_told_once_and_read_when_it_is_back(
    tmp_path: Path, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "api-keys"
    file.write_text(OLD)
    access = ApiKeyAuth(Settings.from_mapping({"GUEST_API_KEYS_FILE": str(file)}).access, clock=clock)

    file.unlink()
    for _ in range(3):
        clock.now_s += 2
        access.check(presenting(OLD))
    told = [record.message for record in caplog.records if record.levelname == "ERROR"]
    file.write_text(NEW)
    clock.now_s += 2

    access.check(presenting(NEW))
    assert [message.partition(":")[0] for message in told] == [
        "the API keys' file is unusable, the keys stay as they were"
    ]


def test_a_worker_forked_with_settings_of_old_holds_the_keys_of_now(tmp_path: Path, clock: HandClock) -> None:
    file = tmp_path / "api-keys"
    file.write_text(OLD)
    settings = Settings.from_mapping({"GUEST_API_KEYS_FILE": str(file)})
    file.write_text(NEW)

    access = ApiKeyAuth(settings.access, clock=clock)

    access.check(presenting(NEW))
    with pytest.raises(HttpProblem, match="A valid API key is needed"):
        access.check(presenting(OLD))
