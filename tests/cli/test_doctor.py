import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from service.cli.doctor import Finding, examine, settings_warnings
from service.config import Settings
from service.keys import Clock
from service.keys.encryption import Sealer, make_secret
from tests import redis_servers
from tests.cli.conftest import Cli
from tests.ports import free_port
from tests.processes import running, until

PUBLIC = {"GUEST_HOST": "0.0.0.0", "GUEST_ALLOW_NO_API_KEYS": "1"}  # noqa: S104 - read, not bound


@pytest.mark.parametrize(
    ("given", "warning"),
    [
        ({"GUEST_ISSUER": "https://a.example/"}, "GUEST_ISSUER https://a.example/ ends with a slash"),
        ({"GUEST_ISSUER": "https://a.example,https://b.example/"}, "GUEST_ISSUER https://b.example/ ends with a slash"),
        ({"GUEST_ISSUER": "http://a.example"}, "GUEST_ISSUER is not https"),
        ({"GUEST_ISSUER": "http://127.0.0.1:8080", **PUBLIC}, "which verifiers on other machines cannot reach"),
        ({"GUEST_TLL": "60"}, "ignoring unknown settings: GUEST_TLL"),
    ],
    ids=["slash", "slash-of-the-second", "http", "loopback", "unknown"],
)
def test_settings_that_are_most_often_wrong_are_warned_of(given: dict[str, str], warning: str) -> None:
    [message] = settings_warnings(Settings.from_mapping(given))

    assert warning in message


def test_the_defaults_and_a_public_https_issuer_give_no_warning() -> None:
    for given in ({}, {"GUEST_ISSUER": "https://a.example", **PUBLIC}):
        assert list(settings_warnings(Settings.from_mapping(given))) == []


SECRET, OTHER = make_secret(), make_secret()


def examined(given: dict[str, str], clock: Clock = time.time) -> list[Finding]:
    return asyncio.run(examine(given, clock=clock))


def states(findings: list[Finding], check: str) -> list[str]:
    return [finding.state for finding in findings if finding.check == check]


def faults(findings: list[Finding]) -> dict[str, str]:
    """The message of each fault by its check; the last one counts."""
    return {finding.check: finding.message for finding in findings if finding.state == "fault"}


@pytest.fixture
def folder(cli: Cli, tmp_path: Path) -> Path:
    """The folder of a keyring, not sealed."""
    assert cli("keys", "init", GUEST_KEYS_DIR=str(tmp_path / "keys")).returncode == 0
    return tmp_path / "keys"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """The address of an empty Redis."""
    (tmp_path / "redis").mkdir()
    with redis_servers.plain(tmp_path / "redis") as url:
        yield url


