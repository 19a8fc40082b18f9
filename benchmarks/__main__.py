"""`python -m benchmarks`: every server in turn, many short rounds, medians of the ratios."""

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.operations import OPERATIONS, Operation, Requests, load_tokens, service_variables
from benchmarks.report import (
    BEFORE,
    CONSTANT,
    GO_PEER,
    PEER,
    SERVICE,
    Row,
    Sample,
    as_json,
    as_svg,
    as_text,
    machine,
    percentile,
    summarise,
)
from benchmarks.servers import CONNECTIONS, Server, answering, cores, pin, running
from tests.ports import free_port

WARM_UP: Final = 0.2
"""Of a burst, before the measurement: so that the caches hold this server's work and not the last one's."""
_SERVE: Final = (sys.executable, "-m", "service", "serve")
_GO_PEER: Final = Path(__file__).parent / "peer_go"
FASTEST_PER_S: Final = 16_000
"""No server here answers more: so many new tokens a second are made ready for a burst."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to run."""

    operations: tuple[Operation, ...]
    rounds: int
    seconds: float
    peers: bool
    before: Path | None
    pythons: tuple[Path, ...]
    out: Path


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--rounds", default=21, show_default=True, help="Rounds; in each, every server has its burst of each load."
)
@click.option("--seconds", default=0.4, show_default=True, help="Length of a burst.")
@click.option("--only", multiple=True, type=click.Choice([each.name for each in OPERATIONS]), help="Only this.")
@click.option("--no-peer", is_flag=True, help="Leave the peers out.")
@click.option("--quick", is_flag=True, help="One round of short bursts: shows that all of it works, measures nothing.")
@click.option("--before", type=click.Path(path_type=Path), help="A checkout of an earlier state, to measure as well.")
@click.option(
    "--python", "pythons", multiple=True, type=click.Path(path_type=Path), help="Serve with this one as well."
)
@click.option("--out", default="benchmarks/out", show_default=True, type=click.Path(path_type=Path), help="A folder.")
def main(
    *,
    rounds: int,
    seconds: float,
    only: Sequence[str],
    no_peer: bool,
    quick: bool,
    before: Path | None,
    pythons: Sequence[Path],
    out: Path,
) -> None:
    """Measure the service against a constant aiohttp handler and peers, each pinned to one core."""
    plan = Plan(
        operations=tuple(each for each in OPERATIONS if not only or each.name in only),
        rounds=1 if quick else rounds,
        seconds=0.1 if quick else seconds,
        peers=not no_peer,
        before=before,
        pythons=tuple(pythons),
        out=out,
    )
    uvloop.run(_run(plan))


async def _run(plan: Plan) -> None:
    server_core, load_core = cores()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        keys_dir = Path(folder) / "keys"
        port = free_port()
        variables = service_variables(port=port, keys_dir=keys_dir)
        if plan.before is not None:
            _make_keys(plan.before, variables)
        requests = Requests(await load_tokens(variables))
        pin(load_core)
        service = stack.enter_context(running(SERVICE, _SERVE, port=port, core=server_core, variables=variables))
        await answering(service)
        sizes = {each.path: (each.method, await _answer_size(service, requests, each)) for each in plan.operations}
        python = (sys.executable, "-m")
        constant = msgspec.json.encode(sizes).decode()
        others: dict[str, tuple[tuple[str, ...], str]] = {CONSTANT: ((*python, "benchmarks.constant"), constant)}
        if plan.peers:
            keyring = str(keys_dir / "keyring.json")
            others[PEER] = ((*python, "benchmarks.peer"), keyring)
            if shutil.which("go"):
                others[GO_PEER] = ((_built_go_peer(Path(folder)),), keyring)
        for each in plan.pythons:
            others[f"{CONSTANT} {_version(each)}"] = ((str(each), "-m", "benchmarks.constant"), constant)
        servers = [service]
        for name, (program, argument) in others.items():
            port = free_port()
            command = [*program, str(port), argument]
            servers.append(stack.enter_context(running(name, command, port=port, core=server_core, variables={})))
        services: dict[str, tuple[str, Path | None]] = {_version(each): (str(each), None) for each in plan.pythons}
        if plan.before is not None:
            services[BEFORE] = (sys.executable, plan.before)
        for name, (interpreter, folder_of_code) in services.items():
            port = free_port()
            variables = service_variables(port=port, keys_dir=keys_dir)
            command = [interpreter, *_SERVE[1:]]
            serve = running(name, command, port=port, core=server_core, variables=variables, folder=folder_of_code)
            servers.append(stack.enter_context(serve))
        for server in servers:
            await answering(server)
        _write(await _rounds(plan, servers, requests), plan)


