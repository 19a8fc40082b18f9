import http.client
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.server import CannotListen, listen, turn_away
from tests.ports import free_port
from tests.processes import SERVE, environment, running, until


def get(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - a loopback address of the test's own
        return int(response.status)


def post(url: str, body: object) -> Any:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers=headers)  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        return json.load(response)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_asked_to_end_and_then_ends_well(tmp_path: Path, ending: signal.Signals) -> None:
    with running(tmp_path) as service:
        ready = get(f"{service.base_url}/readyz")
        exit_code = service.stop(with_signal=ending)

    assert (ready, exit_code) == (200, 0)
    assert "Traceback" not in service.output


def test_a_connection_s_last_answer_says_so_while_the_service_ends(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        kept = http.client.HTTPConnection(service.base_url.removeprefix("http://"), timeout=10)
        said: list[str | None] = []
        while "close" not in said:  # a request to a closed connection fails the test
            kept.request("GET", "/healthz")
            answer = kept.getresponse()
            answer.read()
            said.append(answer.headers["Connection"])
            if len(said) == 1:
                service.process.send_signal(signal.SIGTERM)
        kept.close()

    assert said == [None] * (len(said) - 1) + ["close"]
    assert len(said) > 1


def test_a_first_start_makes_the_keyring_and_says_what_to_try(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        service.stop()

    assert (tmp_path / "keys" / "keyring.json").stat().st_mode & 0o777 == 0o600
    assert '"warning"' in next(line for line in service.output.splitlines() if "is the volume mounted?" in line)
    assert f"{service.base_url}/v1/issue" in service.output


def test_a_restart_keeps_the_key(tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        with running(tmp_path) as service, urllib.request.urlopen(f"{service.base_url}/.well-known/jwks.json") as jwks:  # noqa: S310
            keys.append(jwks.read())

    assert keys[0] == keys[1]


def test_every_fault_of_the_settings_is_named_and_the_exit_code_is_2(tmp_path: Path) -> None:
    given = environment({"GUEST_PORT": "http", "GUEST_HOST": "0.0.0.0", "GUEST_REDIS_URL": "redis://x"})  # noqa: S104

    ended = subprocess.run(SERVE, env=given, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S603

    assert ended.returncode == 2
    assert [line.partition(":")[0] for line in ended.stderr.splitlines()] == [
        "GUEST_PORT",
        "GUEST_ISSUER",
        "GUEST_KEYS_SECRET",
        "GUEST_API_KEYS",
    ]


def test_an_address_in_use_is_reported_without_a_traceback(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        port = service.base_url.rpartition(":")[2]
        given = environment({"GUEST_PORT": port})
        ended = subprocess.run(SERVE, env=given, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S603

    assert ended.returncode == 2
    assert ended.stderr == (
        f"error: Cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --port or GUEST_PORT.\n"
    )


def test_an_address_of_no_machine_here_is_reported_with_what_to_change(tmp_path: Path) -> None:
    given = environment({"GUEST_HOST": "192.0.2.1", "GUEST_ISSUER": "https://guests.example"})
    given |= {"GUEST_ALLOW_NO_API_KEYS": "1"}

    ended = subprocess.run(SERVE, env=given, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S603

    assert ended.returncode == 2
    assert ended.stderr == (
        "error: Cannot listen on 192.0.2.1:8080: Cannot assign requested address; "
        "choose another with --host or GUEST_HOST.\n"
    )


def test_a_hangup_does_not_end_a_single_worker_and_the_log_says_what_it_does_not_do(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        service.process.send_signal(signal.SIGHUP)
        until(lambda: "a single worker is not restarted: SIGHUP is ignored" in service.output)

        assert get(f"{service.base_url}/healthz") == 200
        assert service.stop() == 0


def test_several_hosts_are_served_by_one_process(tmp_path: Path) -> None:
    with running(tmp_path, GUEST_HOST="127.0.0.1,::1") as service:
        port = service.base_url.rpartition(":")[2]
        ready = [get(f"http://{host}:{port}/readyz") for host in ("127.0.0.1", "[::1]")]

    assert ready == [200, 200]


def test_each_host_is_listened_on_at_the_same_port() -> None:
    sockets = listen(["127.0.0.1", "::1", "127.0.0.1"], 0)

    names = [each.getsockname()[:2] for each in sockets]
    for each in sockets:
        each.close()

    assert [host for host, _ in names] == ["127.0.0.1", "::1"]
    assert len({port for _, port in names}) == 1


def test_a_host_that_cannot_be_listened_on_is_named_and_the_others_are_let_go() -> None:
    port = free_port()

    with pytest.raises(CannotListen) as caught:
        listen(["127.0.0.1", "192.0.2.1"], port)

    assert (caught.value.host, caught.value.port) == ("192.0.2.1", port)
    socket.create_server(("127.0.0.1", port)).close()


def test_a_wrong_issuer_is_warned_of_at_the_start_and_with_the_first_refused_token(tmp_path: Path) -> None:
    with running(tmp_path, GUEST_ISSUER="http://127.0.0.1:8080") as service:
        token = post(f"{service.base_url}/v1/issue", {})["token"]
    with running(tmp_path, GUEST_ISSUER="http://127.0.0.1:8080/") as service:
        reasons = [post(f"{service.base_url}/v1/verify", {"token": token})["reason"] for _ in range(3)]
        output = service.output

    assert reasons == ["wrong_issuer"] * 3
    assert output.count("ends with a slash") == 1
    assert output.count("names another issuer than GUEST_ISSUER (http://127.0.0.1:8080/)") == 1


@contextmanager
def started_by_systemd(folder: Path, listener: socket.socket, **variables: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The service with a socket as systemd passes it: as file 3, with its own process id in a variable."""
    launcher = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); "
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); os.execv(sys.argv[2], sys.argv[2:])"
    )
    process = subprocess.Popen(  # noqa: S603 - our own words
        [sys.executable, "-c", launcher, str(listener.fileno()), *SERVE],
        cwd=folder,
        env=environment({"GUEST_KEYS_DIR": str(folder / "keys"), "GUEST_ISSUER": "http://127.0.0.1", **variables}),
        pass_fds=(listener.fileno(),),
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_connection_to_systemd_s_socket_waits_for_the_start(tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as early:
        early.settimeout(30)
        early.connect(listener.getsockname())
        early.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with started_by_systemd(tmp_path, listener, GUEST_WORKERS=workers) as process:
            answer = early.recv(15)
            process.terminate()
            exit_code = process.wait(timeout=30)

    assert (answer, exit_code) == (b"HTTP/1.1 200 OK", 0)


def test_a_socket_of_systemd_does_not_widen_who_is_reached(tmp_path: Path) -> None:
    with (
        socket.create_server(("0.0.0.0", 0)) as listener,  # noqa: S104 - nothing is served there
        started_by_systemd(tmp_path, listener) as process,
    ):
        _, complaint = process.communicate(timeout=30)

    assert process.returncode == 2
    assert b"GUEST_HOST must be that address" in complaint


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such filters")
def test_new_connections_are_kept_out_while_a_queue_is_emptied() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as early:
        turn_away([listener])

        with pytest.raises(TimeoutError):
            socket.create_connection(listener.getsockname(), timeout=0.2)
        with listener.accept()[0] as accepted:
            early.sendall(b"x")
            assert accepted.recv(1) == b"x"
        listener.setblocking(False)  # noqa: FBT003 - the standard library's own signature
        with pytest.raises(BlockingIOError):
            listener.accept()
