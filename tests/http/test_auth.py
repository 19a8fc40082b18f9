import base64
import os
from pathlib import Path
from urllib.parse import quote_plus

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


def test_a_missing_keys_file_is_reported_once(
    tmp_path: Path, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "api-keys"
    file.write_text(OLD)
    access = ApiKeyAuth(Settings.from_mapping({"GUEST_API_KEYS_FILE": str(file)}).access, clock=clock)

    file.unlink()
    for _ in range(3):
        clock.now_s += 2
        access.check(presenting(OLD))
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    file.write_text(NEW)
    clock.now_s += 2

    access.check(presenting(NEW))
    assert [message.partition(":")[0] for message in errors] == [
        "the file of API keys cannot be used, the keys stay as they were"
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


def test_a_keys_file_replaced_while_unreadable_is_read_again(tmp_path: Path, clock: HandClock) -> None:
    """The stamp of a file that could not be read must not count as read: a withdrawn key would stay valid."""
    file = tmp_path / "api-keys"
    file.write_text(OLD)
    auth = ApiKeyAuth(Settings.from_mapping({"GUEST_API_KEYS_FILE": str(file)}).access, clock=clock)
    auth.check(presenting(OLD))

    file.write_bytes(b"\xff" * len(NEW))
    clock.now_s += 2
    auth.check(presenting(OLD))
    stamp = file.stat()
    file.write_text(NEW)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    clock.now_s += 2

    auth.check(presenting(NEW))
    with pytest.raises(HttpProblem):
        auth.check(presenting(OLD))


def basic(password: str) -> CIMultiDictProxy[str]:
    encoded = base64.b64encode(f"any-client:{password}".encode()).decode()
    return CIMultiDictProxy(CIMultiDict({"Authorization": f"Basic {encoded}"}))


SECRET = "key+with%reserved:characters"


@pytest.mark.parametrize(
    ("headers", "form"),
    [
        pytest.param(presenting(SECRET), {}, id="X-API-Key"),
        pytest.param(CIMultiDictProxy(CIMultiDict({"Authorization": f"Bearer {SECRET}"})), {}, id="Bearer"),
        pytest.param(basic(SECRET), {}, id="Basic, raw"),
        pytest.param(basic(quote_plus(SECRET)), {}, id="Basic, form-encoded"),
        pytest.param(CIMultiDictProxy(CIMultiDict()), {"client_secret": SECRET}, id="client_secret"),
    ],
)
def test_a_client_presents_the_key_where_oauth_puts_it(headers: CIMultiDictProxy[str], form: dict[str, str]) -> None:
    auth = ApiKeyAuth(Settings.from_mapping({"GUEST_API_KEYS": SECRET}).access, clock=HandClock())

    auth.check(headers, form=form)


@pytest.mark.parametrize(
    ("headers", "form"),
    [
        pytest.param(basic(SECRET[:-1]), {}, id="Basic, another password"),
        pytest.param(CIMultiDictProxy(CIMultiDict({"Authorization": "Basic %%%"})), {}, id="Basic, no base64"),
        pytest.param(CIMultiDictProxy(CIMultiDict({"Authorization": "Basic /w=="})), {}, id="Basic, no UTF-8"),
        pytest.param(CIMultiDictProxy(CIMultiDict()), {"client_secret": "x"}, id="client_secret, another"),
        pytest.param(CIMultiDictProxy(CIMultiDict()), {"client_id": SECRET}, id="as the client's id"),
    ],
)
def test_a_client_without_the_key_is_refused(headers: CIMultiDictProxy[str], form: dict[str, str]) -> None:
    auth = ApiKeyAuth(Settings.from_mapping({"GUEST_API_KEYS": SECRET}).access, clock=HandClock())

    with pytest.raises(HttpProblem) as refused:
        auth.check(headers, form=form)
    assert refused.value.code == "unauthorized"


def test_only_clients_may_present_the_key_as_a_password() -> None:
    auth = ApiKeyAuth(Settings.from_mapping({"GUEST_API_KEYS": SECRET}).access, clock=HandClock())

    with pytest.raises(HttpProblem):
        auth.check(basic(SECRET))
