"""`python -m soak`: one keeper with Redis, everybody who calls it, and everything that goes wrong around it."""

import asyncio
import os
import random
import secrets
import tempfile
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.live import Live

from service.keys.encryption import make_secret
from soak.report import as_svg, as_table, as_text
from soak.tally import Tally
from soak.traffic import Traffic
from soak.trouble import RedisTrouble, rotate
from tests.processes import environment
from tests.processes import running as serving
from tests.redis_servers import Server
from tests.redis_servers import running as redis_running

SAMPLE_EVERY_S: Final = 1.0
MOST_ROTATIONS: Final = 100
"""The published keys are limited to 128, and within a soak none is old enough to be dropped."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", default=2.0, show_default=True, help="How long; hours are minutes too.")
@click.option("--rate", default=100.0, show_default=True, help="Visits a second; each is one to seven requests.")
@click.option("--out", default="soak-report", show_default=True, type=click.Path(path_type=Path), help="A folder.")
@click.option("--seed", default=1, show_default=True, help="Of all random choices.")
def main(*, minutes: float, rate: float, out: Path, seed: int) -> None:
    """Soak the service; exits 1 where a promise was broken."""
    out.mkdir(parents=True, exist_ok=True)
    tally = asyncio.run(_soak(total_s=minutes * 60, rate=rate, seed=seed, out=out))
    text = as_text(tally)
    click.echo(text)
    (out / "soak.txt").write_text(text, "utf-8")
    (out / "soak.svg").write_text(as_svg(tally), "utf-8")
    raise SystemExit(1 if tally.broken.total() else 0)


async def _soak(*, total_s: float, rate: float, seed: int, out: Path) -> Tally:
    tally, chance, api_key = Tally(time.monotonic), random.Random(seed), secrets.token_urlsafe(24)  # noqa: S311 - a load, no secret
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = Server(folder / "redis")
        stack.enter_context(redis_running(redis))
        variables = {
            "GUEST_REDIS_URL": f"redis://127.0.0.1:{redis.port}",
            "GUEST_KEYS_SECRET": make_secret(),
            "GUEST_API_KEYS": api_key,
            "GUEST_KEYS_DIR": str(folder / "keys"),
            "GUEST_ISSUER": "http://guests.test",
        }
        service = stack.enter_context(serving(folder, **variables))
        traffic = Traffic(base_url=service.base_url, api_key=api_key, tally=tally, chance=chance)
        stack.push_async_callback(traffic.close)
        await traffic.until_ready()
        rotate_every_s = max(30.0, total_s / MOST_ROTATIONS)
        work: list[Coroutine[Any, Any, None]] = [
            *_visits(traffic, rate=rate),
            rotate(tally, environment(variables), every_s=rotate_every_s),
            RedisTrouble(redis, tally, chance).happen(every_s=max(15.0, total_s / 200)),
            _watch(tally, traffic, service.process.pid, total_s=total_s),
        ]
        tasks = [asyncio.create_task(each) for each in work]
        try:
            await asyncio.wait(tasks, timeout=total_s, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            (out / "service.log").write_text(service.output, "utf-8")
        if service.stop() != 0:
            tally.fault("5xx", "the service did not end well")
    tally.end()
    return tally


def _visits(traffic: Traffic, *, rate: float) -> list[Coroutine[Any, Any, None]]:
    """Each kind of visitor several times at once, together at about `rate` visits a second."""
    shares = {
        traffic.guest: 0.25,
        traffic.returning_guest: 0.25,
        traffic.verifier: 0.02,
        traffic.forger: 0.22,
        traffic.intruder: 0.04,
        traffic.vandal: 0.1,
        traffic.babbler: 0.07,
        traffic.leaver: 0.03,
        traffic.sloth: 0.02,
    }
    at_once = 8
    return [
        traffic.keep_up(visit, every_s=at_once / (rate * share))
        for visit, share in shares.items()
        for _ in range(at_once)
    ]


async def _watch(tally: Tally, traffic: Traffic, pid: int, *, total_s: float) -> None:
    """Looks at the service's memory, and shows how it stands."""
    page_mib = os.sysconf("SC_PAGE_SIZE") / 2**20
    with Live(console=Console(stderr=True), refresh_per_second=1, transient=True) as live:
        while True:
            tally.sample(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page_mib)  # noqa: ASYNC240 - no disk
            live.update(as_table(tally, total_s=total_s))
            asked_s = time.monotonic()
            await asyncio.sleep(SAMPLE_EVERY_S)
            own_s = time.monotonic() - asked_s - SAMPLE_EVERY_S
            tally.lagged(own_s=own_s, service_s=await traffic.longest_lag_s())


if __name__ == "__main__":
    main()