def _make_keys(folder: Path, variables: Mapping[str, str]) -> None:
    """A ring in the form of an earlier state, as it may not read ours; a keeper of ours leaves it so for an hour."""
    command = [sys.executable, "-m", "service", "keys", "init"]
    subprocess.run(command, cwd=folder, env={**os.environ, **variables}, check=True)  # noqa: S603 - our own program


def _version(python: Path) -> str:
    command = [str(python), "-c", "import platform; print('Python', platform.python_version())"]
    return subprocess.check_output(command, text=True).strip()  # noqa: S603 - as the option says


def _built_go_peer(folder: Path) -> str:
    program = folder / "peer_go"
    subprocess.run(["go", "build", "-o", program, "."], cwd=_GO_PEER, check=True)  # noqa: S603, S607 - as it is found
    return str(program)


async def _answer_size(server: Server, requests: Requests, operation: Operation) -> int:
    some = islice(requests.of(operation, count=1), 1)
    return (await server.connections.burst(some, seconds=1, expects=operation.expects)).body_bytes


async def _rounds(plan: Plan, servers: Sequence[Server], requests: Requests) -> list[Row]:
    samples: dict[str, list[dict[str, Sample]]] = {each.name: [] for each in plan.operations}
    columns = TextColumn("{task.description:<32}"), BarColumn(), TextColumn("{task.completed}/{task.total}")
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=plan.rounds * len(plan.operations))
        for number in range(plan.rounds):
            for operation in plan.operations:
                progress.update(task, description=operation.label[:32])
                # Who goes first changes from round to round, as what runs before leaves its traces.
                turn = [*servers[number % len(servers) :], *servers[: number % len(servers)]]
                samples[operation.name].append(await _round(plan, turn, requests, operation))
                progress.advance(task)
    return [summarise(each, samples[each.name]) for each in plan.operations]


async def _round(plan: Plan, servers: Sequence[Server], requests: Requests, operation: Operation) -> dict[str, Sample]:
    found = {}
    for server in servers:
        if server.name in (PEER, GO_PEER) and not operation.peer:
            continue
        found[server.name] = await _sample(plan, server, _ready(requests, operation, seconds=plan.seconds), operation)
    return found


def _ready(requests: Requests, operation: Operation, *, seconds: float) -> Iterator[bytes]:
    """The requests of one burst, made before it, so that it has the core for itself."""
    count = int(FASTEST_PER_S * seconds * (1 + WARM_UP)) if operation.needs_new_tokens else 0
    made = requests.of(operation, count=count)
    return iter(list(made)) if operation.needs_new_tokens else made


async def _sample(plan: Plan, server: Server, requests: Iterator[bytes], operation: Operation) -> Sample:
    expects = b"" if server.name.startswith(CONSTANT) else operation.expects
    gc.collect()
    gc.disable()
    try:
        await server.connections.burst(requests, seconds=plan.seconds * WARM_UP, expects=expects)
        before_s = server.cpu_s()
        found = await server.connections.burst(requests, seconds=plan.seconds, expects=expects)
        used_s = server.cpu_s() - before_s
    finally:
        gc.enable()
    ordered = sorted(found.latencies_s)
    return Sample(
        per_s=found.per_s,
        cpu_us=used_s / found.requests * 1e6,
        p50_ms=percentile(ordered, 0.5) * 1e3,
        p99_ms=percentile(ordered, 0.99) * 1e3,
    )


def _write(rows: Sequence[Row], plan: Plan) -> None:
    here: dict[str, Any] = machine()
    place = f"{here['cpus']} cores of {here['cpu']}, Linux {here['kernel']}, Python {here['python']}"
    how = f"{plan.rounds} rounds of {plan.seconds} s, {CONNECTIONS} connections, server on one core"
    plan.out.mkdir(parents=True, exist_ok=True)
    text = as_text(rows, about=f"{place}\n{how}")
    (plan.out / "benchmark.txt").write_text(text + "\n", "utf-8")
    (plan.out / "benchmark.json").write_bytes(
        as_json(rows, about={**here, "rounds": plan.rounds, "seconds": plan.seconds, "connections": CONNECTIONS})
    )
    short = f"{here['cpus']}-core VM, {here['cpu']}, Python {here['python']}; one core serves {CONNECTIONS} connections"
    (plan.out / "benchmark.svg").write_text(as_svg(rows, about=short), "utf-8")
    click.echo(text)
    click.echo(f"\nWritten to {plan.out}/benchmark.txt, .json and .svg")


if __name__ == "__main__":
    main()
