"""`guest-sessions keys`: what an operator does to the keys, and what it risks. Gets its settings from `cli`."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from service import log_config
from service.app import make_key_operations
from service.cli import output
from service.config import Settings
from service.errors import GuestSessionsError
from service.keys import encoding, keyring
from service.keys.admin import KeyAdmin, OperationResult
from service.keys.encryption import make_secret
from service.keys.keyring import Key, KeyPolicy, KeyRing, KeyState
from service.keys.signer import public_pem

T = TypeVar("T")

FAILED: Final = 1

json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
SettingsLoader = Callable[[], Settings]


@click.group()
def keys() -> None:
    """Look at and change the signing keys.

    The keyring is the file keyring.json in GUEST_KEYS_DIR. Running services follow each change within 2 seconds with
    Redis, within 10 by the file alone; nothing has to be restarted.
    """


@keys.command(short_help="Make a keyring in the empty folder.")
@json_option
@click.pass_obj
def init(load_settings: SettingsLoader, as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Make a keyring in the empty folder, whatever Redis holds.

    A first start of the service does this by itself, unless Redis holds a keyring already or cannot be reached.
    """
    settings = load_settings()
    done = _run(settings, lambda operations: operations.init())
    _report(done, as_json=as_json, text=f"Made a keyring in {settings.keys_dir}. Key {done.ring.active.kid} signs.")


@keys.command("list", short_help="Show each key and its state.")
@json_option
@click.pass_obj
def list_keys(load_settings: SettingsLoader, as_json: bool) -> None:  # noqa: FBT001
    """Show each key: its state, when it signed, and from when it is safe to drop."""
    settings = load_settings()
    ring = _run(settings, lambda operations: operations.ring())
    if as_json:
        click.echo(output.as_json(_ring_object(ring, settings.keys)))
        return
    output.print_table(
        f"Keyring {ring.ring_id}, revision {ring.revision}",
        ("key", "alg", "state", "signs from", "until", "safe to drop from"),
        [_row(key, settings.keys) for key in ring.keys],
    )
    if ring.revoked_before_s:
        click.echo(f"Guests from before {_time(ring.revoked_before_s)} are revoked.")


@keys.command(short_help="Publish a new key, which signs later, or now.")
@click.option("--now", is_flag=True, help="Let a new key sign at once: for emergencies.")
@json_option
@click.pass_obj
def rotate(load_settings: SettingsLoader, now: bool, as_json: bool) -> None:  # noqa: FBT001
    """Publish a new key, which signs once every verifier has had the time to see it.

    Until then the command can be repeated: it tells when the key will sign. A running service lets it sign by itself.

    With --now it signs 2 seconds later, once the running services know it. Verifiers that cache the JWKS may refuse new
    tokens until their cache ends (GUEST_JWKS_MAX_AGE seconds, with some verifiers longer). To stop a stolen key, revoke
    it.
    """
    settings = load_settings()
    done = _run(settings, lambda operations: operations.rotate_now() if now else operations.rotate())
    _report(done, as_json=as_json, text=_rotation(done, settings.keys), risk=_risk(settings.keys) if now else None)


