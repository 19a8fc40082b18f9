"""The real balancers in front of two replicas, each started with its configuration from examples/ itself."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.gateways import gateway_api
from tests.gateways.gateways import Running, Site, envoy_process, fill_in, nginx_process, program
from tests.gateways.guest_service import GuestService
from tests.gateways.processes import HOST, running, send, wait_until
from tests.ports import free_port


def _site(replicas: Sequence[GuestService], folder: Path) -> Site:
    return Site(replicas[0], app_port=0, folder=folder)


def _addresses(replicas: Sequence[GuestService]) -> dict[str, str]:
    return {f"guest-sessions-{number}:8080": replica.address for number, replica in enumerate(replicas, 1)}


@contextlib.contextmanager
def nginx(replicas: Sequence[GuestService], folder: Path) -> Iterator[Running]:
    port = free_port()
    site = _site(replicas, folder)
    listener = {"listen 8080": f"listen {HOST}:{port}"}
    config = fill_in("nginx/replicas.conf", site, _addresses(replicas) | listener)
    with nginx_process(site, config, port) as started:
        yield started


@contextlib.contextmanager
def haproxy(replicas: Sequence[GuestService], folder: Path) -> Iterator[Running]:
    port = free_port()
    listener = {"bind :8080": f"bind {HOST}:{port}"}
    config = fill_in("haproxy/replicas.cfg", _site(replicas, folder), _addresses(replicas) | listener)
    with running([program("haproxy"), "-W", "-db", "-f", config], port=port, log=folder / "haproxy.log"):
        yield Running(port)


@contextlib.contextmanager
def envoy(replicas: Sequence[GuestService], folder: Path) -> Iterator[Running]:
    port = free_port()
    addresses = {
        f"address: guest-sessions-{n}, port_value: 8080": f"address: {HOST}, port_value: {each.port}"
        for n, each in enumerate(replicas, 1)
    }
    listener = {"address: 0.0.0.0, port_value: 8080": f"address: {HOST}, port_value: {port}"}
    site = _site(replicas, folder)
    with envoy_process(site, fill_in("envoy/replicas.yaml", site, {**addresses, **listener}), port) as started:
        yield started


@contextlib.contextmanager
def envoy_gateway(replicas: Sequence[GuestService], folder: Path) -> Iterator[Running]:
    port = free_port()
    site = _site(replicas, folder)
    addresses = {
        f"address: {pod}\n                portValue: 8080": f"address: {HOST}\n                portValue: {each.port}"
        for pod, each in zip(gateway_api.PODS, replicas, strict=True)
    }
    listener = {
        "address: 0.0.0.0": f"address: {HOST}",
        "portValue: 8000": f"portValue: {port}",
        "- guest-sessions.internal": "- '*'",
    }
    config = fill_in(gateway_api.Translation(gateway_api.REPLICAS).path, site, {**addresses, **listener})
    with envoy_process(site, config, port) as started:
        yield started


@contextlib.contextmanager
def traefik(replicas: Sequence[GuestService], folder: Path) -> Iterator[Running]:
    port = free_port()
    routes = fill_in("traefik/replicas.yaml", _site(replicas, folder), _addresses(replicas))
    command = [
        program("traefik"),
        f"--entryPoints.guest-sessions.address={HOST}:{port}",
        f"--providers.file.filename={routes}",
        "--global.checkNewVersion=false",
    ]
    with running(command, port=port, log=folder / "traefik.log"):
        wait_until(lambda: send(port, "/healthz").status == 200, what="traefik has its routes")
        yield Running(port)


Start = Callable[[Sequence[GuestService], Path], contextlib.AbstractContextManager[Running]]

BALANCERS: dict[str, Start] = {
    "nginx": nginx,
    "haproxy": haproxy,
    "envoy": envoy,
    "envoy gateway": envoy_gateway,
    "traefik": traefik,
}
