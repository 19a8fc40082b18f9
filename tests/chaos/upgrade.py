"""`make upgrade`: a fleet of 0.1.0 under load becomes one of this release, replica by replica, and goes back.

It begins with the keyring and the tokens that 0.1.0 left in tests/keys/golden. 0.1.0 runs from the project's history,
on the libraries of today. Between the steps the keys rotate by the command line of one release, and that of the other
revokes a key. Then the ring takes this release's form, and the fleet goes back as docs/upgrading.md says. Counted is
what `make chaos` counts: failed requests, valid tokens refused, forged ones taken.
"""

import argparse
import asyncio
import json
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec

from service.keys import encoding
from service.keys.keyring import FORM
from tests.chaos.outages import Trial, fleet, progress, summary
from tests.chaos.processes import ISSUER, Replica, command

ROOT: Final = Path(__file__).parents[2]
OLD_COMMIT: Final = "71f3761602da6a0c774b12bbc98401987de30c58"
GOLDEN: Final = ROOT / "tests/keys/golden/0.1.0"
GOLDEN_ISSUER: Final = "http://golden.test"
FOLLOW_S: Final = 10.0
"""Within which a replica follows a change by the file alone."""
MAX_AGE_S: Final = 1


@dataclass(frozen=True)
class Release:
    """A version of the service, in the folder that holds its package."""

    name: str
    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        """What makes `python -m service` run this one."""
        return {"PYTHONPATH": str(self.folder), "PYTHONSAFEPATH": "1"}


NEW: Final = Release("this release", ROOT)


def unpack_0_1_0(folder: Path) -> Release | None:
    """0.1.0 from the project's history; None where there is no such history, as in a source distribution."""
    git = shutil.which("git")
    archive = folder / "0.1.0.tar"
    words = [git or "git", "archive", f"--output={archive}", OLD_COMMIT, "service", "openapi.yaml"]
    if git is None or subprocess.run(words, cwd=ROOT, check=False, capture_output=True).returncode != 0:  # noqa: S603
        return None
    with tarfile.open(archive) as content:
        content.extractall(folder / "0.1.0", filter="data")
    return Release("0.1.0", folder / "0.1.0")


def begin(trial: Trial, old: Release) -> None:
    """The fleet, before it starts: of 0.1.0, on the keyring that it left."""
    for replica in trial.replicas:
        replica.environment |= {"GUEST_ISSUER": f"{ISSUER},{GOLDEN_ISSUER}", **old.variables}
    keep(trial.ring_file.parent, (GOLDEN / "keyring.json").read_bytes())


def keep(folder: Path, ring: bytes) -> None:
    """A folder with this keyring, as the service leaves one."""
    folder.mkdir(mode=0o700)
    (folder / "keyring.json").write_bytes(ring)
    (folder / "keyring.json").chmod(0o600)


