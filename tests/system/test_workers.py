"""Several workers on one address, as real processes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.processes import DEADLINE_S, SERVE, Service, environment, running, until
from tests.redis_servers import Server
from tests.redis_servers import running as redis_running


def call(service: Service, path: str, body: object = None) -> bytes:
    """One request on a connection of its own, so that any worker may take it."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310 - a loopback address of the test's own
        service.base_url + path, data=data, headers={"Content-Type": "application/json", "Connection": "close"}
    )
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310
        return bytes(answer.read())


def workers(service: Service) -> set[int]:
    """The processes that the service has started and that still live."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == service.process.pid and state != "Z":
            found.add(int(stat.parent.name))
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ready(service: Service) -> bool:
    """Whether each worker that is asked says that it is ready."""
    try:
        return all(call(service, "/readyz") for _ in range(12))
    except OSError:
        return False


def issued(service: Service) -> float:
    text = call(service, "/metrics").decode()
    found = re.search(r'^guest_sessions_tokens_total\{event="issued"\} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path, GUEST_WORKERS="3") as started:
        yield started


def test_workers_share_a_port_a_keyring_and_their_counters(service: Service) -> None:
    keys = {call(service, "/.well-known/jwks.json") for _ in range(12)}
    for _ in range(24):
        call(service, "/v1/issue", {})

    assert len(workers(service)) == 3
    assert len(keys) == 1
    assert {issued(service) for _ in range(12)} == {24.0}
    assert service.stop() == 0


def test_workers_keep_one_rate_limit_together(tmp_path: Path) -> None:
    limit = {"GUEST_RATE_LIMIT": "0.001", "GUEST_TRUSTED_PROXIES": "127.0.0.1/32"}
    navigation = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Connection": "close"}
    with running(tmp_path, GUEST_WORKERS="3", **limit) as service:
        asked = urllib.request.Request(service.base_url + "/v1/auth?mode=ensure", headers=navigation)  # noqa: S310 - loopback
        new = []
        for _ in range(24):
            with urllib.request.urlopen(asked, timeout=DEADLINE_S) as answer:  # noqa: S310 - the same
                new.append(answer.headers["X-Guest-New"])

    assert new == ["1"] + [""] * 23


def test_a_dead_worker_is_replaced_and_no_counter_goes_back(service: Service) -> None:
    for _ in range(12):
        call(service, "/v1/issue", {})
    before = workers(service)
    victim = min(before)

    os.kill(victim, signal.SIGKILL)
    until(lambda: len(workers(service) - {victim}) == 3)
    for _ in range(12):
        call(service, "/v1/issue", {})

    assert workers(service) - before != set()
    assert {issued(service) for _ in range(6)} == {24.0}
    assert f"Worker (pid:{victim}) was sent SIGKILL!" in service.output


def test_a_restart_in_turn_fails_no_request(service: Service) -> None:
    before, failures, over = workers(service), [], threading.Event()

    def keep_calling() -> None:
        while not over.is_set():
            try:
                call(service, "/v1/issue", {})
            except OSError as error:
                failures.append(error)

    caller = threading.Thread(target=keep_calling)
    caller.start()
    service.process.send_signal(signal.SIGHUP)
    until(lambda: len(workers(service)) == 3 and not workers(service) & before)
    over.set()
    caller.join()

    assert failures == []
    assert service.stop() == 0


def test_a_restart_is_refused_where_the_settings_have_faults(tmp_path: Path) -> None:
    policies = tmp_path / "policies.json"
    policies.write_text("{}")
    with running(tmp_path, GUEST_WORKERS="2", GUEST_MERGE_POLICIES=str(policies)) as service:
        before = workers(service)
        policies.write_text('{"x": {"rules": 1}}')
        service.process.send_signal(signal.SIGHUP)
        until(lambda: "no worker is restarted" in service.output)

        assert workers(service) == before


def test_a_restart_is_refused_where_the_keyring_would_not_open(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("A" * 43)
    with running(tmp_path, GUEST_WORKERS="2", GUEST_KEYS_SECRET_FILE=str(secret)) as service:
        before = workers(service)
        secret.write_text("B" * 42 + "A")
        service.process.send_signal(signal.SIGHUP)
        until(lambda: "no worker is restarted" in service.output)

        assert workers(service) == before
        assert {len(call(service, "/v1/issue", {})) > 0 for _ in range(6)} == {True}
        assert "not among those given" in service.output


def test_a_worker_that_replaces_another_has_the_keys_though_the_file_is_damaged(tmp_path: Path) -> None:
    with running(tmp_path, GUEST_WORKERS="2") as service:
        token = json.loads(call(service, "/v1/issue", {}))["token"]
        before = workers(service)
        (tmp_path / "keys" / "keyring.json").write_text("damaged")
        for victim in before:
            os.kill(victim, signal.SIGKILL)
        until(lambda: len(workers(service) - before) == 2)

        verdicts = [json.loads(call(service, "/v1/verify", {"token": token}))["active"] for _ in range(20)]
        issued_by = {json.loads(call(service, "/v1/issue", {}))["key_id"] for _ in range(20)}

    assert verdicts == [True] * 20
    assert len(issued_by) == 1


def test_a_follower_s_new_worker_has_the_keys_though_redis_is_gone(tmp_path: Path) -> None:
    shared = {"GUEST_KEYS_SECRET": "A" * 43, "GUEST_WORKERS": "2"}
    with redis_running(Server(tmp_path / "redis")) as (server,):
        shared["GUEST_REDIS_URL"] = f"redis://127.0.0.1:{server.port}"
        (tmp_path / "keeper").mkdir()
        (tmp_path / "follower").mkdir()
        with (
            running(tmp_path / "keeper", **shared) as keeper,
            running(tmp_path / "follower", GUEST_KEYS_DIR="none", **shared) as follower,
        ):
            until(lambda: ready(keeper) and ready(follower))
            token = json.loads(call(keeper, "/v1/issue", {}))["token"]
            before = workers(follower)
            server.kill()
            os.kill(min(before), signal.SIGKILL)
            until(lambda: len(workers(follower) - before) == 1)
            verdicts = [json.loads(call(follower, "/v1/verify", {"token": token}))["active"] for _ in range(30)]
            follower.process.send_signal(signal.SIGHUP)
            until(lambda: "no worker is restarted" in follower.output)
            verdicts += [json.loads(call(follower, "/v1/verify", {"token": token}))["active"] for _ in range(30)]

    assert verdicts == [True] * 60


def test_a_hangup_before_all_workers_are_up_is_not_lost(tmp_path: Path) -> None:
    log = tmp_path / "log"
    given = {"GUEST_KEYS_DIR": str(tmp_path / "keys"), "GUEST_PORT": str(free_port()), "GUEST_WORKERS": "2"}
    with (
        log.open("wb") as output,
        subprocess.Popen(SERVE, env=environment(given), stdout=output, stderr=output) as process,  # noqa: S603
    ):
        until(lambda: "Booting worker" in log.read_text())
        process.send_signal(signal.SIGHUP)
        until(lambda: log.read_text().count("Booting worker") == 4)
        until(lambda: log.read_text().count("Worker exiting") == 2)
        process.terminate()

    assert process.returncode == 0
    assert log.read_text().index("is up at") < log.read_text().index("restarting the workers one by one")


def test_first_workers_that_cannot_start_end_the_service(tmp_path: Path) -> None:
    program = f"""
