"""The real gateways, each started with its configuration from examples/ itself.

Only the documented example addresses are replaced, literally: HOST:PORT of guest-sessions and of the application, the
port to listen on, paths below /etc. Each literal must occur, so that a test never runs a file other than it says.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gateways import gateway_api
from tests.gateways.guest_service import GuestService
from tests.gateways.processes import HOST, running, send, wait_until
from tests.gateways.tls import https_front
from tests.ports import free_port

EXAMPLES = Path(__file__).parents[2] / "examples"
VENV = Path(sys.executable).parent


@dataclass(frozen=True)
class Site:
    """What stands behind a gateway, a folder for its files, and which of the examples' options to un-comment."""

    service: GuestService
    app_port: int
    folder: Path
    options: tuple[str, ...] = ()

    @property
    def app(self) -> str:
        return f"{HOST}:{self.app_port}"


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Running:
    """A gateway that serves, and what its recipe says to do after a rotation."""

    port: int
    take_new_keys: Callable[[], None] = _nothing


def program(name: str) -> str:
    """The path of a program from the virtual environment or the system; skips the test where there is none."""
    found = shutil.which(name, path=os.pathsep.join([str(VENV), os.environ["PATH"], "/usr/sbin"]))
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return found


def fill_in(example: str | Path, site: Site, replacements: Mapping[str, str]) -> Path:
    """Writes the example, or another file, with its addresses replaced into the site's folder."""
    source = EXAMPLES / example
    text = source.read_text()
    for literal, value in replacements.items():
        assert literal in text, f"{source} does not contain {literal!r}"
        text = text.replace(literal, value)
    for option in site.options:
        text = gateway_api.with_option(option, text)
    target = site.folder / source.name
    target.write_text(text)
    return target


@contextlib.contextmanager
def _envoy(site: Site, example: str, extra: Mapping[str, str]) -> Iterator[Running]:
    port = free_port()
    config = fill_in(
        example,
        site,
        {
            "address: guest-sessions, port_value: 8080": f"address: {HOST}, port_value: {site.service.port}",
            "address: app, port_value: 3000": f"address: {HOST}, port_value: {site.app_port}",
            "address: 0.0.0.0, port_value: 8000": f"address: {HOST}, port_value: {port}",
            **extra,
        },
    )
    with envoy_process(site, config, port) as started:
        yield started


