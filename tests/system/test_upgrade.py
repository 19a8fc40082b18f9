"""Coming from 0.1.0: what it left is taken over, and a fleet is upgraded and goes back under load.

`make upgrade` is the long form.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.chaos.upgrade import GOLDEN, GOLDEN_ISSUER, keep, run, unpack_0_1_0
from tests.gateways.processes import send
from tests.redis_servers import Server, running

SECRET = "Z29sZGVuLWZpbGVzOiBmb3IgdGhlIHRlc3RzIG9ubHk="
TOKENS: dict[str, str] = json.loads((GOLDEN / "tokens.json").read_text("utf-8"))


def volume(folder: Path, content: str) -> dict[str, str]:
    keep(folder / "keys", (GOLDEN / content).read_bytes())
    (folder / "keys/keyring.lock").touch(mode=0o600)
    return {"GUEST_KEYS_DIR": str(folder / "keys")}


PLACES: dict[str, Callable[[Path], dict[str, str]]] = {
    "a plain file": lambda folder: volume(folder, "keyring.json") | {"GUEST_KEYS_SECRET": "", "GUEST_REDIS_URL": ""},
    "a sealed file": lambda folder: volume(folder, "keyring.sealed") | {"GUEST_REDIS_URL": ""},
    "the volume of compose": lambda folder: volume(folder, "keyring.sealed"),
    "the copy in Redis alone": lambda folder: {"GUEST_KEYS_DIR": str(folder / "keys")},
    "the copy in Redis, for a follower": lambda _: {"GUEST_KEYS_DIR": "none"},
}


@pytest.mark.parametrize("place", PLACES)
def test_what_0_1_0_left_is_taken_over(tmp_path: Path, place: str) -> None:
    with running(Server(tmp_path / "redis")) as (redis,):
        with redis.client() as client:
            client.set("guest-sessions:keyring", (GOLDEN / "keyring.sealed").read_bytes())
        settings = {
            "GUEST_ISSUER": GOLDEN_ISSUER,
            "GUEST_KEYS_SECRET": SECRET,
            "GUEST_REDIS_URL": f"redis://127.0.0.1:{redis.port}",
            **PLACES[place](tmp_path),
        }
        with processes.running(tmp_path, **settings) as service:
            port = int(service.base_url.rpartition(":")[2])
            processes.until(lambda: send(port, "/readyz").status == 200)
            said = {name: verified(port, token) for name, token in TOKENS.items()}
            signer = post(port, "/v1/issue", {})["key_id"]

    reasons = {name: answer.get("reason") for name, answer in said.items()}
    assert reasons == {name: "revoked" if name == "revoked" else None for name in TOKENS}
    assert signer == "0a00000000000003"


def verified(port: int, token: str) -> dict[str, Any]:
    return post(port, "/v1/verify", {"token": token})


def post(port: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = [("Content-Type", "application/json")]
    answer: dict[str, Any] = send(port, path, method="POST", headers=headers, body=json.dumps(body).encode()).json()
    return answer


@pytest.mark.timeout(400)
async def test_a_fleet_of_0_1_0_is_upgraded_and_goes_back_under_load(tmp_path: Path) -> None:
    old = unpack_0_1_0(tmp_path)
    if old is None:
        pytest.skip("0.1.0 is not in the history here")

    trial = await run(tmp_path, old, rounds=1, per_s=10, changes_after=[2], show=False)

    assert trial.report.findings == []
    assert trial.report.rotations == 2
    assert trial.report.restarts == 8
    assert {
        "/v1/issue",
        "/v1/verify",
        "/v1/refresh-payload",
        "/v1/merge",
        "offline, valid",
    } <= trial.report.requests.keys()
