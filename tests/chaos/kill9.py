"""`make kill9`: processes killed with SIGKILL at random points of first starts and of rotations.

After each kill: the file is absent or whole, exactly one key is active, no key that was ever there is gone, and every
token that any process signed, up to the moment of its death, still verifies.
"""

import argparse
import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from service.app import make_keys
from service.config import Settings
from service.keys.admin import KeyAdmin
from service.keys.encoding import from_jwk_set
from service.keys.file_store import FILE_NAME, NEW_NAME, FileStore
from service.keys.generator import KeyGenerator
from service.keys.keyring import KeyRing, KeyState
from service.keys.signer import Signer

ROTATIONS_A_FOLDER: Final = 60
"""A fresh folder after so many, so that the ring stays of a size that is met in practice."""
REPLICAS: Final = 3


@dataclass
class Tally:
    """The findings."""

    kills: dict[str, int] = field(default_factory=dict)
    mid_way: int = 0
    leftovers: int = 0
    tokens: int = 0
    faults: list[str] = field(default_factory=list)

    def count(self, what: str) -> None:
        self.kills[what] = self.kills.get(what, 0) + 1
        done = sum(self.kills.values())
        if sys.stderr.isatty() or done % 100 == 0:
            print(f"\r{done} kills, {len(self.faults)} faults", end="", file=sys.stderr, flush=True)


class Child:
    """A forked process that says on a pipe what it signed; killed without a word."""

    def __init__(self, work: Callable[[Callable[[str], None]], None]) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            try:
                work(lambda line: _say(writing, line))
                os._exit(0)
            except BaseException as error:  # noqa: BLE001 - a forked child must never return into its parent's code
                _say(writing, f"error {error!r}")
                os._exit(1)
        os.close(writing)
        self._reading = reading

    def kill(self) -> tuple[list[str], bool]:
        """What it had said in whole lines, and whether it was alive still."""
        alive = os.waitpid(self.pid, os.WNOHANG) == (0, 0)
        if alive:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        return self._lines(), alive

    def end(self) -> list[str]:
        os.waitpid(self.pid, 0)
        return self._lines()

    def _lines(self) -> list[str]:
        with os.fdopen(self._reading, "rb") as pipe:
            said = pipe.read().decode()
        return said.split("\n")[:-1]


def _say(pipe: int, line: str) -> None:
    os.write(pipe, line.encode() + b"\n")


def settings_for(folder: Path) -> Settings:
    return Settings.from_mapping({"GUEST_KEYS_DIR": str(folder)})


def first_start(folder: Path) -> Callable[[Callable[[str], None]], None]:
    async def start(say: Callable[[str], None]) -> None:
        keys = make_keys(settings_for(folder))
        await keys.start()
        if keys.loaded is None:
            raise RuntimeError(keys.status().problem)
        say(f"token {keys.loaded.signer.sign(b'{}')}")

    return lambda say: asyncio.run(start(say))


def rotating(folder: Path) -> Callable[[Callable[[str], None]], None]:
    async def rotate(say: Callable[[str], None]) -> None:
        policy = settings_for(folder).keys
        admin = KeyAdmin(
            generator=KeyGenerator(policy, clock=time.time, random_bytes=os.urandom),
            file=FileStore(folder),
            copy=None,
            sealer=None,
            clock=time.time,
            pause=lambda _seconds: asyncio.sleep(0),  # nobody else has to follow
        )
        while True:
            done = await (admin.rotate_now() if random.random() < 0.7 else admin.rotate())
            say(f"token {Signer(done.ring).sign(b'{}')}")

    return lambda say: asyncio.run(rotate(say))


def check(folder: Path, *, said: list[str], kids: set[str], tally: Tally, what: str) -> KeyRing | None:
    """Holds the folder against everything that was said; `kids` grows by the keys found."""
    path = folder / FILE_NAME
    tally.leftovers += (folder / NEW_NAME).exists()
    errors = [line for line in said if line.startswith("error")]
    tally.faults.extend(f"{what}: {line}" for line in errors)
    tokens = [line.removeprefix("token ") for line in said if line.startswith("token ")]
    if not path.exists():
        if tokens or kids:
            tally.faults.append(f"{what}: the file is gone, or a token was signed before there was one")
        return None
    try:
        ring = from_jwk_set(path.read_bytes())
        codec = Signer(ring)
        for token in tokens:
            codec.verify(token)
    except Exception as error:  # noqa: BLE001 - each is a finding, whatever it is
        tally.faults.append(f"{what}: {error!r}")
        return None
    now = {key.kid for key in ring.keys}
    if [key.state for key in ring.keys].count(KeyState.ACTIVE) != 1 or not kids <= now:
        tally.faults.append(f"{what}: lost {kids - now}, or not one active key")
    if path.stat().st_mode & 0o777 != 0o600:
        tally.faults.append(f"{what}: the file's mode is {path.stat().st_mode:o}")
    kids |= now
    tally.tokens += len(tokens)
    return ring


