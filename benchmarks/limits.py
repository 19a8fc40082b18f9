"""What must not surprise: the time to start, memory after many requests, latency under load and in a crowd.

`python -m benchmarks.limits` (`make bench-limits`) prints the figures; nothing is asserted. Memory is looked at while
tokens that have never been seen before are verified, which is what fills the memory of verified tokens.
"""

import asyncio
import itertools
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import click
import uvloop
from rich.progress import track

from benchmarks.operations import OPERATIONS, Operation, Requests, load_tokens, service_variables
from benchmarks.report import percentile
from benchmarks.servers import Server, answering, cores, pin, running
from service.app import make_key_operations
from service.config import Settings
from service.keys.encryption import make_secret
from tests.ports import free_port
from tests.redis_servers import Server as RedisServer
from tests.redis_servers import running as redis_running

SERVE: Final = (sys.executable, "-m", "service", "serve")
SHARE: Final = 0.7
"""Of the peak."""
ROTATE_S: Final = 1.0
"""Far more often than anybody would; each rotation also empties the memory of verified tokens."""
FAULT_S: Final = 2.0
"""Longer than anything waits for Redis."""
SLOW: Final = 200
TRICKLE_S: Final = 0.5
BEGUN: Final = (
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ",
    b"POST /v1/issue HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
)
_BY_NAME: Final = {each.name: each for each in OPERATIONS}


@click.command()
@click.option("--requests", "requests_total", default=1_000_000, show_default=True, help="For the look at memory.")
@click.option("--starts", default=9, show_default=True, help="Starts that are timed.")
@click.option("--seconds", default=10.0, show_default=True, help="For each look at latency.")
@click.option("--idle", default=10_000, show_default=True, help="Connections that say nothing, for one of these looks.")
def main(*, requests_total: int, starts: int, seconds: float, idle: int) -> None:
    """Measure the service's limits."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the service is started with the same
    uvloop.run(_run(requests_total=requests_total, starts=starts, seconds=seconds, idle=idle))


async def _run(*, requests_total: int, starts: int, seconds: float, idle: int) -> None:
    server_core, load_core = cores()
    pin(load_core)
    for algorithm in ("ES256", "RS256"):
        times = [await _start(algorithm, core=server_core) for _ in range(starts)]
        wall_s, cpu_s = statistics.median(each[0] for each in times), statistics.median(each[1] for each in times)
        click.echo(f"start to ready, first key {algorithm}: {wall_s:.2f} s ({cpu_s:.2f} s of processor time)")
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        variables = service_variables(port=port, keys_dir=Path(folder) / "keys")
        requests = Requests(await load_tokens(variables))
        with running("service", SERVE, port=port, core=server_core, variables=variables) as server:
            await answering(server)
            for name in ("verify_seen", "issue", "auth_seen"):
                await _latency(server, requests, _BY_NAME[name], seconds=seconds)
            rotating = asyncio.create_task(_keep_rotating(variables))
            click.echo(f"with a new key every {ROTATE_S:g} s:")
            await _latency(server, requests, _BY_NAME["verify_seen"], seconds=seconds)
            rotating.cancel()
            await _memory(server, requests, requests_total)
            click.echo(f"beside {SLOW} clients that trickle a head or a body:")
            async with _crowd(SLOW, lambda number: _trickle(server.port, BEGUN[number % 2])):
                await _latency(server, requests, _BY_NAME["verify_seen"], seconds=seconds)
            click.echo(f"beside {idle:,} connections that say nothing:")
            async with _crowd(idle, lambda _: _say_nothing(server.port)):
                await _latency(server, requests, _BY_NAME["verify_seen"], seconds=seconds)
                click.echo(f"memory then: {_rss_mib(server):.1f} MiB")
    await _beside_redis(core=server_core, seconds=seconds)


async def _beside_redis(*, core: int | None, seconds: float) -> None:
    """Latency and memory of a service whose Redis stays, then stops answering, then is gone, again and again."""
    with tempfile.TemporaryDirectory() as folder:
        redis = RedisServer(Path(folder) / "redis")
        port = free_port()
        variables = {
            **service_variables(port=port, keys_dir=Path(folder) / "keys"),
            "GUEST_KEYS_SECRET": make_secret(),
            "GUEST_LOG_LEVEL": "error",
        }
        requests = Requests(await load_tokens(variables))
        variables["GUEST_REDIS_URL"] = f"redis://127.0.0.1:{redis.port}"
        with (
            redis_running(redis),
            running("service", SERVE, port=port, core=core, variables=variables) as server,
        ):
            await answering(server)
            click.echo("with Redis:")
            await _latency(server, requests, _BY_NAME["verify_seen"], seconds=seconds)
            failing = asyncio.create_task(_keep_failing(redis))
            click.echo(f"with Redis that hangs for {FAULT_S:g} s and is killed for {FAULT_S:g} s in turn:")
            await _latency(server, requests, _BY_NAME["verify_seen"], seconds=2 * seconds)
            failing.cancel()
            click.echo(f"memory then: {_rss_mib(server):.1f} MiB")


async def _keep_failing(redis: RedisServer) -> None:
    while True:
        redis.pause()
        await asyncio.sleep(FAULT_S)
        redis.resume()
        await asyncio.sleep(FAULT_S)
        redis.kill()
        await asyncio.sleep(FAULT_S)
        await asyncio.to_thread(redis.start)
        await asyncio.sleep(FAULT_S)


async def _start(algorithm: str, *, core: int | None) -> tuple[float, float]:
    """Seconds from starting the process until it is ready, and the processor time they took, with an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        variables = {**service_variables(port=port, keys_dir=Path(folder) / "keys"), "GUEST_ALGORITHM": algorithm}
        started_s = time.perf_counter()
        with running("service", SERVE, port=port, core=core, variables=variables) as server:
            await answering(server)
            await server.connections.burst(iter([_READY]), seconds=1, expects=b'"ready":true')
            return time.perf_counter() - started_s, server.cpu_s()