class Upgrade:
    """A fleet that changes from one release to another."""

    def __init__(self, trial: Trial, old: Release) -> None:
        self.trial = trial
        self.old = old
        self.runs = dict.fromkeys(trial.replicas, old)
        self.golden: dict[str, str] = json.loads((GOLDEN / "tokens.json").read_text("utf-8"))
        self.revoked_kids: set[str] = set()

    async def replace(self, replica: Replica, release: Release, **variables: str) -> None:
        """Ends a replica and starts it again as another release."""
        if await replica.end() != 0:
            self.trial.report.find(f"{replica.name} did not end as it should")
        replica.environment |= {**release.variables, **variables}
        replica.launch()
        await replica.ready(self.trial.session)
        self.runs[replica] = release
        self.trial.report.restarts += 1
        await self.look_at_golden_tokens()

    async def look_at_golden_tokens(self) -> None:
        """Every replica says of the tokens that 0.1.0 left what 0.1.0 said, but for a key that was revoked since."""
        for replica in self.trial.replicas:
            for name, token in self.golden.items():
                answer = await self.trial.ask(replica, "/v1/verify", {"token": token})
                is_revoked = "revoked" in name or kid_of(token) in self.revoked_kids
                expected = {"active": False, "reason": "revoked"} if is_revoked else {"active": True}
                if answer is None or answer | expected != answer:
                    self.trial.report.find(f"the token {name!r} of 0.1.0: {replica.name} says {answer}")

    async def rotate(self, by: Release) -> None:
        """A new key is published, and signs everywhere."""
        before = (await self.ready(self.trial.replicas[0]))["active_key"]
        await command(self.trial.operator | by.variables, "keys", "rotate", "--json")
        await self.comes_to_hold(f"a rotation by {by.name}", lambda status: status["active_key"] != before)
        self.trial.report.rotations += 1

    async def revoke_a_retired_key(self, by: Release) -> None:
        """Its tokens are refused by all replicas, whichever release they run."""
        listed = json.loads(await command(self.trial.operator | by.variables, "keys", "list", "--json"))["keys"]
        retired = {key["kid"] for key in listed if key["state"] == "retired"}
        witnesses = {kid_of(token): token for token in self.trial.tokens if kid_of(token) in retired}
        if not witnesses:
            self.trial.report.find("no token of a retired key to try a revocation with")
            return
        kid, token = witnesses.popitem()

        def spare() -> None:
            kept = [each for each in self.trial.tokens if kid_of(each) != kid]
            self.trial.tokens.clear()
            self.trial.tokens.extend(kept)

        await self.trial.without_load(spare)
        await command(self.trial.operator | by.variables, "keys", "revoke", kid)
        self.revoked_kids.add(kid)
        began = time.monotonic()
        for replica in self.trial.replicas:
            answer: dict[str, Any] | None = None
            while time.monotonic() - began < FOLLOW_S and (answer or {}).get("reason") != "revoked":
                answer = await self.trial.ask(replica, "/v1/verify", {"token": token})
                await asyncio.sleep(0.05)
            if (answer or {}).get("reason") != "revoked":
                self.trial.report.find(f"a revocation by {by.name} is not followed by {self.describe(replica)}")

    async def take_the_new_form(self) -> None:
        """What a keeper does by itself an hour after its start."""
        exported = encoding.from_jwk_set(
            (await command(self.trial.operator | NEW.variables, "keys", "export")).encode()
        )
        newer = self.trial.ring_file.parent / "newer.json"
        newer.write_bytes(encoding.to_jwk_set(msgspec.structs.replace(exported, form=FORM)))
        await command(self.trial.operator | NEW.variables, "keys", "import", str(newer))

    async def exported_for_0_1_0(self) -> Path:
        """A folder of its own for the keepers of 0.1.0."""
        exported = await command(self.trial.operator | NEW.variables, "keys", "export", "--for", "0.1.0")
        folder = self.trial.ring_file.parent.with_name(f"keys-{self.trial.report.restarts}")
        keep(folder, exported.encode())
        self.trial.ring_file = folder / "keyring.json"
        self.trial.operator["GUEST_KEYS_DIR"] = str(folder)
        return folder

    async def comes_to_hold(self, what: str, holds: Callable[[dict[str, Any]], bool]) -> None:
        began = time.monotonic()
        for replica in self.trial.replicas:
            while not holds(await self.ready(replica)):
                if time.monotonic() - began > FOLLOW_S:
                    self.trial.report.find(f"{what} is not followed by {self.describe(replica)}")
                    return
                await asyncio.sleep(0.05)

    async def ready(self, replica: Replica) -> dict[str, Any]:
        async with self.trial.session.get(f"{replica.base}/readyz") as response:
            return dict(await response.json())

    def describe(self, replica: Replica) -> str:
        return f"{replica.name}, {self.runs[replica].name}"


def kid_of(token: str) -> str:
    """The `kid` in a token's header."""
    return str(jwt.get_unverified_header(token)["kid"])


async def go_round(upgrade: Upgrade, order: list[Replica], *, changes_after: Collection[int]) -> None:
    """Up, replica by replica, with changes of the keys after these numbers of replicas, and back."""
    old = upgrade.old
    await upgrade.look_at_golden_tokens()
    for number, replica in enumerate(order, start=1):
        await upgrade.replace(replica, NEW)
        if number in changes_after:
            # Once a key has retired under load, there are tokens to refuse.
            for rotating, revoking in ((old, NEW), (NEW, old)):
                await upgrade.rotate(rotating)
                await upgrade.revoke_a_retired_key(revoking)
    await upgrade.take_the_new_form()
    folder = await upgrade.exported_for_0_1_0()
    for replica in sorted(order, key=lambda each: "follower" in each.name):  # keepers first
        keeper = "keeper" in replica.name
        await upgrade.replace(replica, old, **({"GUEST_KEYS_DIR": str(folder)} if keeper else {}))


async def run(
    base: Path, old: Release, *, rounds: int, per_s: float, changes_after: Collection[int], show: bool = True
) -> Trial:
    """The trial, at its end."""
    async with fleet(base, max_age_s=MAX_AGE_S, prepare=lambda trial: begin(trial, old)) as trial:
        upgrade = Upgrade(trial, old)
        async with asyncio.TaskGroup() as tasks:
            for replica in trial.replicas:
                tasks.create_task(trial.load(replica, per_s=per_s))
            if show:
                tasks.create_task(progress(trial, rotations=2 * rounds * len(changes_after)))
            for _ in range(rounds):
                order = random.sample(trial.replicas, len(trial.replicas))
                await go_round(upgrade, order, changes_after=changes_after)
            trial.over = True
    return trial


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=20, help="requests a second for each replica")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        old = unpack_0_1_0(Path(folder))
        if old is None:
            print("0.1.0 is not in the history here", file=sys.stderr)
            return 1
        began = time.monotonic()
        trial = asyncio.run(run(Path(folder), old, rounds=given.rounds, per_s=given.rate, changes_after=(1, 2, 3)))
    print("\n" + summary(trial, took_s=time.monotonic() - began))
    return 1 if trial.report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
