"""`python -m tests.prometheus.picture`: the dashboard in docs/images, of a true run of two replicas.

Prometheus scrapes them while guests come, keys rotate and Redis fails; Grafana's own panels (`@grafana/ui`) draw what
it returns for the dashboard's expressions. No Grafana server takes part.
"""

import asyncio
import json
import random
import secrets
import shutil
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import click

from service.keys.encryption import make_secret
from soak.tally import Tally
from soak.traffic import Traffic
from soak.trouble import rotate
from tests.gateways.processes import HOST
from tests.gateways.processes import running as started
from tests.ports import free_port
from tests.processes import Service, environment, running
from tests.prometheus.expressions import DASHBOARD, ROOT
from tests.redis_servers import Server
from tests.redis_servers import running as redis_running

HERE: Final = Path(__file__).parent
SCRAPE_EVERY_S: Final = 2
LASTS_S: Final = 300.0
SIZE: Final = (24 * 56, 28 * 36)
"""Pixels: 24 columns and 28 rows of the dashboard's grid."""
PAGE: Final = """<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="panels.css">
<style>* { box-sizing: border-box; font-family: Helvetica, sans-serif }</style>
<body></body><script src="panels.js"></script>
"""


def program(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise click.ClickException(f"{name} is not here: apt-get install {package}")
    return path


@contextmanager
def prometheus(folder: Path, replicas: list[Service]) -> Iterator[str]:
    """The address of a Prometheus that scrapes the replicas."""
    targets = [each.base_url.removeprefix("http://") for each in replicas]
    config = {
        "global": {"scrape_interval": f"{SCRAPE_EVERY_S}s"},
        "scrape_configs": [{"job_name": "guest-sessions", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    port = free_port()
    command = [
        program("prometheus", "prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={HOST}:{port}",
    ]
    with started(command, port=port, log=folder / "prometheus.log"):
        yield f"http://{HOST}:{port}"


async def load(replicas: list[Service], settings: dict[str, str], redis: Server) -> None:
    """Guests, forged tokens and verifiers at both; two rotations; at half time no Redis for half a minute."""
    tally, chance = Tally(time.monotonic), random.Random(1)  # noqa: S311 - a load, no secret
    tasks = [asyncio.create_task(rotate(tally, environment(settings), every_s=LASTS_S * 0.4))]
    async with AsyncExitStack() as life:
        for replica in replicas:
            api_key = settings["GUEST_API_KEYS"]
            crowd = Traffic(base_url=replica.base_url, api_key=api_key, tally=tally, chance=chance)
            life.push_async_callback(crowd.close)
            await crowd.until_ready()
            often = {
                crowd.guest: 0.3,
                crowd.returning_guest: 0.2,
                crowd.forger: 1.0,
                crowd.intruder: 4.0,
                crowd.verifier: 2.0,
            }
            tasks += [asyncio.create_task(crowd.keep_up(visit, every_s=every_s)) for visit, every_s in often.items()]
        await asyncio.sleep(LASTS_S / 2)
        redis.kill()
        await asyncio.sleep(30)
        redis.start()
        await asyncio.sleep(LASTS_S / 2 - 30)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def series(address: str, target: dict[str, str], *, from_s: float, to_s: float) -> list[dict[str, Any]]:
    """What Prometheus returns for one expression, each series with its name by the legend."""
    expression = target["expr"].replace("$__rate_interval", f"{4 * SCRAPE_EVERY_S}s").replace("$job", "guest-sessions")
    query = urllib.parse.urlencode({"query": expression, "start": from_s, "end": to_s, "step": SCRAPE_EVERY_S})
    with urllib.request.urlopen(f"{address}/api/v1/query_range?{query}", timeout=30) as answer:  # noqa: S310 - ours
        found = json.load(answer)["data"]["result"]
    named = []
    for each in found:
        name = target["legendFormat"]
        for label, value in each["metric"].items():
            name = name.replace(f"{{{{{label}}}}}", value)
        named.append({"name": name, "values": each["values"]})
    return named


def draw(panels: list[dict[str, Any]], out: Path, folder: Path, *, from_s: float, to_s: float) -> None:
    """Bundles Grafana's panels with their data into a page, and takes its picture."""
    npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
    subprocess.run([program("npm", "npm"), *npm[1:]], cwd=HERE, check=True)  # noqa: S603 - ours
    (folder / "data.json").write_text(json.dumps({"panels": panels, "from": from_s * 1000, "to": to_s * 1000}))
    bundle: list[str | Path] = [
        HERE / "node_modules/.bin/esbuild",
        HERE / "panels.jsx",
        "--bundle",
        f"--outfile={folder / 'panels.js'}",
    ]
    bundle += [f"--alias:data={folder / 'data.json'}", "--jsx=automatic", "--log-level=error", "--loader:.ttf=empty"]
    bundle += ['--define:process.env.NODE_ENV="production"']
    subprocess.run(bundle, check=True)  # noqa: S603 - ours
    page = folder / "page.html"
    page.write_text(PAGE)
    shot = [program("chromium", "chromium"), "--headless", "--no-sandbox", "--hide-scrollbars", f"--screenshot={out}"]
    shot += [f"--window-size={SIZE[0]},{SIZE[1]}", "--virtual-time-budget=5000", page.as_uri()]
    subprocess.run(shot, check=True, capture_output=True)  # noqa: S603 - ours
    subprocess.run([program("pngquant", "pngquant"), "--force", "--output", out, out], check=True)  # noqa: S603 - ours


@click.command()
@click.option("--out", default=ROOT / "docs/images/dashboard.png", type=click.Path(path_type=Path))
def main(*, out: Path) -> None:
    """Take the dashboard's picture."""
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    with ExitStack() as life:
        folder = Path(life.enter_context(tempfile.TemporaryDirectory()))
        [redis] = life.enter_context(redis_running(Server(folder / "redis")))
        settings = {
            "GUEST_REDIS_URL": f"redis://127.0.0.1:{redis.port}",
            "GUEST_KEYS_SECRET": make_secret(),
            "GUEST_API_KEYS": secrets.token_urlsafe(24),
            "GUEST_KEYS_DIR": str(folder / "keys"),
        }
        replicas = []
        for name in ("one", "two"):
            (folder / name).mkdir()
            replicas.append(life.enter_context(running(folder / name, **settings)))
        address = life.enter_context(prometheus(folder, replicas))
        asyncio.run(load(replicas, settings, redis))
        to_s = time.time()
        from_s = to_s - LASTS_S + 4 * SCRAPE_EVERY_S
        for panel in panels:
            found = [series(address, target, from_s=from_s, to_s=to_s) for target in panel["targets"]]
            panel["series"] = [each for several in found for each in several]
        draw(panels, out, folder, from_s=from_s, to_s=to_s)
    empty = [panel["title"] for panel in panels if not panel["series"]]
    click.echo(f"{out}: {out.stat().st_size // 1024} KiB; panels without data: {', '.join(empty) or 'none'}")


if __name__ == "__main__":
    main()
