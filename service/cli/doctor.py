"""`guest-sessions doctor`: what is wrong with a deployment, as seen from one of its hosts. Changes nothing.

No finding repeats what a library or a server said that has seen a password or a key.
"""

import asyncio
import email.utils
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from typing import Final, Literal
from urllib.parse import urlsplit

import click
import msgspec

from service import log_config
from service.app import make_redis_store, make_sealer
from service.cli import output
from service.cli.client import CallFailed, request
from service.config import Settings
from service.errors import CacheUnavailable, InvalidSettings, KeyringError
from service.http.auth import is_loopback
from service.keys import Clock
from service.keys.file_store import FILE_NAME, SealedWith, open_ring
from service.keys.keyring import KeyRing
from service.keys.signer import Signer

State = Literal["ok", "warning", "fault"]

APART_S: Final = 2.0
"""Clocks that differ by more are wrong: revocations by time and the order of rotations depend on them."""
FIRST_RELEASE_S: Final = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""A clock that shows an earlier time has not been set since this program was made."""
TIMEOUT_S: Final = 5
MAX_JWKS_BYTES: Final = 2**20
_SEALED: Final[dict[SealedWith | None, tuple[State, str]]] = {
    None: ("ok", "not sealed"),
    "first": ("ok", "sealed under the first secret"),
    "other": (
        "warning",
        "sealed under another secret than the first, which is still needed until a keeper has sealed it",
    ),
    "none": ("fault", "not sealed, though there is a secret: a running keeper seals it"),
}
"""How a ring is sealed; None where there is no secret to seal it with."""
_COLOURS: Final = {"ok": "green", "warning": "yellow", "fault": "red"}


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at, and how it is."""

    check: str
    state: State
    message: str