@contextmanager
def serving_jwks(content: bytes, *, status: int = 200, behind_s: float = 0) -> Iterator[str]:
    """The address of a host that serves these bytes as every document, by a clock of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string((timestamp or time.time()) - behind_s)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_sound_deployment_has_no_fault(cli: Cli, tmp_path: Path, redis: str) -> None:
    address = {"GUEST_PORT": str(free_port()), "GUEST_ISSUER": ""}
    shared = {"GUEST_REDIS_URL": redis, "GUEST_KEYS_SECRET": SECRET, **address}
    with running(tmp_path, **shared):
        given = {**shared, "GUEST_KEYS_DIR": str(tmp_path / "keys")}
        until(lambda: cli("doctor", **given).returncode == 0)
        shown, as_json = cli("doctor", **given), cli("doctor", "--json", **given)
        follower = cli("doctor", **{**given, "GUEST_KEYS_DIR": "none"})
    stopped = cli("doctor", **given)

    assert [line.split()[:2] for line in shown.stdout.splitlines()] == [
        ["ok", check] for check in ("settings", "cookie", "file", "redis", "clock", "address")
    ]
    assert json.loads(as_json.stdout)["healthy"] is True
    assert json.loads(as_json.stdout)["findings"][0] == {"check": "settings", "state": "ok", "message": "no fault"}
    assert follower.returncode == 0
    assert stopped.returncode == 1
    assert "nothing listens on 127.0.0.1:" in stopped.stdout


def test_faulty_settings_are_findings_like_any_other(cli: Cli) -> None:
    ended = cli("doctor", "--json", GUEST_PORT="http", GUEST_TTL="soon")

    assert ended.returncode == 1
    assert [each["message"].split()[0] for each in json.loads(ended.stdout)["findings"]] == ["GUEST_PORT", "GUEST_TTL"]


@pytest.mark.parametrize(
    ("domain", "state"),
    [("example", "fault"), ("b.example", "fault"), ("a.example", "ok"), ("shop.a.example", "ok")],
)
def test_a_cookie_that_browsers_would_drop_is_a_fault(tmp_path: Path, domain: str, state: str) -> None:
    given = {"GUEST_ISSUER": "https://shop.a.example", "GUEST_COOKIE_DOMAIN": domain, "GUEST_KEYS_DIR": str(tmp_path)}

    assert states(examined(given), "cookie") == [state]


def test_an_unmounted_volume_is_a_fault(tmp_path: Path) -> None:
    found = examined({"GUEST_KEYS_DIR": str(tmp_path / "keys")})

    assert "is the volume mounted?" in faults(found)["file"]
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_a_fault(folder: Path) -> None:
    (folder / "keyring.json").write_text('{"keys": [')

    assert "file" in faults(examined({"GUEST_KEYS_DIR": str(folder)}))


@pytest.mark.parametrize(
    ("sealed", "given", "state", "message"),
    [
        (None, None, "ok", "not sealed, in form"),
        (None, SECRET, "fault", "not sealed, though there is a secret"),
        (SECRET, SECRET, "ok", "sealed under the first secret"),
        (SECRET, f"{OTHER},{SECRET}", "warning", "sealed under another secret than the first"),
        (SECRET, OTHER, "fault", "not among those given"),
        (SECRET, None, "fault", "no secret was given to open it"),
    ],
    ids=["none", "in-the-clear", "first", "second", "wrong", "missing"],
)
def test_the_secret_that_the_file_is_under_is_shown(
    folder: Path, sealed: str | None, given: str | None, state: str, message: str
) -> None:
    path = folder / "keyring.json"
    if sealed is not None:
        path.write_bytes(Sealer([sealed]).seal(path.read_bytes()))

    found = examined({"GUEST_KEYS_DIR": str(folder), **({"GUEST_KEYS_SECRET": given} if given else {})})

    [finding] = [finding for finding in found if finding.check == "file"]
    assert (finding.state, message in finding.message) == (state, True)
    assert ("changed " in finding.message) == (state != "fault" or sealed is None)


def test_a_key_that_is_damaged_is_a_fault(folder: Path) -> None:
    path = folder / "keyring.json"
    document = json.loads(path.read_text())
    document["keys"][0]["x"] = document["keys"][0]["y"]
    path.write_text(json.dumps(document))

    assert document["keys"][0]["kid"] in faults(examined({"GUEST_KEYS_DIR": str(folder)}))["keys"]


def test_a_ring_in_which_no_key_signs_is_a_fault(folder: Path) -> None:
    path = folder / "keyring.json"
    document = json.loads(path.read_text())
    document["keys"][0]["revoked_at"] = document["keys"][0]["activated_at"]
    path.write_text(json.dumps(document))

    assert "no key signs" in faults(examined({"GUEST_KEYS_DIR": str(folder)}))["keys"]


def test_a_file_that_others_can_read_is_a_fault(folder: Path) -> None:
    (folder / "keyring.json").chmod(0o644)

    assert "chmod 600" in faults(examined({"GUEST_KEYS_DIR": str(folder)}))["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_a_fault(folder: Path) -> None:
    folder.chmod(0o500)

    assert "cannot be written" in faults(examined({"GUEST_KEYS_DIR": str(folder)}))["file"]


def test_a_redis_that_cannot_be_reached_is_a_fault(folder: Path) -> None:
    given = {"GUEST_REDIS_URL": f"redis://:hunter2@127.0.0.1:{free_port()}", "GUEST_KEYS_SECRET": SECRET}

    found = examined({"GUEST_KEYS_DIR": str(folder), **given})

    assert "cannot be reached" in faults(found)["redis"]
    assert "hunter2" not in str(found)


def test_a_copy_that_is_missing_or_of_others_is_a_fault(folder: Path, cli: Cli, redis: str) -> None:
    given = {"GUEST_REDIS_URL": redis, "GUEST_KEYS_SECRET": SECRET}

    empty = examined({"GUEST_KEYS_DIR": str(folder), **given})
    assert cli("keys", "init", GUEST_KEYS_DIR=str(folder.parent / "stray"), **given).returncode == 0
    foreign = examined({"GUEST_KEYS_DIR": str(folder), **given})
    other_secret = examined({"GUEST_KEYS_DIR": str(folder), **given, "GUEST_KEYS_SECRET": OTHER})

    assert "Redis holds no keyring" in faults(empty)["redis"]
    assert "of another deployment" in faults(foreign)["redis"]
    assert "not among those given" in faults(other_secret)["redis"]


def test_a_copy_that_lags_behind_is_a_warning(folder: Path, cli: Cli, redis: str) -> None:
    given = {"GUEST_KEYS_DIR": str(folder), "GUEST_KEYS_SECRET": SECRET}
    with_redis = {**given, "GUEST_REDIS_URL": redis}
    cli("keys", "rotate", **with_redis)
    cli("keys", "rotate", "--now", **given)

    found = examined(with_redis)

    assert states(found, "redis") == ["ok", "warning"]


def test_a_user_who_may_not_ask_redis_for_the_time_is_a_warning_alone(folder: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with redis_servers.with_acl_user(tmp_path / "redis") as url:
        given = {"GUEST_KEYS_DIR": str(folder), "GUEST_REDIS_URL": url, "GUEST_KEYS_SECRET": SECRET}
        cli("keys", "rotate", **given)
        found = examined(given)

    assert states(found, "redis") == ["ok"]
    assert [finding.state for finding in found if "not compared" in finding.message] == ["warning"]


@pytest.mark.parametrize("apart_s", [-3600, 3600], ids=["behind", "ahead"])
def test_a_clock_that_redis_does_not_share_is_a_fault(folder: Path, cli: Cli, redis: str, apart_s: int) -> None:
    given = {"GUEST_KEYS_DIR": str(folder), "GUEST_REDIS_URL": redis, "GUEST_KEYS_SECRET": SECRET}
    cli("keys", "rotate", **given)

    found = examined(given, clock=lambda: time.time() + apart_s)

    clocks = [finding.message for finding in found if finding.check == "clock" and finding.state == "fault"]
    assert any(f"s {'behind' if apart_s < 0 else 'ahead of'} the clock of Redis" in message for message in clocks)


def test_a_clock_in_the_past_of_file_and_keys_is_a_fault(folder: Path) -> None:
    found = examined({"GUEST_KEYS_DIR": str(folder)}, clock=lambda: 5.0)

    clocks = [finding.message for finding in found if finding.check == "clock"]
    assert any("keyring.json is of " in message and "in the future" in message for message in clocks)
    assert any("but key " in message for message in clocks)
    assert any("shows 1970-01-01" in message for message in clocks)


def test_an_address_that_leads_elsewhere_is_a_fault(folder: Path) -> None:
    messages = []
    for content, status in ((b'{"keys": [{"kid": "other"}]}', 200), (b"<html>", 200), (b"", 502)):
        with serving_jwks(content, status=status) as issuer:
            found = examined({"GUEST_KEYS_DIR": str(folder), "GUEST_ISSUER": issuer})
        messages.append(faults(found)["address"])

    assert "does not list key" in messages[0]
    assert "responds with status 200, but with no JWK Set" in messages[1]
    assert "responds with status 502, but with no JWK Set" in messages[2]


def test_a_clock_that_the_service_s_host_does_not_share_is_a_fault(folder: Path) -> None:
    with serving_jwks(b'{"keys": []}', behind_s=60) as issuer:
        found = examined({"GUEST_KEYS_DIR": str(folder), "GUEST_ISSUER": issuer})

    assert f"s ahead of the clock of {issuer}" in faults(found)["clock"]
