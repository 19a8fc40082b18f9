"""The address of Redis: one server, one behind sentinels, or a cluster. Pure; opens no connection.

| form | |
| --- | --- |
| `redis://[USER:PASSWORD@]HOST[:PORT][/DB]` | TCP |
| `rediss://…` | TCP with TLS |
| `unix://[USER:PASSWORD@]/PATH[?db=DB]` | a socket on this machine |
| `redis+sentinel://[USER:PASSWORD@]HOST[:PORT],…/NAME[/DB]` | the master NAME, as the sentinels tell |
| `redis+cluster://[USER:PASSWORD@]HOST[:PORT],…` | a cluster, by some of its nodes |

`rediss+sentinel` and `rediss+cluster` use TLS throughout. Options follow `?`: `db`; with TLS `ssl_ca_certs`,
`ssl_certfile`, `ssl_keyfile` (files) and `ssl_check_hostname` (`true` or `false`); `sentinel_username` and
`sentinel_password`. User, password, path and options may be percent-encoded.
"""

from typing import Final, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

Kind = Literal["single", "sentinel", "cluster"]

_SCHEMES: Final[dict[str, tuple[Kind, bool]]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "unix": ("single", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_TLS_OPTIONS: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"})
_SENTINEL_OPTIONS: Final = frozenset({"sentinel_username", "sentinel_password"})
_REDIS_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where Redis is and how to get in. `path`: of a Unix socket; `service`: the master's name with the sentinels."""

    kind: Kind
    nodes: tuple[tuple[str, int], ...] = ()
    path: str | None = None
    service: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    tls: bool = False
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    check_hostname: bool = True

    def __repr__(self) -> str:
        return f"RedisAddress({self})"

    def __str__(self) -> str:
        """The address for people, without what is secret."""
        places = self.path or ",".join(f"{host}:{port}" for host, port in self.nodes)
        return f"{self.kind} {places}" + (f" {self.service}" if self.service else "")


def parse_redis_url(text: str) -> RedisAddress:
    """The address that one of the forms above tells.

    Raises:
        ValueError: for any other text; the message repeats nothing that may be secret.
    """
    url = urlsplit(text)
    if url.scheme not in _SCHEMES:
        raise ValueError(f"must start with one of: {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
    kind, tls = _SCHEMES[url.scheme]
    options = _options(url, kind=kind, tls=tls)
    credentials, _, hosts = url.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    if url.scheme == "unix":
        place = RedisAddress(kind=kind, path=_path(url, hosts), db=_db(options.get("db", "0")))
    else:
        service, db = _service_and_db(url.path, kind=kind, option=options.get("db"))
        default_port = _SENTINEL_PORT if kind == "sentinel" else _REDIS_PORT
        nodes = tuple(_node(host, default_port) for host in hosts.split(","))
        if kind == "single" and len(nodes) > 1:
            raise ValueError("must name one host; several are for redis+sentinel:// and redis+cluster://")
        place = RedisAddress(kind=kind, nodes=nodes, service=service, db=db)
    return msgspec.structs.replace(
        place,
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        tls=tls,
        ca_file=options.get("ssl_ca_certs"),
        certificate_file=options.get("ssl_certfile"),
        key_file=options.get("ssl_keyfile"),
        check_hostname=_flag(options.get("ssl_check_hostname", "true")),
    )


def _options(url: SplitResult, *, kind: Kind, tls: bool) -> dict[str, str]:
    if url.fragment:
        raise ValueError("must not have a #; write %23 where it belongs to a password")
    allowed = {"db"} | (_TLS_OPTIONS if tls else set()) | (_SENTINEL_OPTIONS if kind == "sentinel" else set())
    try:
        options = dict(parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query)))
    except ValueError as error:
        raise ValueError("has options that are not NAME=VALUE&NAME=VALUE") from error
    unknown = sorted(options.keys() - allowed)
    if unknown:
        raise ValueError(f"has an unknown option {unknown[0]}; {url.scheme}:// takes {', '.join(sorted(allowed))}")
    return options


def _path(url: SplitResult, hosts: str) -> str:
    if hosts or not url.path.startswith("/") or url.path == "/":
        raise ValueError("must name the socket by its full path: unix:///PATH")
    return unquote(url.path)


def _service_and_db(path: str, *, kind: Kind, option: str | None) -> tuple[str | None, int]:
    parts = [unquote(part) for part in path.split("/")[1:] if part]
    service = parts.pop(0) if kind == "sentinel" and parts else None
    if kind == "sentinel" and service is None:
        raise ValueError("must name the master: redis+sentinel://HOST:PORT,HOST:PORT/NAME")
    if len(parts) > 1 or (parts and option is not None):
        raise ValueError("has a path that is not understood; at most one database number follows the hosts")
    db = _db(option or (parts[0] if parts else "0"))
    if kind == "cluster" and db:
        raise ValueError("must not name a database: a cluster has only number 0")
    return service, db


def _db(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6):  # noqa: PLR2004 - far above any server's databases
        raise ValueError("has a database that is not a number")
    return int(text)


def _node(text: str, default_port: int) -> tuple[str, int]:
    try:
        url = urlsplit(f"//{text}")
        host, port = url.hostname, url.port
    except ValueError as error:
        raise ValueError("has a host or port that is not understood") from error
    if not host or url.path:
        raise ValueError("must name a host")
    return host, default_port if port is None else port


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("has an ssl_check_hostname that is neither true nor false")
    return text == "true"