@click.command(short_help="Say what is wrong with this deployment.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Look at settings, cookie, keyring, Redis, clock and address, and say what is wrong. Change nothing.

    Run it with the environment of the service, as its user: in a container, beside it. Exit 1 if there is a fault.
    """
    log_config.configure(level="critical", style="text")
    findings = asyncio.run(examine(os.environ))
    healthy = all(finding.state != "fault" for finding in findings)
    if as_json:
        click.echo(output.as_json({"healthy": healthy, "findings": findings}))
    else:
        for each in findings:
            state = click.style(f"{each.state:7}", fg=_COLOURS[each.state], bold=True)
            click.echo(f"{state}  {each.check:8}  {output.printable(each.message)}")
    sys.exit(0 if healthy else output.FAILED)


def settings_warnings(settings: Settings) -> Iterator[str]:
    """What settings that are no fault most often get wrong; also logged when the service starts."""
    if settings.unknown:
        yield f"ignoring unknown settings: {', '.join(settings.unknown)}"
    for issuer in settings.tokens.issuers:
        if issuer.endswith("/"):
            yield (
                f"GUEST_ISSUER {issuer} ends with a slash: tokens of the same address without it are refused as "
                "wrong_issuer. Drop the slash, or list both"
            )
    url = urlsplit(settings.tokens.issuers[0])
    if not is_loopback(url.hostname or ""):
        if url.scheme == "http":
            yield "GUEST_ISSUER is not https: the guest cookie goes over the network in the clear, without Secure"
    elif not all(map(is_loopback, settings.hosts)):
        yield f"GUEST_ISSUER is {settings.tokens.issuers[0]}, which verifiers on other machines cannot reach"


async def examine(environment: Mapping[str, str], *, clock: Clock = time.time) -> list[Finding]:
    """All findings on the deployment that these variables describe."""
    try:
        settings = Settings.from_mapping(environment)
    except InvalidSettings as error:
        return [Finding("settings", "fault", f"{fault.path} {fault.message}") for fault in error.errors]
    findings = [Finding("settings", "warning", warning) for warning in settings_warnings(settings)]
    findings = findings or [Finding("settings", "ok", "no fault")]
    findings.append(check_cookie(settings))
    in_file, mine = check_file(settings, clock=clock)
    in_redis, theirs = await check_redis(settings, clock=clock)
    ring = mine or theirs
    findings += in_file + in_redis
    if ring is not None:
        findings += [Finding("keys", "fault", detail) for detail in Signer(ring).faults.values()]
        if ring.active is None:
            findings.append(Finding("keys", "fault", "no key signs: does a keeper run? It makes one"))
    if mine and theirs and mine.ring_id != theirs.ring_id:
        message = f"the copy is of another deployment than the file ({_content(theirs)}; {_content(mine)})"
        findings.append(Finding("redis", "fault", message))
    elif mine and theirs and _content(mine) != _content(theirs):
        message = f"file and copy differ ({_content(mine)}; {_content(theirs)}): does a keeper run? "
        findings.append(Finding("redis", "warning", f"{message}It joins them within 2 s"))
    return [*findings, *check_clock(ring, clock=clock), *await check_address(settings, ring, clock=clock)]


def check_cookie(settings: Settings) -> Finding:
    """Whether browsers keep the guest cookie where the site has the issuer's host (RFC 6265, section 5.3)."""
    name, domain = settings.cookie.names[0], settings.cookie.domain
    host = urlsplit(settings.tokens.issuers[0]).hostname or ""
    if domain is None:
        return Finding("cookie", "ok", f"{name}, for {host} alone")
    if "." not in domain:
        return Finding("cookie", "fault", f"GUEST_COOKIE_DOMAIN {domain} is a top-level name: browsers drop the cookie")
    if host != domain and not host.endswith(f".{domain}"):
        message = f"GUEST_COOKIE_DOMAIN {domain} does not contain {host}, GUEST_ISSUER's host: browsers drop the cookie"
        return Finding("cookie", "fault", message)
    return Finding("cookie", "ok", f"{name}, for {domain} and the names below it")


def check_file(settings: Settings, *, clock: Clock) -> tuple[list[Finding], KeyRing | None]:
    """The keyring's file: is it there, can it be opened and written, under which secret is it, how old."""
    if settings.keys_dir is None:
        return [], None
    path = settings.keys_dir / FILE_NAME
    try:
        content, changed_at_s = path.read_bytes(), path.stat().st_mtime
    except FileNotFoundError:
        message = f"{path} is not there: is the volume mounted? A first start makes a new keyring"
        return [Finding("file", "fault", message)], None
    except OSError as error:
        return [Finding("file", "fault", f"{path} cannot be read: {error.strerror}")], None
    age_s = clock() - changed_at_s
    try:
        ring, sealed_with = open_ring(content, make_sealer(settings))
        state, held = _held(ring, sealed_with if settings.keys_secrets else None)
        findings = [Finding("file", state, f"{path}: {held}, changed {output.span(int(age_s))} ago")]
    except KeyringError as error:
        ring, findings = None, [Finding("file", "fault", error.detail)]
    if age_s < -APART_S:
        message = f"{path} is of {_utc(changed_at_s)}, {-age_s:.0f} s in the future: the clock is behind, or was ahead"
        findings.append(Finding("clock", "fault", message))
    if not os.access(settings.keys_dir, os.W_OK) or not os.access(path, os.W_OK):
        findings.append(Finding("file", "fault", f"{path} cannot be written by this user: keys cannot rotate"))
    if path.stat().st_mode & 0o077:
        findings.append(Finding("file", "fault", f"{path} can be read by other users: chmod 600"))
    return findings, ring


async def check_redis(settings: Settings, *, clock: Clock) -> tuple[list[Finding], KeyRing | None]:
    """The copy in Redis: can it be reached and opened, under which secret is it; and does the clock there agree."""
    store = make_redis_store(settings)
    if store is None:
        return [], None
    async with AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        try:
            ring = await store.get()
            if ring is None:
                message = "Redis holds no keyring: does a keeper run? It puts one there within 2 s"
                return [Finding("redis", "fault", message)], None
            findings = [Finding("redis", *_held(ring, store.sealed_with))]
        except CacheUnavailable as error:
            return [Finding("redis", "fault", error.detail)], None
        except KeyringError as error:
            ring, findings = None, [Finding("redis", "fault", error.detail)]
        try:
            apart_s = await store.clock_s() - clock()
        except CacheUnavailable as error:  # the service itself needs no right to ask for the time
            return [*findings, Finding("clock", "warning", f"not compared with that of Redis: {error.detail}")], ring
        return [*findings, *_compared(apart_s, "Redis")], ring


def check_clock(ring: KeyRing | None, *, clock: Clock) -> list[Finding]:
    """Whether the clock shows a time at which nothing in the ring is yet to come."""
    now_s = clock()
    findings = []
    if now_s < FIRST_RELEASE_S:
        findings.append(Finding("clock", "fault", f"shows {_utc(now_s)}, when this program had not been made"))
    for key in () if ring is None else ring.keys:
        made_at_s = max(key.created_at_s, key.activated_at_s or 0)
        if made_at_s > now_s + APART_S:
            message = f"shows {_utc(now_s)}, but key {key.kid} is of {_utc(made_at_s)}: it is behind, or was ahead"
            findings.append(Finding("clock", "fault", message))
    return findings or [Finding("clock", "ok", _utc(now_s))]


async def check_address(settings: Settings, ring: KeyRing | None, *, clock: Clock) -> list[Finding]:
    """Whether verifiers get this ring's JWKS under the issuer's address, from a host whose clock agrees."""
    issuer = settings.tokens.issuers[0]
    url = f"{issuer.rstrip('/')}/.well-known/jwks.json"
    try:
        async with request("GET", url, base=issuer, timeout_s=TIMEOUT_S) as response:
            raw = await response.content.read(MAX_JWKS_BYTES)
            status, date = response.status, response.headers.get("Date", "")
    except CallFailed as error:
        return [Finding("address", "fault", error.detail)]
    findings = []
    with suppress(ValueError):
        apart_s = email.utils.parsedate_to_datetime(date).timestamp() - clock()
        findings = _compared(apart_s, issuer, at_most_s=APART_S + 1)  # a Date has whole seconds
    try:
        served = {key.kid for key in msgspec.json.decode(raw, type=_Jwks).keys}
    except msgspec.MsgspecError:
        return [*findings, Finding("address", "fault", f"{url} responds with status {status}, but with no JWK Set")]
    if ring is None or ring.active is None:
        return findings
    kid = ring.active.kid
    if kid not in served:
        message = f"{url} does not list key {kid}, which signs here: it is another deployment, or an old cache"
        return [*findings, Finding("address", "fault", message)]
    return [*findings, Finding("address", "ok", f"{url} lists key {kid}, which signs here")]


class _Jwk(msgspec.Struct, frozen=True):
    kid: str


class _Jwks(msgspec.Struct, frozen=True):
    keys: list[_Jwk]


def _held(ring: KeyRing, sealed_with: SealedWith | None) -> tuple[State, str]:
    state, sealed = _SEALED[sealed_with]
    return state, f"{sealed}, in form {ring.form}, {_content(ring)}"


def _content(ring: KeyRing) -> str:
    """What two places hold alike, for a person to compare."""
    return f"deployment {ring.ring_id}, revision {ring.revision}, {len(ring.keys)} keys"


def _compared(apart_s: float, other: str, *, at_most_s: float = APART_S) -> list[Finding]:
    """A fault where the clock of `other` is `apart_s` ahead, or behind where that is negative."""
    if abs(apart_s) <= at_most_s:
        return []
    way = "behind" if apart_s > 0 else "ahead of"
    return [Finding("clock", "fault", f"is {abs(apart_s):.0f} s {way} the clock of {other}")]


def _utc(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