from service import server
from service.cli.main import main
server.make_app = None
main(["serve", "--port", "{free_port()}", "--workers", "2"])
"""

    ended = subprocess.run(  # noqa: S603
        (sys.executable, "-c", program),
        env=environment({}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 1
    assert "The workers could not start." in ended.stderr


@pytest.mark.parametrize("number", ["1", "3"])
def test_no_connection_that_was_accepted_is_reset_at_the_end(tmp_path: Path, number: str) -> None:
    with running(tmp_path, GUEST_WORKERS=number) as service:
        address = ("127.0.0.1", int(service.base_url.rpartition(":")[2]))
        seen: list[bytes] = []

        def keep_calling() -> None:
            while True:
                try:
                    connection = socket.create_connection(address, timeout=DEADLINE_S)
                except ConnectionRefusedError:
                    return
                with connection:
                    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    seen.append(connection.recv(12))  # a reset raises

        with ThreadPoolExecutor(4) as callers:
            called = [callers.submit(keep_calling) for _ in range(4)]
            until(lambda: len(seen) > 50)
            assert service.stop() == 0
            for each in called:
                each.result()

    assert set(seen) == {b"HTTP/1.1 200"}


def test_a_hangup_that_reaches_the_workers_too_ends_none_of_them(service: Service) -> None:
    before = workers(service)

    for pid in before:
        os.kill(pid, signal.SIGHUP)
    for _ in range(12):
        call(service, "/healthz")

    assert workers(service) == before
    assert service.stop() == 0
    assert "was sent" not in service.output


def test_no_signal_changes_the_number_of_workers_or_their_program(service: Service) -> None:
    before = workers(service)

    for each in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2):
        service.process.send_signal(each)
    until(lambda: service.output.count("Unhandled signal") == 3)

    assert workers(service) == before
    assert service.stop() == 0


FORK_FAILS = """
import errno, logging, os, signal, socket, sys
from service import workers

