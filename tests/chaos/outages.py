"""`make chaos`: two keepers and two followers under constant load, while Redis fails in every way, replicas are cut
off, backups are restored, the keys rotate, and every process is restarted in turn.

Counted: failed requests, valid tokens refused and forged ones taken, by the service and by verifiers that work offline
and cache the JWKS for as long as its headers allow.
"""

import argparse
import asyncio
import base64
import json
import math
import random
import re
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from service.keys.encryption import Sealer, make_secret
from tests.chaos.processes import ISSUER, SERVICE, Replica, command
from tests.redis_servers import Server, running

RING_KEY: Final = "guest-sessions:keyring"
FAULT_S: Final = 10.0
VERIFIERS: Final = 4
QUIET_S: Final = 5.0
RESTART_EVERY_S: Final = 30.0
REQUEST_TIMEOUT_S: Final = 5.0
TOKENS_KEPT: Final = 3_000


@dataclass
class Report:
    """The observations."""

    requests: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    follow_s: dict[str, list[float]] = field(default_factory=lambda: {"redis up": [], "redis at fault": []})
    mended_s: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    rotations: int = 0
    restarts: int = 0

    def find(self, what: str) -> None:
        self.findings.append(f"{time.strftime('%H:%M:%S')} {what}")
        print(f"\n{self.findings[-1]}", file=sys.stderr)


class OfflineVerifier:
    """A resource server with PyJWT, which reaches the service through a gateway.

    It looks at the JWKS only when its cache has ended, never for an unknown key.
    """

    def __init__(self, replicas: list[Replica], session: aiohttp.ClientSession) -> None:
        self._replicas = replicas
        self._session = session
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fresh_until = 0.0

    async def takes(self, token: str) -> bool:
        await self._look()
        try:
            key = self._keys[jwt.get_unverified_header(token)["kid"]]
            jwt.decode(token, key, algorithms=["ES256"], issuer=ISSUER, options={"verify_iat": False})
        except (KeyError, jwt.PyJWTError):
            return False
        return True

    async def _look(self) -> None:
        if time.monotonic() < self._fresh_until:
            return
        replica = random.choice([replica for replica in self._replicas if replica.up])
        async with self._session.get(f"{replica.base}/.well-known/jwks.json") as response:
            document = await response.json()
            max_age = re.search(r"max-age=(\d+)", response.headers["Cache-Control"])
        self._keys = {key["kid"]: jwt.PyJWK(key) for key in document["keys"]}
        self._fresh_until = time.monotonic() + float(max_age[1] if max_age else 0)