@keys.command(short_help="Refuse all tokens of a key, or guests from before a time.")
@click.argument("kid", required=False)
@click.option("--before", metavar="TIME", help="2026-01-31, 2026-01-31T12:00:00Z, Unix seconds, or: now.")
@json_option
@click.pass_obj
def revoke(load_settings: SettingsLoader, kid: str | None, before: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Refuse every token of the key KID, or every guest from before a time. This cannot be undone.

    Where KID is the key that signs, the staged key or a fresh one signs in its stead, and KID is revoked 2 seconds
    later, once the running services know the other. Verifiers that work offline see a revoked key vanish only when
    their cache of the JWKS ends, and do not see a revocation by time.
    """
    if (kid is None) == (before is None):
        raise click.UsageError("Give either KID or --before TIME.")
    settings = load_settings()
    if kid is not None:
        done = _run(settings, lambda operations: operations.revoke(kid))
        signed = done.before is not None and done.before.active.kid == kid
        risk = _risk(settings.keys) if signed else None
        _report(done, as_json=as_json, text=_revocation(done, kid, settings.keys), risk=risk)
    else:
        time_s = _parse_time(before or "")
        done = _run(settings, lambda operations: operations.revoke_before(time_s))
        _report(done, as_json=as_json, text=f"Guests from before {_time(time_s)} are refused.")


@keys.command(short_help="Print the keyring for a backup, or the public keys.")
@click.option("--public", is_flag=True, help="The public keys alone: the JWKS.")
@click.option("--pem", is_flag=True, help="With --public: as PEM, for verifiers that take no JWKS.")
@click.option(
    "--output",
    "-o",
    "output_file",
    type=click.Path(path_type=Path),
    help="Write to this file, for its owner alone (0600).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: PEM within it, a JWK Set on one line in a pipe.")
@click.pass_obj
def export(
    load_settings: SettingsLoader,
    public: bool,  # noqa: FBT001
    pem: bool,  # noqa: FBT001
    output_file: Path | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Print the keyring for a backup, private keys included, in the clear.

    Whoever has it can sign tokens: keep it as safe as the keys themselves. `keys import` takes it back. The sealed file
    keyring.json is as good a backup, as long as its secret is kept.
    """
    if pem and not public:
        raise click.UsageError("--pem goes with --public; private keys are exported as a JWK Set alone.")
    ring = _run(load_settings(), lambda operations: operations.ring())
    if not public:
        private = encoding.to_jwk_set(ring)
        content = output.as_json(msgspec.json.decode(private)) if as_json else private.decode()
    elif pem:
        blocks = {key.kid: public_pem(key) for key in ring.published}
        as_text = "".join(f"{kid}\n{block}" for kid, block in blocks.items())
        content = output.as_json({"keys": blocks}) if as_json else as_text
    else:
        content = output.as_json({"keys": [keyring.public_jwk(key) for key in ring.published]})
    _write(content.rstrip("\n") + "\n", output_file)


@keys.command("import", short_help="Join an exported keyring with the one that is there.")
@click.argument("file", type=click.File("rb"))
@click.option("--foreign", is_flag=True, help="FILE is of another deployment: accept its tokens here.")
@json_option
@click.pass_obj
def import_file(load_settings: SettingsLoader, file: Any, foreign: bool, as_json: bool) -> None:  # noqa: FBT001
    """Join an exported keyring, or a copy of keyring.json, with the one that is there. No key is lost.

    Into an empty folder it restores the keyring as it was. FILE may be - for standard input.

    With --foreign the keys of another deployment's keyring are taken in as retired: they verify here and never sign.
    """
    content = file.read()
    settings = load_settings()
    done = _run(
        settings,
        lambda operations: operations.import_foreign(content) if foreign else operations.import_ring(content),
    )
    known = {key.kid for key in done.before.keys} if done.before else set()
    new = [key.kid for key in done.ring.keys if key.kid not in known]
    _report(done, as_json=as_json, text=f"{_count(new)} came in; {done.ring.active.kid} signs.")


@keys.command()
@json_option
def secret(as_json: bool) -> None:  # noqa: FBT001
    """Print a fresh secret for GUEST_KEYS_SECRET.

    To change the secret without a pause: put the new one behind the old (OLD,NEW) and restart each process; then put it
    in front (NEW,OLD) and restart each again; then take the old one away.
    """
    fresh = make_secret()
    click.echo(output.as_json({"secret": fresh}) if as_json else fresh)


def _run(settings: Settings, ask: Callable[[KeyAdmin], Coroutine[Any, Any, T]]) -> T:
    async def asked() -> T:
        return await ask(make_key_operations(settings))

    log_config.configure(level="error", style="text")
    try:
        return asyncio.run(asked())
    except GuestSessionsError as error:
        click.echo(f"{click.style('error', fg='red', bold=True)}: {error.detail}", err=True)
        sys.exit(FAILED)


def _report(done: OperationResult, *, as_json: bool, text: str, risk: str | None = None) -> None:
    """What was done and what it risks, and, on standard error, what stands in the way of its spreading."""
    problem = done.status.problem
    if as_json:
        facts = {"redis": done.status.redis, "problem": problem} | ({"risk": risk} if risk else {})
        click.echo(output.as_json(_summary(done.ring) | facts))
    else:
        click.echo(text if risk is None else f"{text}\n{risk}")
    if problem is not None:
        warning = click.style("note", fg="yellow", bold=True)
        click.echo(f"{warning}: {problem} A running keeper puts the keyring into Redis once it can.", err=True)


def _rotation(done: OperationResult, policy: KeyPolicy) -> str:
    due_at_s = keyring.promotion_due_at_s(done.ring, policy)
    if due_at_s is None:
        return f"Key {done.ring.active.kid} signs now."
    staged = done.ring.staged
    was_there = "is staged already" if done.before == done.ring else "is published"
    return f"Key {staged.kid if staged else ''} {was_there} and signs from {_time(due_at_s)} on."


def _risk(policy: KeyPolicy) -> str:
    return (
        f"Verifiers that cache the JWKS may refuse its tokens for up to {policy.jwks_max_age_s} s; "
        "a service behind Redis that is out of reach, until it is back."
    )


def _revocation(done: OperationResult, kid: str, policy: KeyPolicy) -> str:
    text = f"Key {kid} is revoked: its tokens are refused. Offline verifiers see that within {policy.jwks_max_age_s} s."
    if done.before is not None and done.before.active.kid == kid:
        text += f"\nKey {done.ring.active.kid} signs now."
    return text


def _count(kids: Sequence[str]) -> str:
    return f"{len(kids)} key{'' if len(kids) == 1 else 's'}"


def _summary(ring: KeyRing) -> dict[str, Any]:
    return {
        "ring": ring.ring_id,
        "revision": ring.revision,
        "active": ring.active.kid,
        "next": ring.staged.kid if ring.staged else None,
        "revoked_before": ring.revoked_before_s,
    }


def _ring_object(ring: KeyRing, policy: KeyPolicy) -> dict[str, Any]:
    return {**_summary(ring), "keys": [_key_object(key, policy) for key in ring.keys]}


def _key_object(key: Key, policy: KeyPolicy) -> dict[str, Any]:
    return {
        "kid": key.kid,
        "alg": key.algorithm,
        "state": key.state.value,
        "max_lifetime": key.max_lifetime_s,
        "created_at": key.created_at_s,
        "activated_at": key.activated_at_s,
        "active_from": key.created_at_s + policy.publication_lead_s if key.state is KeyState.NEXT else None,
        "retired_at": key.retired_at_s,
        "revoked_at": key.revoked_at_s,
        "safe_to_drop_from": key.safe_to_drop_from_s,
    }


def _row(key: Key, policy: KeyPolicy) -> tuple[str, ...]:
    signs_from_s = key.activated_at_s
    if key.state is KeyState.NEXT:
        signs_from_s = key.created_at_s + policy.publication_lead_s
    until_s = key.retired_at_s or key.revoked_at_s
    return (
        key.kid,
        key.algorithm,
        key.state.value,
        _time(signs_from_s),
        _time(until_s),
        _time(key.safe_to_drop_from_s),
    )


def _time(time_s: int | None) -> str:
    """A time in UTC; the bare number past the calendar's end, a dash for none."""
    if time_s is None:
        return "-"
    try:
        return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(time_s)


def _parse_time(text: str) -> int:
    """Unix seconds, rounded down, of what a person writes; without a zone it is UTC."""
    if text == "now":
        return int(datetime.now(UTC).timestamp())
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.UsageError(f"--before: {text} is no time; write it as 2026-01-31T12:00:00Z") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _write(content: str, output_file: Path | None) -> None:
    if output_file is None:
        click.echo(content, nl=False)
        return
    try:
        descriptor = os.open(output_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
    except OSError as error:
        raise click.UsageError(f"--output: {output_file}: {error.strerror}") from error
