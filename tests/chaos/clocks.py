"""`make clocks`: the fleet of `make chaos` with clocks that are 5 s apart and jump by an hour, and in years to come.

And a key's life with all clocks in 1970 or 2099 at each step of it in turn.

Redis is left in peace. A clock is skewed in the process alone, from the file that `skewed` reads.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from service.app import make_key_operations
from service.config import Settings
from tests.chaos.outages import Trial, fleet, progress, summary
from tests.chaos.skewed import SkewedClock

HOUR_S: Final = 3_600
APART_S: Final = (-2.5, 2.5, 0.0, 1.0)
"""Two keepers and two followers, 5 s from first to last."""
YEARS: Final = (
    datetime(2038, 1, 19, 3, 14, 0, tzinfo=UTC),  # 2^31 s are reached 8 s later
    datetime(2106, 2, 7, 6, 28, 8, tzinfo=UTC),  # 2^32 s
    datetime(2200, 1, 1, tzinfo=UTC),
)
WRONG: Final = (datetime(1970, 1, 2, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC))
STEPS: Final = ("start", "stage", "promote", "revoke")
PROGRAM: Final = ("tests.chaos.skewed",)


class Clocks:
    """The clock of each replica, and the operator's."""

    def __init__(self, base: Path, trial: Trial) -> None:
        self.operator = base / "operator.clock"
        self._files = [base / f"{number}.clock" for number in range(len(APART_S))]
        self._trial = trial
        self.jumps = 0
        base.mkdir(parents=True, exist_ok=True)
        self.set(0)

    def launch(self) -> None:
        for replica, file in zip(self._trial.replicas, self._files, strict=True):
            replica.environment["TRIAL_CLOCK"] = str(file)

    def set(self, ahead_s: float) -> None:
        """Everybody's clock that far ahead of the true time, 5 s apart among themselves."""
        self.operator.write_text(str(ahead_s))
        for file, apart_s in zip(self._files, APART_S, strict=True):
            file.write_text(str(ahead_s + apart_s))

    async def jump(self) -> None:
        """One replica after the other lives an hour ahead or behind for some seconds."""
        while not self._trial.over:
            await self._trial.pause(4)
            number = random.randrange(len(self._files))
            self._files[number].write_text(str(APART_S[number] + random.choice((-HOUR_S, HOUR_S))))
            self.jumps += 1
            await self._trial.pause(4)
            self._files[number].write_text(str(APART_S[number]))


async def rotate(trial: Trial, clocks: Clocks, *, times: int) -> None:
    """As an operator does, with the operator's clock; waits until the new key signs everywhere."""
    settings = Settings.from_mapping(trial.operator)
    for _ in range(times):
        operations = make_key_operations(settings, clock=SkewedClock(clocks.operator))
        staged = (await operations.rotate()).ring.staged
        assert staged is not None
        kid = staged.kid
        await trial.until(lambda kid=kid: trial.all_sign_with(kid))  # type: ignore[misc]
        trial.report.rotations += 1


def leap(trial: Trial, clocks: Clocks, year: datetime) -> None:
    trial.tokens.clear()  # those of now will have expired by then
    clocks.set(year.timestamp() - time.time())


async def issue(trial: Trial, number: int) -> None:
    answer = await trial.ask(trial.replicas[number], "/v1/issue", {})
    assert answer is not None
    trial.tokens.append(answer["token"])


async def live(base: Path, *, wrong: datetime, step: str) -> list[str]:
    """A key's life, with all clocks at another year during one of its steps; returns the faults."""
    ahead_s = wrong.timestamp() - time.time()
    clocks: list[Clocks] = []

    def prepare(trial: Trial) -> None:
        clocks.append(Clocks(base, trial))
        clocks[0].launch()
        clocks[0].set(ahead_s if step == "start" else 0)

    async with fleet(base, max_age_s=2, program=PROGRAM, prepare=prepare) as trial:
        operations = make_key_operations(Settings.from_mapping(trial.operator), clock=SkewedClock(clocks[0].operator))

        def at(name: str) -> None:
            clocks[0].set(ahead_s if step == name else 0)

        clocks[0].set(0)
        await issue(trial, 0)
        first = (await operations.ring()).active
        at("stage")
        staged = (await operations.rotate()).ring.staged
        assert first is not None
        assert staged is not None
        at("promote")
        async with asyncio.timeout(60):
            await trial.until(lambda: trial.all_sign_with(staged.kid))
        at("after the promotion")
        await issue(trial, 1)
        for token in trial.tokens:
            for replica in trial.replicas:
                await trial.must_verify(token, replica)
        at("revoke")
        successor = (await operations.revoke(staged.kid)).ring.active
        at("after the revocation")
        assert successor is not None
        async with asyncio.timeout(60):
            await trial.until(lambda: trial.all_sign_with(successor.kid))
        await issue(trial, 2)
        for replica in trial.replicas:
            await trial.must_verify(trial.tokens[0], replica)
            await trial.must_verify(trial.tokens[-1], replica)
            refused = await trial.ask(replica, "/v1/verify", {"token": trial.tokens[1]})
            if refused is None or refused.get("reason") != "revoked":
                trial.report.find(f"revoked token taken: {replica.name}, {wrong.year} at {step}")
    return trial.report.findings


async def lives(base: Path) -> list[str]:
    findings = []
    for wrong in WRONG:
        for step in STEPS:
            print(f"{wrong.year} at the step: {step}", file=sys.stderr)
            findings += await live(base / f"{wrong.year}-{step}", wrong=wrong, step=step)
    return findings


async def run(base: Path, *, rotations: int) -> int:
    started = time.monotonic()
    async with fleet(base, max_age_s=2, program=PROGRAM, prepare=lambda trial: Clocks(base, trial).launch()) as trial:
        clocks = Clocks(base, trial)
        async with asyncio.TaskGroup() as tasks:
            for replica in trial.replicas:
                tasks.create_task(trial.load(replica, per_s=10))
            tasks.create_task(progress(trial, rotations=rotations + len(YEARS)))
            jumping = tasks.create_task(clocks.jump())
            await rotate(trial, clocks, times=rotations)
            jumping.cancel()
            for year in YEARS:
                await trial.without_load(lambda year=year: leap(trial, clocks, year))  # type: ignore[misc]
                await trial.pause(15)
                await rotate(trial, clocks, times=1)
            trial.over = True
        print("\n" + summary(trial, took_s=time.monotonic() - started))
        print(f"jumps by an hour: {clocks.jumps}, then the years {[year.year for year in YEARS]}")
        return 1 if trial.report.findings else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rotations", type=int, default=20, help="while clocks jump")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wrong = asyncio.run(lives(Path(folder) / "lives"))
        print(f"a key's life with 1970 and 2099 at {len(STEPS)} steps: {len(wrong)} findings", *wrong, sep="\n")
        return asyncio.run(run(Path(folder), rotations=given.rotations)) or bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
