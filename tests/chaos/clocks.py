"""`make clocks`: the fleet of `make chaos` with clocks that are 5 s apart and jump by an hour, and in years to come.

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
PROGRAM: Final = ("tests.chaos.skewed",)


class Clocks:
    """The clock of each replica, and the operator's."""

    def __init__(self, base: Path, trial: Trial) -> None:
        self.operator = base / "operator.clock"
        self._files = [base / f"{number}.clock" for number in range(len(APART_S))]
        self._trial = trial
        self.jumps = 0
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
        return asyncio.run(run(Path(folder), rotations=given.rotations))


if __name__ == "__main__":
    sys.exit(main())