_READY: Final = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def _latency(server: Server, requests: Requests, operation: Operation, *, seconds: float) -> None:
    """Percentiles while each connection sends at its share of 70 % of the peak that was measured just before."""
    of, load = requests.of(operation, count=0), server.connections.burst
    peak = await load(of, seconds=min(2.0, seconds), expects=operation.expects)
    paced = await load(of, seconds=seconds, expects=operation.expects, per_s=SHARE * peak.per_s)
    ordered = sorted(paced.latencies_s)
    p50_ms, p99_ms = percentile(ordered, 0.5) * 1e3, percentile(ordered, 0.99) * 1e3
    click.echo(
        f"{operation.label}: {paced.per_s:,.0f}/s of {peak.per_s:,.0f}/s at peak; "
        f"p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms, {p99_ms / p50_ms:.1f} times; longest {ordered[-1] * 1e3:.1f} ms"
    )


async def _keep_rotating(variables: dict[str, str]) -> None:
    operations = make_key_operations(Settings.from_mapping(variables))
    while True:
        await asyncio.sleep(ROTATE_S)
        await operations.rotate_now()


@asynccontextmanager
async def _crowd(size: int, client: Callable[[int], Coroutine[None, None, None]]) -> AsyncIterator[None]:
    """So many clients at once, from when the last one has come."""
    clients = []
    for number in range(size):
        clients.append(asyncio.create_task(client(number)))
        if number % 50 == 0:
            await asyncio.sleep(0.02)  # as many as the queue of those who wait to be let in holds
    await asyncio.sleep(1)
    gone = sum(each.done() for each in clients)
    click.echo(f"{size - gone:,} of {size:,} are let in")
    try:
        yield
    finally:
        for each in clients:
            each.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def _say_nothing(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await asyncio.Event().wait()
    finally:
        writer.close()


async def _trickle(port: int, begun: bytes) -> None:
    """Begins a request, sends a byte now and then, and comes back when it is sent away."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(begun)
            while not reader.at_eof():
                writer.write(b"a")
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(4_096), TRICKLE_S)
        except ConnectionError:
            await asyncio.sleep(TRICKLE_S)
        finally:
            writer.close()


async def _memory(server: Server, requests: Requests, total: int) -> None:
    """Resident memory after each tenth of the requests, half of which verify new tokens."""
    part = total // 10
    click.echo(f"memory at first: {_rss_mib(server):.1f} MiB")
    for tenth in track(range(1, 11), description="requests", disable=not os.isatty(2)):
        for name, count in (("verify_new", part // 2), ("issue", part // 4), ("auth_seen", part // 4)):
            await _send(server, requests, _BY_NAME[name], count)
        click.echo(f"memory after {tenth * part:,} requests: {_rss_mib(server):.1f} MiB")


async def _send(server: Server, requests: Requests, operation: Operation, count: int) -> None:
    """Exactly `count` requests, in pieces, as the tokens of a piece are made before it."""
    for size in _pieces(count, 5_000):
        made: Iterator[bytes] = iter(list(itertools.islice(requests.of(operation, count=size), size)))
        await server.connections.burst(made, seconds=60, expects=operation.expects)


def _pieces(total: int, size: int) -> Iterator[int]:
    yield from (min(size, total - start) for start in range(0, total, size))


def _rss_mib(server: Server) -> float:
    pages = int(Path(f"/proc/{server.pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1_048_576


if __name__ == "__main__":
    main()