class Trial:
    """The fleet, its Redis and the faults that hit them."""

    def __init__(
        self, base: Path, redis: Server, session: aiohttp.ClientSession, *, max_age_s: int, program: tuple[str, ...]
    ) -> None:
        self.report = Report()
        self.redis = redis
        self.session = session
        self.max_age_s = max_age_s
        self.secret = make_secret()
        shared = {
            "GUEST_REDIS_URL": f"redis://127.0.0.1:{redis.port}",
            "GUEST_KEYS_SECRET": self.secret,
            "GUEST_JWKS_MAX_AGE": str(max_age_s),
        }
        self.ring_file = base / "keys" / "keyring.json"
        self.operator = {**shared, "GUEST_KEYS_DIR": str(base / "keys"), "GUEST_ISSUER": ISSUER}
        self.replicas = [
            Replica(
                f"{role} {number}",
                {
                    **shared,
                    "GUEST_KEYS_DIR": folder,
                    "GUEST_REDIS_URL": f"redis://{role}-{number}:x@127.0.0.1:{redis.port}",
                },
                log=base / f"{role}-{number}.log",
                program=program,
            )
            for role, folder in (("keeper", str(base / "keys")), ("follower", "none"))
            for number in (1, 2)
        ]
        self.verifiers = [OfflineVerifier(self.replicas, session) for _ in range(VERIFIERS)]
        self.tokens: deque[str] = deque(maxlen=TOKENS_KEPT)
        self.redis_calm = asyncio.Lock()
        self.older: bytes | None = None
        self.backup: bytes | None = None
        self.over = False
        self.held = False
        self.under_way = 0

    # --- the load ---

    async def ask(self, replica: Replica, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """One request; anything but an answer as it should be is a finding."""
        started = time.monotonic()
        self.report.requests[path] += 1
        try:
            async with self.session.post(replica.base + path, json=body) as response:
                document = await response.json()
                if response.status >= 300:
                    self.report.find(f"failed request: {replica.name} {path} {response.status} {document}")
                    return None
        except (aiohttp.ClientError, TimeoutError) as error:
            self.report.find(f"failed request: {replica.name} {path} {error!r}")
            return None
        self.report.latencies_s.append(time.monotonic() - started)
        return dict(document)

    async def load(self, replica: Replica, *, per_s: float) -> None:
        while not self.over:
            await asyncio.sleep(random.expovariate(per_s))
            if replica.up and not self.held:
                act = random.choice((self.issue, self.issue, self.verify, self.refresh, self.merge, self.forge))
                self.under_way += 1
                await act(replica)
                self.under_way -= 1

    async def without_load(self, do: Callable[[], None]) -> None:
        """Does what no request under way may see happen."""
        self.held = True
        while self.under_way:  # noqa: ASYNC110 - every end of a request would have to signal it
            await asyncio.sleep(0.01)
        do()
        self.held = False

    async def issue(self, replica: Replica) -> None:
        answer = await self.ask(replica, "/v1/issue", {"payload": {"cart": [{"sku": "tea", "quantity": 1}]}})
        if answer is not None:
            self.tokens.append(answer["token"])
            await self.must_take(answer["token"], issued_by=replica)

    async def verify(self, replica: Replica) -> None:
        if self.tokens:
            await self.must_verify(random.choice(self.tokens), replica)

    async def refresh(self, replica: Replica) -> None:
        if self.tokens:
            body = {"token": random.choice(self.tokens), "merge_patch": {"seen": random.randrange(10**6)}}
            answer = await self.ask(replica, "/v1/refresh-payload", body)
            if answer is not None:
                self.tokens.append(answer["token"])
                await self.must_take(answer["token"], issued_by=replica)

    async def merge(self, replica: Replica) -> None:
        if len(self.tokens) > 1:
            body = {"tokens": random.sample(self.tokens, 2), "session": {}}
            answer = await self.ask(replica, "/v1/merge", body)
            bad = [each for each in (answer or {}).get("skipped", []) if each["reason"] != "superseded"]
            if bad:
                self.report.find(f"valid token refused: {replica.name} skipped {bad} in a merge")

    async def forge(self, replica: Replica) -> None:
        if not self.tokens:
            return
        name, forged = random.choice(FORGERIES)
        token = forged(random.choice(self.tokens))
        answer = await self.ask(replica, "/v1/verify", {"token": token})
        if answer is not None and answer["active"]:
            self.report.find(f"forged token taken: {replica.name}, {name}")
        verifier = random.choice(self.verifiers)
        self.report.requests["offline, forged"] += 1
        if await verifier.takes(token):
            self.report.find(f"forged token taken offline: {name}")

    async def must_take(self, token: str, *, issued_by: Replica) -> None:
        """Each process that is up takes a token that was signed a moment ago, and so does every verifier offline."""
        others = [replica for replica in self.replicas if replica.up and replica is not issued_by]
        if others:
            await self.must_verify(token, random.choice(others))
        verifier = random.choice(self.verifiers)
        self.report.requests["offline, valid"] += 1
        if not await verifier.takes(token):
            self.report.find(f"valid token refused offline: {jwt.get_unverified_header(token)}, of {issued_by.name}")

    async def must_verify(self, token: str, replica: Replica) -> None:
        answer = await self.ask(replica, "/v1/verify", {"token": token})
        if answer is not None and not answer["active"]:
            kid = jwt.get_unverified_header(token)["kid"]
            self.report.find(f"valid token refused: {replica.name} {answer['reason']} {kid}")

    # --- faults of the keys and the processes ---

    async def published(self, replica: Replica) -> set[str]:
        async with self.session.get(f"{replica.base}/.well-known/jwks.json") as response:
            return {key["kid"] for key in (await response.json())["keys"]}

    async def rotate(self, times: int, *, most_s: float) -> None:
        """Publishes a key, waits until it signs everywhere, and again, for as long as `most_s`."""
        started = time.monotonic()
        while self.report.rotations < times and time.monotonic() - started < most_s:
            before, faults = await self.published(self.a_keeper()), self.faults_so_far()
            rotating = asyncio.create_task(command(self.operator, "keys", "rotate", "--json"))
            await self.until(lambda before=before: self.all_publish_more(before))  # type: ignore[misc]
            kind = "redis up" if faults == self.faults_so_far() else "redis at fault"
            self.report.follow_s[kind].append(time.time() - self.ring_file.stat().st_ctime)  # since it was renamed
            staged = json.loads(await rotating)["next"]
            await self.until(lambda staged=staged: self.all_sign_with(staged))  # type: ignore[misc]
            self.report.rotations += 1
        self.over = True

    def faults_so_far(self) -> float:
        """How often Redis was at fault until now; during a fault NaN, which equals nothing."""
        return math.nan if self.redis_calm.locked() else self.report.faults.total()

    async def all_publish_more(self, before: set[str]) -> bool:
        return all([await self.published(replica) > before for replica in self.replicas if replica.up])

    async def all_sign_with(self, kid: str) -> bool:
        for replica in self.replicas:
            if replica.up:
                async with self.session.get(f"{replica.base}/readyz") as response:
                    if (await response.json())["active_key"] != kid:
                        return False
        return True

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        while True:
            try:
                if await condition():
                    return
            except aiohttp.ClientError:
                pass  # a replica that was just taken out
            await asyncio.sleep(0.1)

    async def restart_in_turn(self) -> None:
        while not self.over:
            for replica in self.replicas:
                await self.pause(RESTART_EVERY_S)
                if self.over:
                    return
                async with AsyncExitStack() as stack:
                    if "follower" in replica.name:
                        await stack.enter_async_context(self.redis_calm)
                    code = await replica.end()
                    if code != 0:
                        self.report.find(f"{replica.name} ended with {code}")
                    replica.launch()
                    await replica.ready(self.session)
                    self.report.restarts += 1

    async def pause(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and not self.over:  # noqa: ASYNC110 - ends early at the trial's end
            await asyncio.sleep(0.1)

    # --- faults of Redis ---

    async def trouble(self) -> None:
        faults: tuple[tuple[str, Callable[[], Awaitable[None]]], ...] = (
            ("killed and restarted empty", self.redis_killed),
            ("paused for 10 s", self.redis_paused),
            ("flushed", self.redis_flushed),
            ("given wrong content", self.redis_poisoned),
            ("its older value played back", self.redis_played_back),
            ("cut off from one replica for 10 s", self.replica_cut_off),
            ("an older file put back", self.file_restored),
        )
        while not self.over:
            for name, fault in faults:
                await self.pause(QUIET_S)
                if self.over:
                    return
                async with self.redis_calm:
                    await fault()
                    self.report.faults[name] += 1
                    await self.repaired()

    async def redis_killed(self) -> None:
        self.redis.kill()
        await asyncio.sleep(FAULT_S)
        await asyncio.to_thread(self.redis.start)

    async def redis_paused(self) -> None:
        self.redis.pause()
        try:
            await asyncio.sleep(FAULT_S)
        finally:
            self.redis.resume()

    async def redis_flushed(self) -> None:
        await asyncio.to_thread(self._with_redis, lambda client: client.flushall())

    async def redis_poisoned(self) -> None:
        wrong = random.choice((b"", b"garbage", Sealer([make_secret()]).seal(b"{}"), Sealer([self.secret]).seal(b"{}")))
        await asyncio.to_thread(self._with_redis, lambda client: client.set(RING_KEY, wrong))

    async def redis_played_back(self) -> None:
        if self.older is not None:
            older = self.older
            await asyncio.to_thread(self._with_redis, lambda client: client.set(RING_KEY, older))

    async def replica_cut_off(self) -> None:
        """The replica's own user is switched off, which no other replica notices."""
        user = random.choice(self.replicas).name.replace(" ", "-")
        await asyncio.to_thread(self._with_redis, lambda client: client.acl_setuser(user, enabled=False))
        await asyncio.to_thread(self._with_redis, lambda client: client.execute_command("CLIENT KILL USER", user))
        try:
            await asyncio.sleep(FAULT_S)
        finally:
            await asyncio.to_thread(self._with_redis, lambda client: client.acl_setuser(user, enabled=True))

    async def file_restored(self) -> None:
        """An operator copies an early backup over the file, under the running keepers."""
        if self.backup is None:
            self.backup = self.ring_file.read_bytes()
            return
        copy = self.ring_file.with_name("backup.json")
        copy.write_bytes(self.backup)
        copy.replace(self.ring_file)

    def _with_redis(self, do: Callable[[Any], Any]) -> Any:
        with self.redis.client() as client:
            return do(client)

    async def repaired(self) -> None:
        """Waits until Redis holds the ring that the keepers hold."""
        started = time.monotonic()
        while not self.over:
            sealed = await asyncio.to_thread(self._with_redis, lambda client: client.get(RING_KEY))
            try:
                revision = json.loads(Sealer([self.secret]).open(sealed or b""))["revision"]
            except Exception:  # noqa: BLE001 - whatever is there, it is not the ring yet
                revision = 0
            if revision >= await self.revision():
                self.older = self.older or sealed
                break
            await asyncio.sleep(0.05)
        self.report.mended_s.append(time.monotonic() - started)

    async def revision(self) -> int:
        async with self.session.get(f"{self.a_keeper().base}/readyz") as response:
            return int((await response.json())["revision"])

    def a_keeper(self) -> Replica:
        """One that is up: they are restarted one at a time."""
        return next(replica for replica in self.replicas if replica.up and "keeper" in replica.name)

    # --- the end: a revocation ---

    async def revoke(self) -> float:
        """Revokes the oldest key; the time until every replica refuses its tokens."""
        kids = await self.published(self.replicas[0])
        listed = json.loads(await command(self.operator, "keys", "list", "--json"))["keys"]
        tokens = {jwt.get_unverified_header(token)["kid"]: token for token in self.tokens}
        kid = next(key["kid"] for key in listed if key["state"] == "retired" and key["kid"] in kids & tokens.keys())
        await command(self.operator, "keys", "revoke", kid)
        started = time.monotonic()

        async def all_refuse() -> bool:
            answers = [await self.ask(replica, "/v1/verify", {"token": tokens[kid]}) for replica in self.replicas]
            return all(answer is not None and answer.get("reason") == "revoked" for answer in answers)

        await self.until(all_refuse)
        return time.monotonic() - started


# --- forgeries ---


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    header, claims, signature = token.split(".")
    return _json(header), _json(claims), signature


def _json(segment: str) -> dict[str, Any]:
    return dict(json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))))