def how_long_s(work: Callable[[Path], Callable[[Callable[[str], None]], None]], base: Path) -> float:
    """The time that undisturbed work takes, the median of five."""
    times = []
    for number in range(5):
        started = time.perf_counter()
        Child(work(base / f"timing-{number}")).end()
        times.append(time.perf_counter() - started)
    return sorted(times)[2]


def kill_first_starts(base: Path, tally: Tally, *, kills: int) -> None:
    whole_s = how_long_s(first_start, base)
    for number in range(kills):
        folder = base / f"first-{number}"
        children = [Child(first_start(folder)) for _ in range(random.choice((1, 1, REPLICAS)))]
        time.sleep(random.uniform(0, 1.1 * whole_s))
        said, alive = children[0].kill()
        for child in children[1:]:
            said += child.end()
        tally.mid_way += alive
        kids: set[str] = set()
        before = check(folder, said=said, kids=kids, tally=tally, what="first start")
        after_said = Child(first_start(folder)).end()
        after = check(folder, said=said + after_said, kids=kids, tally=tally, what="start after a killed first start")
        if after is None or (before is not None and before != after):
            tally.faults.append("the start after a killed first start did not go on with the files that were there")
        tally.count("first starts")
        shutil.rmtree(folder)


def kill_rotations(base: Path, tally: Tally, *, kills: int) -> None:
    done = 0
    while done < kills:
        folder = base / f"rotations-{done}"
        said = Child(first_start(folder)).end()
        kids: set[str] = set()
        check(folder, said=said, kids=kids, tally=tally, what="start")
        children = [Child(rotating(folder)) for _ in range(REPLICAS)]
        while done < kills and len(kids) < ROTATIONS_A_FOLDER:
            time.sleep(random.uniform(0, 0.08))
            victim = random.randrange(REPLICAS)
            lines, alive = children[victim].kill()
            said += lines
            tally.mid_way += alive
            check(folder, said=said, kids=kids, tally=tally, what="rotation")
            tally.count("rotations")
            done += 1
            children[victim] = Child(rotating(folder))
        for child in children:
            said += child.kill()[0]
        check(folder, said=said, kids=kids, tally=tally, what="the folder's end")
        shutil.rmtree(folder)


def kill_programs(base: Path, tally: Tally, *, kills: int) -> None:
    """The same with the command line and the service as an operator starts them."""
    folder = base / "programs"
    kids: set[str] = set()
    environment = {**os.environ, "GUEST_KEYS_DIR": str(folder), "GUEST_PORT": "0", "GUEST_ISSUER": "http://x.test"}
    environment["GUEST_LOG_LEVEL"] = "error"
    for number in range(kills):
        arguments = ("serve",) if number % 2 == 0 else ("keys", "rotate", "--now")
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "service", *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(random.uniform(0.2, 1.4))
        tally.mid_way += process.poll() is None
        process.kill()
        process.wait()
        check(folder, said=[], kids=kids, tally=tally, what=" ".join(arguments))
        tally.count("programs")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**6)
    random.seed(seed)
    tally, started = Tally(), time.monotonic()
    programs = given.kills // 20
    each = (given.kills - programs) // 2
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        kill_first_starts(base, tally, kills=each)
        kill_rotations(base, tally, kills=given.kills - programs - each)
        kill_programs(base, tally, kills=programs)
    print(
        f"\n{sum(tally.kills.values())} kills in {time.monotonic() - started:.0f} s (seed {seed}): {tally.kills}\n"
        f"{tally.mid_way} hit a process at work, {tally.leftovers} left a half-written file behind\n"
        f"{tally.tokens} times a token was verified again\n"
        f"{len(tally.faults)} faults (keys lost, torn files, valid tokens refused, not one active key)"
    )
    for fault in tally.faults[:20]:
        print(" ", fault)
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