@contextlib.contextmanager
def envoy_process(site: Site, config: Path, port: int) -> Iterator[Running]:
    command = [program("envoy"), "-c", config, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning"]
    with running(command, port=port, log=site.folder / "envoy.log"):
        yield Running(port)


@contextlib.contextmanager
def envoy_jwt(site: Site) -> Iterator[Running]:
    # A rotation must not take the test five minutes.
    with _envoy(site, "envoy/jwt.yaml", {"cache_duration: 300s": "cache_duration: 1s"}) as started:
        yield started


@contextlib.contextmanager
def envoy_ensure(site: Site) -> Iterator[Running]:
    with _envoy(site, "envoy/ensure.yaml", {}) as started:
        yield started


@contextlib.contextmanager
def nginx(site: Site) -> Iterator[Running]:
    port = free_port()
    config = fill_in(
        "nginx/guest-sessions.conf",
        site,
        {"guest-sessions:8080": site.service.address, "app:3000": site.app, "listen 8000": f"listen {HOST}:{port}"},
    )
    with nginx_process(site, config, port) as started:
        yield started


@contextlib.contextmanager
def nginx_process(site: Site, config: Path, port: int) -> Iterator[Running]:
    temporary = " ".join(
        f"{kind}_temp_path {site.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = site.folder / "nginx.conf"
    main.write_text(
        f"daemon off; pid {site.folder}/nginx.pid; error_log stderr; events {{}}"
        f" http {{ access_log off; {temporary} include {config}; }}"
    )
    with running([program("nginx"), "-p", site.folder, "-c", main], port=port, log=site.folder / "nginx.log"):
        yield Running(port)


@contextlib.contextmanager
def traefik(site: Site) -> Iterator[Running]:
    port = free_port()
    routes = fill_in(
        "traefik/guest-sessions.yaml", site, {"guest-sessions:8080": site.service.address, "app:3000": site.app}
    )
    config = fill_in(
        "traefik/traefik.yaml", site, {":8000": f"{HOST}:{port}", "/etc/traefik/guest-sessions.yaml": str(routes)}
    )
    command = [program("traefik"), f"--configFile={config}", "--global.checkNewVersion=false"]
    with running(command, port=port, log=site.folder / "traefik.log"):
        wait_until(lambda: send(port, "/").status != 404, what="traefik has its routes")
        yield Running(port)


@contextlib.contextmanager
def caddy(site: Site) -> Iterator[Running]:
    port = free_port()
    config = fill_in(
        "caddy/Caddyfile",
        site,
        {
            "guest-sessions:8080": site.service.address,
            "app:3000": site.app,
            "\n:8000 {": f"\nhttp://:{port} {{\n\tbind {HOST}",
        },
    )
    # The control port of the system's own Caddy, if there is one, is left alone.
    environment = os.environ | {"XDG_DATA_HOME": str(site.folder), "XDG_CONFIG_HOME": str(site.folder)}
    environment["CADDY_ADMIN"] = f"{HOST}:{free_port()}"
    command = [program("caddy"), "run", "--config", config, "--adapter", "caddyfile"]
    with running(command, port=port, log=site.folder / "caddy.log", env=environment):
        yield Running(port)


def install_haproxy_keys(site: Site) -> None:
    """What the example says to run after each rotation, before the reload."""
    keys = site.service.command("keys", "export", "--public", "--pem")
    script = EXAMPLES / "haproxy/install-keys.sh"
    subprocess.run([script, site.folder / "keys-pem"], input=keys, text=True, check=True)  # noqa: S603


@contextlib.contextmanager
def haproxy(site: Site) -> Iterator[Running]:
    port = free_port()
    install_haproxy_keys(site)
    config = fill_in(
        "haproxy/haproxy.cfg",
        site,
        {
            "bind :8000": f"bind {HOST}:{port}",
            "app app:3000": f"app {site.app}",
            "/etc/haproxy/guest/": f"{site.folder}/keys-pem/",
        },
    )
    command = [program("haproxy"), "-W", "-db", "-f", config, "-f", site.folder / "keys-pem/keys.cfg"]
    with running(command, port=port, log=site.folder / "haproxy.log") as process:

        def take_new_keys() -> None:
            install_haproxy_keys(site)
            process.send_signal(signal.SIGUSR2)  # what `systemctl reload haproxy` does

        yield Running(port, take_new_keys)


APACHE_MODULES = (
    "mpm_event", "authn_core", "authz_core", "authz_user", "headers", "lua", "proxy", "proxy_http", "auth_openidc",
)  # fmt: skip


@contextlib.contextmanager
def apache(site: Site) -> Iterator[Running]:
    port = free_port()
    binary = program("apache2")
    modules = Path("/usr/lib/apache2/modules")
    if not (modules / "mod_auth_openidc.so").exists():
        pytest.skip("mod_auth_openidc is not installed here")
    with https_front(site.service.port, site.folder) as front:
        vhost = fill_in(
            "apache/guest-sessions.conf",
            site,
            {
                "http://guest-sessions:8080": f"http://{site.service.address}",
                "http://app:3000": f"http://{site.app}",
                "https://shop.example/.well-known/jwks.json": f"https://{HOST}:{front.port}/.well-known/jwks.json",
                "*:8000": f"{HOST}:{port}",
                "/etc/apache2/strip-identity.lua": str(EXAMPLES / "apache/strip-identity.lua"),
            },
        )
        loads = "".join(f"LoadModule {name}_module {modules}/mod_{name}.so\n" for name in APACHE_MODULES)
        main = site.folder / "httpd.conf"
        main.write_text(
            f"ServerRoot {site.folder}\nPidFile {site.folder}/httpd.pid\nErrorLog {site.folder}/apache-error.log\n"
            f"DefaultRuntimeDir {site.folder}\nServerName shop.example\nListen {HOST}:{port}\n{loads}"
            f"OIDCCABundlePath {front.certificate}\nInclude {vhost}\n"
        )
        command = [binary, "-X", "-f", main]
        with running(command, port=port, log=site.folder / "apache.log"):
            yield Running(port)


@contextlib.contextmanager
def _envoy_gateway(site: Site, example: str, extra: Mapping[str, str]) -> Iterator[Running]:
    port = free_port()
    config = fill_in(
        gateway_api.Translation(example, preflights_pass="cors" in site.options).path,
        site,
        {
            f"address: {gateway_api.APP}": f"address: {HOST}",
            f"address: {gateway_api.SERVICE}": f"address: {HOST}",
            "address: 0.0.0.0": f"address: {HOST}",
            "portValue: 3000": f"portValue: {site.app_port}",
            "portValue: 8080": f"portValue: {site.service.port}",
            "portValue: 8000": f"portValue: {port}",
            "- shop.example": "- '*'",
            **extra,
        },
    )
    with envoy_process(site, config, port) as started:
        yield started


@contextlib.contextmanager
def envoy_gateway_jwt(site: Site) -> Iterator[Running]:
    extra = {
        "address: guest-sessions.shop.svc.cluster.local": f"address: {HOST}",
        "cacheDuration: 300s": "cacheDuration: 1s",
    }
    with _envoy_gateway(site, gateway_api.OFFLINE, extra) as started:
        yield started


@contextlib.contextmanager
def envoy_gateway_ensure(site: Site) -> Iterator[Running]:
    with _envoy_gateway(site, gateway_api.ENSURE, {}) as started:
        yield started


Start = Callable[[Site], contextlib.AbstractContextManager[Running]]

OFFLINE: dict[str, Start] = {
    "envoy jwt_authn": envoy_jwt,
    "envoy gateway jwt": envoy_gateway_jwt,
    "haproxy": haproxy,
    "apache": apache,
}
"""Those that check tokens themselves."""

ASKING: dict[str, Start] = {
    "envoy ext_authz": envoy_ensure,
    "envoy gateway extAuth": envoy_gateway_ensure,
    "nginx": nginx,
    "traefik": traefik,
    "caddy": caddy,
}
"""Those that ask /v1/auth, in both modes."""
