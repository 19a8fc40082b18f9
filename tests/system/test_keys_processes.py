"""What real processes do with a keyring that hangs, was restored, or comes from another release."""

import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from service.cli.main import main
from service.keys.encryption import Sealer, make_secret
from tests.processes import DEADLINE_S, Service, running, until
from tests.redis_servers import Server
from tests.redis_servers import running as redis_running

SECRET = make_secret()


def readiness(service: Service) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"{service.base_url}/readyz", timeout=DEADLINE_S) as response:  # noqa: S310 - loopback
            document: dict[str, Any] = json.loads(response.read())
    except urllib.error.HTTPError as error:
        document = json.loads(error.read())
    return document


def post(service: Service, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310 - loopback
        service.base_url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as response:  # noqa: S310
        document: dict[str, Any] = json.loads(response.read())
    return document


def keys(folder: Path, *arguments: str, **variables: str) -> dict[str, Any]:
    environment = {"GUEST_KEYS_DIR": str(folder / "keys"), **variables}
    result = CliRunner().invoke(main, ["keys", *arguments, "--json"], env=environment)
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_a_service_with_a_hung_disk_says_so_and_ends(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        token = post(service, "/v1/issue", {})["token"]
        path = tmp_path / "keys" / "keyring.json"
        path.unlink()
        os.mkfifo(path)  # opening it hangs in the kernel, as a dead network disk does

        until(lambda: readiness(service).get("file") == "store_unavailable")
        assert "does not respond" in readiness(service)["problem"]
        assert post(service, "/v1/verify", {"token": token})["active"]
        started = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started < 10


def test_a_backup_restored_under_a_service_undoes_no_revocation(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        token = post(service, "/v1/issue", {})["token"]
        path = tmp_path / "keys" / "keyring.json"
        backup = path.read_bytes()
        stolen = keys(tmp_path, "list")["active"]
        keys(tmp_path, "revoke", stolen)
        until(lambda: post(service, "/v1/verify", {"token": token}).get("reason") == "revoked")
        successor = readiness(service)["active_key"]

        path.write_bytes(backup)
        until(lambda: {key["kid"]: key["state"] for key in keys(tmp_path, "list")["keys"]}.get(stolen) == "revoked")
        assert readiness(service)["active_key"] == successor
        assert post(service, "/v1/verify", {"token": token})["reason"] == "revoked"
        assert service.stop() == 0


@pytest.mark.parametrize("name", ["keyring.json", "keyring.sealed"])
def test_a_service_takes_over_a_keyring_of_0_1_0(tmp_path: Path, name: str) -> None:
    golden = Path(__file__).parents[1] / "keys" / "golden" / "0.1.0"
    tokens = json.loads((golden / "tokens.json").read_bytes())
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "keyring.json").write_bytes((golden / name).read_bytes())
    secret = {"GUEST_KEYS_SECRET": "Z29sZGVuLWZpbGVzOiBmb3IgdGhlIHRlc3RzIG9ubHk="}

    with running(tmp_path, GUEST_ISSUER="http://golden.test", **secret) as service:
        verdicts = {of: post(service, "/v1/verify", {"token": token}) for of, token in tokens.items()}
        assert {of: verdict["active"] for of, verdict in verdicts.items()} == {
            "active": True,
            "retired": True,
            "foreign": True,
            "revoked": False,
        }
        assert service.stop() == 0
    content = (tmp_path / "keys" / "keyring.json").read_bytes()
    # Sealed, and for an hour in the form of 0.1.0, so that replicas of 0.1.0 beside it go on following the file.
    assert "version" not in json.loads(Sealer([secret["GUEST_KEYS_SECRET"]]).open(content))


def test_a_newer_form_is_refused_as_such_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    newer = b'{"purpose": "guest-sessions keyring", "version": 3}'
    (tmp_path / "keys" / "keyring.json").write_bytes(newer)

    with running(tmp_path) as service:
        assert readiness(service)["file"] == "keyring_newer"
        assert "made by a newer version" in readiness(service)["problem"]
        assert service.stop() == 0
    assert (tmp_path / "keys" / "keyring.json").read_bytes() == newer


def test_no_redis_that_quotes_its_arguments_prints_a_password(tmp_path: Path) -> None:
    renamed = Server(tmp_path / "redis", lines=('rename-command AUTH ""', "requirepass x"))
    with redis_running(renamed):
        url = f"redis://user:hunter2@127.0.0.1:{renamed.port}"
        with running(tmp_path, GUEST_REDIS_URL=url, GUEST_KEYS_SECRET=SECRET) as service:
            until(lambda: readiness(service).get("redis") == "cache_unavailable")
            assert "hunter2" not in json.dumps(readiness(service))
            assert service.stop() == 0
            assert "hunter2" not in service.output


def test_a_follower_follows_a_revocation_while_a_keepers_disk_hangs(tmp_path: Path) -> None:
    with redis_running(Server(tmp_path / "redis")) as (redis,):
        shared = {"GUEST_REDIS_URL": f"unix://{redis.socket}", "GUEST_KEYS_SECRET": SECRET}
        first, second = tmp_path / "one", tmp_path / "two"
        first.mkdir()
        second.mkdir()
        with running(first, **shared) as keeper:
            until(lambda: readiness(keeper)["ready"])
            token = post(keeper, "/v1/issue", {})["token"]
            (first / "keys" / "keyring.json").unlink()
            os.mkfifo(first / "keys" / "keyring.json")
            with running(second, **shared) as other:
                until(lambda: readiness(other)["ready"])
                keys(second, "revoke", readiness(other)["active_key"], **shared)
                until(lambda: post(keeper, "/v1/verify", {"token": token}).get("reason") == "revoked")
                assert other.stop() == 0
            assert keeper.stop() == 0