def _segment(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).rstrip(b"=").decode()


def _altered(token: str) -> str:
    _, claims, signature = _parts(token)
    return f"{token.split('.', maxsplit=1)[0]}.{_segment(claims | {'sub': 'somebody else'})}.{signature}"


def _signed_by_another(token: str) -> str:
    header, claims, _ = _parts(token)
    return jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers=header)


def _unsigned(token: str) -> str:
    header, claims, _ = _parts(token)
    return f"{_segment(header | {'alg': 'none'})}.{_segment(claims)}."


def _resigned_with_hmac(token: str) -> str:
    header, claims, _ = _parts(token)
    return jwt.encode(claims, "x" * 64, algorithm="HS256", headers={"kid": header["kid"], "typ": header["typ"]})


FORGERIES: Final[tuple[tuple[str, Callable[[str], str]], ...]] = (
    ("altered", _altered),
    ("signed by another key under the same kid", _signed_by_another),
    ("alg none", _unsigned),
    ("HS256", _resigned_with_hmac),
)


@asynccontextmanager
async def fleet(
    base: Path, *, max_age_s: int, program: tuple[str, ...] = SERVICE, prepare: Callable[[Trial], None] = lambda _: None
) -> AsyncIterator[Trial]:
    """The fleet, ready; `prepare` may change it before it starts."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    names = ("keeper-1", "keeper-2", "follower-1", "follower-2")
    users = tuple(f"user {name} on >x ~* &* +@all" for name in names)
    with running(Server(base / "redis", lines=users)) as (redis,):
        async with aiohttp.ClientSession(timeout=timeout) as session:
            trial = Trial(base, redis, session, max_age_s=max_age_s, program=program)
            prepare(trial)
            try:
                for replica in trial.replicas:
                    replica.launch()
                for replica in trial.replicas:
                    await replica.ready(session)
                yield trial
            finally:
                trial.over = True
                for replica in trial.replicas:
                    replica.kill()


async def progress(trial: Trial, *, rotations: int) -> None:
    started = time.monotonic()
    while not trial.over:
        report = trial.report
        print(
            f"\r{time.monotonic() - started:5.0f} s  {report.rotations}/{rotations} rotations  "
            f"{report.faults.total()} faults of redis  {report.restarts} restarts  "
            f"{report.requests.total()} requests  {len(report.findings)} findings ",
            end="",
            file=sys.stderr,
            flush=True,
        )
        await asyncio.sleep(1 if sys.stderr.isatty() else 20)


def summary(trial: Trial, *, took_s: float, revoked_s: float | None = None) -> str:
    report = trial.report
    latencies = sorted(report.latencies_s)
    found = Counter(finding.split(" ", 1)[1].split(":")[0] for finding in report.findings)
    follow = {kind: f"{max(times):.2f} s at most, of {len(times)}" for kind, times in report.follow_s.items() if times}
    return "\n".join(
        (
            f"{took_s:.0f} s, JWKS max-age {trial.max_age_s} s, 2 keepers and 2 followers",
            f"requests: {report.requests.total()}  {dict(report.requests)}",
            f"rotations: {report.rotations}, restarts: {report.restarts}, faults of redis: {dict(report.faults)}",
            f"a new key is published by all: {follow}",
            f"redis is right again after a fault: {max(report.mended_s, default=0):.2f} s at most",
            *(() if revoked_s is None else (f"a revoked key's tokens are refused by all after {revoked_s:.2f} s",)),
            f"latency, ms: p50 {_at(latencies, 0.5):.1f}, p99 {_at(latencies, 0.99):.1f}, most {_at(latencies, 1):.0f}",
            f"failed requests: {found['failed request']}",
            f"valid tokens refused: {found['valid token refused']}, offline: {found['valid token refused offline']}",
            f"forged tokens taken: {found['forged token taken']}, offline: {found['forged token taken offline']}",
            *report.findings[:20],
        )
    )


def _at(times_s: list[float], share: float) -> float:
    """The time, in milliseconds, that this share of the sorted times does not pass."""
    return times_s[min(int(len(times_s) * share), len(times_s) - 1)] * 1e3


async def run(base: Path, *, rotations: int, max_age_s: int, per_s: float, most_s: float) -> int:
    started = time.monotonic()
    async with fleet(base, max_age_s=max_age_s) as trial:
        async with asyncio.TaskGroup() as tasks:
            for replica in trial.replicas:
                tasks.create_task(trial.load(replica, per_s=per_s))
            tasks.create_task(trial.trouble())
            tasks.create_task(trial.restart_in_turn())
            tasks.create_task(progress(trial, rotations=rotations))
            tasks.create_task(trial.rotate(rotations, most_s=most_s))
        revoked_s = await trial.revoke()
        print("\n" + summary(trial, took_s=time.monotonic() - started, revoked_s=revoked_s))
        return 1 if trial.report.findings else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rotations", type=int, default=50)
    parser.add_argument("--max-age", type=int, default=13, help="of the JWKS, seconds; above an outage's length")
    parser.add_argument("--rate", type=float, default=10, help="requests a second for each replica")
    parser.add_argument("--minutes", type=float, default=120, help="at most, whatever the rotations done by then")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(
            run(
                Path(folder),
                rotations=given.rotations,
                max_age_s=given.max_age,
                per_s=given.rate,
                most_s=60 * given.minutes,
            )
        )


if __name__ == "__main__":
    sys.exit(main())