workers.PAUSE_S = 0.2
fork, failures = os.fork, [OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))] * 2
descriptors = []

def failing_fork():
    descriptors.append(len(os.listdir("/proc/self/fd")))
    if failures:
        raise failures.pop()
    return fork()

async def work(row, ended, ready):
    ready()
    await ended.wait()

def ready():
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    print(f"ready, left open: {descriptors[2] - descriptors[0]}, blocked: {blocked}", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

os.fork = failing_fork
logging.basicConfig(stream=sys.stdout, format="%(message)s")
sockets = [socket.create_server(("127.0.0.1", 0))]
workers.Workers(work, number=2, sockets=sockets, ready=ready, may_restart=lambda: True).run()
"""


def test_a_fork_that_fails_is_reported_and_tried_again_after_a_pause() -> None:
    program = (sys.executable, "-c", FORK_FAILS)

    ended = subprocess.run(program, env=environment({}), capture_output=True, text=True, timeout=30, check=False)  # noqa: S603

    failure = "a worker could not be started: Resource temporarily unavailable"
    assert ended.stdout.splitlines() == [failure, failure, "ready, left open: 0, blocked: set()"]
    assert (ended.returncode, ended.stderr) == (0, "")


HANGS = """
import logging, os, socket, sys, time
from service import workers

workers.HANG_S = 2
hung = os.path.join(sys.argv[1], "hung")

async def work(row, ended, ready):
    ready()
    if not os.path.exists(hung):
        open(hung, "w").close()
        time.sleep(3600)
    await ended.wait()

logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
sockets = [socket.create_server(("127.0.0.1", 0))]
workers.Workers(work, number=1, sockets=sockets, ready=lambda: None, may_restart=lambda: True).run()
"""


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = (sys.executable, "-c", HANGS, str(tmp_path))
    with (
        log.open("wb") as output,
        subprocess.Popen(program, env=environment({}), stdout=output, stderr=output) as process,  # noqa: S603
    ):
        until(lambda: log.read_text().count("Booting worker") == 2)
        process.terminate()

    assert process.returncode == 0
    assert "WORKER TIMEOUT" in log.read_text()


def test_workers_end_when_the_process_that_started_them_is_killed(service: Service) -> None:
    started = workers(service)

    service.process.kill()

    until(lambda: not any(lives(pid) for pid in started))
