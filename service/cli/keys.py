"""`guest-sessions keys`: what an operator does to the keys, and what it risks. Gets its settings from `cli`."""

import asyncio
import json
import math
import os
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from service import log_config
from service.app import make_key_operations
from service.cli import output
from service.config import Settings, parse_time
from service.errors import GuestSessionsError, KeyringForeign
from service.keys import encoding, keyring
from service.keys.admin import KeyAdmin, OperationResult
from service.keys.encryption import make_secret
from service.keys.file_store import FILE_NAME
from service.keys.keyring import Key, KeyPolicy, KeyRing, KeyState
from service.keys.rotation import AHEAD_S, promotion_due_at_s, publication_lead_s
from service.keys.signer import public_pem

T = TypeVar("T")

_SEALED_WITH: Final = {
    "first": "sealed with the first secret",
    "other": "sealed with another secret",
    "none": "in the clear",
}

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
SettingsLoader = Callable[[], Settings]


@click.group()
def keys() -> None:
    """Look at and change the signing keys.

    The keyring is the file keyring.json in GUEST_KEYS_DIR. Running services follow each change within 2 seconds with
    Redis, within 10 by the file alone; nothing has to be restarted.
    """


@keys.command(short_help="Make a keyring in the empty folder.")
@click.option("--replace", is_flag=True, help="Overwrite another deployment's keyring in Redis.")
@json_option
@click.pass_obj
def init(load_settings: SettingsLoader, replace: bool, as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Make a keyring in the empty folder, whatever Redis holds.

    A first start of the service does this by itself, unless Redis holds a keyring already or cannot be reached. With
    --replace, a keyring of another deployment in Redis is overwritten with the one in the folder, an existing one too.
    """
    settings = load_settings()
    done = _run(settings, lambda admin: admin.init(replace=replace))
    made = "Made a keyring" if done.before is None else "There is a keyring"
    _report(settings, done, as_json=as_json, text=f"{made} in {settings.keys_dir}. {_signer(done.ring)}")


@keys.command("list", short_help="Show each key and its state.")
@json_option
@click.pass_obj
def list_keys(load_settings: SettingsLoader, as_json: bool) -> None:  # noqa: FBT001
    """Show each key: its state, when it signed, and from when it is safe to drop."""
    settings = load_settings()
    listing = _run(settings, lambda admin: admin.list())
    ring, now_s = listing.ring, datetime.now(UTC).timestamp()
    future = [key.kid for key in ring.keys if (key.activated_at_s or key.created_at_s) > now_s + AHEAD_S]
    notes = list(listing.faults.values())
    if future:
        notes.append(f"Times in the future, from a clock that is or was wrong: {', '.join(future)}.")
    if listing.problem is not None:
        notes.append(listing.problem)
    active_from_s = promotion_due_at_s(ring, settings.keys, now_s=now_s)
    rows = [_key_object(key, active_from_s=active_from_s) | {"damaged": key.kid in listing.faults} for key in ring.keys]
    if as_json:
        sealed = {"file_sealed_with": listing.file, "redis_sealed_with": listing.redis}
        click.echo(output.as_json({**_summary(ring), **sealed, "keys": rows, "notes": notes}))
        return
    title = f"Keyring {ring.ring_id}, revision {ring.revision}"
    for place, secret in (("the file is", listing.file), ("Redis is", listing.redis)):
        title += "" if secret is None else f", {place} {_SEALED_WITH[secret]}"
    output.print_table(
        title,
        ("key", "alg", "state", "signs from", "until", "safe to drop from"),
        [
            (
                *(row["kid"], row["alg"], row["state"]),
                _time(row["active_from"] or row["activated_at"]),
                _time(row["revoked_at"] or row["retired_at"]),
                _time(row["safe_to_drop_from"]),
            )
            for row in rows
        ],
    )
    if ring.revoked_before_s:
        click.echo(f"Guests from before {_time(ring.revoked_before_s)} are revoked.")
    for note in notes:
        click.echo(note)


@keys.command(short_help="Publish a new key, which signs later, or now.")
@click.option("--now", is_flag=True, help="Let a new key sign at once: for emergencies.")
@json_option
@click.pass_obj
def rotate(load_settings: SettingsLoader, now: bool, as_json: bool) -> None:  # noqa: FBT001
    """Publish a new key. A running keeper lets it sign once every verifier has had the time to see it.

    Until then the command can be repeated: it says when the key will sign. The new key has the algorithm of the one
    that signs, unless GUEST_ALGORITHM is set here.

    With --now it signs 2 seconds later, once the running services know it, or 5 while Redis is out of reach. Verifiers
    that cache the JWKS may refuse new tokens until their cache ends (GUEST_JWKS_MAX_AGE seconds, with some verifiers
    longer). To stop a stolen key, revoke it.
    """
    settings = load_settings()
    done = _run(settings, lambda admin: admin.rotate_now() if now else admin.rotate())
    staged = done.ring.staged
    due_at_s = promotion_due_at_s(done.ring, settings.keys, now_s=datetime.now(UTC).timestamp())
    if staged is None or due_at_s is None:
        text = _signer(done.ring)
    else:
        was_there = done.before is not None and done.before.staged == staged
        text = (
            f"Key {staged.kid} {'is staged already' if was_there else 'is published'} and signs from {_time(due_at_s)} "
            "on, or later: a running keeper lets it, once it has seen the key for that long."
        )
    _report(settings, done, as_json=as_json, text=text, risk=_risk(settings.keys) if now else None)


@keys.command(short_help="Refuse all tokens of a key, or guests from before a time.")
@click.argument("kid", required=False)
@click.option("--before", metavar="TIME", help="2026-01-31T12:00:00Z, Unix seconds in ten digits, or: now.")
@json_option
@click.pass_obj
def revoke(load_settings: SettingsLoader, kid: str | None, before: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Refuse every token of the key KID, or every guest from before a time. This cannot be undone.

    Where KID is the key that signs, the staged key or a fresh one signs in its place, and KID is revoked 2 seconds
    later, once the running services know the other (5 while Redis is out of reach). Verifiers that work offline see a
    revoked key vanish only when their cache of the JWKS ends, and do not see a revocation by time.
    """
    if (kid is None) == (before is None):
        raise click.UsageError("Give either KID or --before TIME.")
    settings = load_settings()
    if kid is not None:
        done = _run(settings, lambda admin: admin.revoke(kid))
        signed = done.before is not None and done.before.active is not None and done.before.active.kid == kid
        text = f"Key {kid} is revoked: its tokens are refused. Offline verifiers see that when their JWKS ends."
        if signed:
            text += f"\n{_signer(done.ring)}"
        _report(settings, done, as_json=as_json, text=text, risk=_risk(settings.keys) if signed else None)
        return
    try:
        # Tokens have whole seconds: a part of one counts as a whole, or a guest from before the time would be left.
        time_s = int(datetime.now(UTC).timestamp()) if before == "now" else math.ceil(parse_time(before or ""))
    except ValueError as error:
        raise click.UsageError(f"--before {error}") from error
    done = _run(settings, lambda admin: admin.revoke_before(time_s))
    _report(settings, done, as_json=as_json, text=f"Guests from before {_time(time_s)} ({time_s}) are refused.")


@keys.command(short_help="Forget the keys that no live token can bear.")
@json_option
@click.pass_obj
def drop(load_settings: SettingsLoader, as_json: bool) -> None:  # noqa: FBT001
    """Forget the keys that are safe to drop, as `keys list` shows them. Revoked keys stay on record.

    Running keepers do so by themselves, an hour after a key has become safe to drop.
    """
    settings = load_settings()
    done = _run(settings, lambda admin: admin.drop())
    left = {key.kid for key in done.ring.keys}
    dropped = [key.kid for key in done.before.keys if key.kid not in left] if done.before else []
    listed = f": {', '.join(dropped)}" if dropped else ""
    kept = " Revoked keys stay on record." if any(key.state is KeyState.REVOKED for key in done.ring.keys) else ""
    _report(settings, done, as_json=as_json, text=f"{_count(dropped)} dropped{listed}.{kept}")


@keys.command(short_help="Print the keyring for a backup, or the public keys.")
@click.option("--public", is_flag=True, help="The public keys alone: the JWKS.")
@click.option("--pem", is_flag=True, help="With --public: as PEM, for verifiers that take no JWKS.")
@click.option(
    "--for",
    "release",
    type=click.Choice(["0.1.0"]),
    help="In the form of this older release, to go back to it. From here on, an older release reads a newer ring.",
)
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
    release: str | None,
    output_file: Path | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Print the keyring for a backup, private keys included, in the clear.

    Anyone who has it can sign tokens: keep it as safe as the keys themselves. `keys import` takes it back. The sealed
    file keyring.json is as good a backup, as long as its secret is kept.
    """
    if pem and not public:
        raise click.UsageError("--pem goes with --public; private keys are exported as a JWK Set alone.")
    if public and release:
        raise click.UsageError("--for goes with the whole keyring; the public keys have one form.")
    settings = load_settings()
    listing = _run(settings, lambda admin: admin.list())
    ring = listing.ring
    if not public:
        try:
            private = encoding.to_jwk_set_0_1_0(ring) if release else encoding.to_jwk_set(ring)
        except GuestSessionsError as error:
            output.fail(error.detail, output.FAILED)
        content = output.as_json(json.loads(private)) if as_json else private.decode()
    else:
        now_s = datetime.now(UTC).timestamp()
        lead_s = publication_lead_s(ring, settings.keys, now_s=now_s)
        published = [key for key in ring.published(lead_s=lead_s, now_s=now_s) if key.kid not in listing.faults]
        blocks = {key.kid: public_pem(key) for key in published}
        if not pem:
            content = output.as_json({"keys": [keyring.public_jwk(key) for key in published]})
        elif as_json:
            content = output.as_json({"keys": blocks})
        else:
            content = "".join(f"{kid}\n{block}" for kid, block in blocks.items())
    content = content.rstrip("\n") + "\n"
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


@keys.command("import", short_help="Join an exported keyring with the one that is there.")
@click.argument("file", type=click.File("rb"))
@click.option("--foreign", is_flag=True, help="FILE is of another deployment: accept its tokens here.")
@json_option
@click.pass_obj
def import_file(load_settings: SettingsLoader, file: Any, foreign: bool, as_json: bool) -> None:  # noqa: FBT001
    """Join an exported keyring, or a copy of keyring.json, with the one that is there. No key is lost.

    Into an empty folder it restores the keyring as it was. FILE may be - for standard input.

    With --foreign the keys of another deployment's keyring are imported as retired: they verify here and never sign.
    """
    content = file.read()
    settings = load_settings()
    done = _run(settings, lambda admin: admin.import_foreign(content) if foreign else admin.import_ring(content))
    known = {key.kid for key in done.before.keys} if done.before else set()
    new = [key.kid for key in done.ring.keys if key.kid not in known]
    signs = "no key signs" if done.ring.active is None else f"{done.ring.active.kid} signs"
    _report(settings, done, as_json=as_json, text=f"{_count(new)} came in; {signs}.")


@keys.command()
@json_option
def secret(as_json: bool) -> None:  # noqa: FBT001
    """Print a fresh secret for GUEST_KEYS_SECRET.

    To change the secret without a pause: put the new one behind the old (OLD,NEW) and restart each process; then put it
    in front (NEW,OLD) and restart each again; then remove the old one.
    """
    fresh = make_secret()
    click.echo(output.as_json({"secret": fresh}) if as_json else fresh)


def _run(settings: Settings, ask: Callable[[KeyAdmin], Coroutine[Any, Any, T]]) -> T:
    # A variable that is set here counts; otherwise the service decides, whose settings this shell may lack.
    algorithm = settings.keys.algorithm if os.environ.get("GUEST_ALGORITHM") else None
    log_config.configure(level="error", style="text")
    try:
        return asyncio.run(ask(make_key_operations(settings, algorithm=algorithm)))
    except GuestSessionsError as error:
        output.fail(error.detail, output.FAILED)


def _report(settings: Settings, done: OperationResult, *, as_json: bool, text: str, risk: str | None = None) -> None:
    """What was done and what it risks, and, on standard error, what stands in the way of its spreading."""
    problem = done.problem
    if problem is not None and done.redis != KeyringForeign.code:
        problem += " A running keeper puts the keyring into Redis once it can."
    if _only_root_can_read(settings.keys_dir):
        note = (
            f"The keyring in {settings.keys_dir} belongs to root; a service of another user needs a chown to read it."
        )
        problem = f"{problem} {note}" if problem else note
    if as_json:
        facts = {"redis": done.redis, "problem": problem} | ({"risk": risk} if risk else {})
        click.echo(output.as_json(_summary(done.ring) | facts))
    else:
        click.echo(text if risk is None else f"{text}\n{risk}")
    if problem is not None:
        output.note(problem)


def _only_root_can_read(folder: Path | None) -> bool:
    """Whether the folder shows that the service is of another user than root, and the file is root's."""
    if folder is None or os.geteuid() != 0:
        return False
    try:
        folder_status, file_status = folder.stat(), (folder / FILE_NAME).stat()
    except OSError:
        return False
    # A group of its own, as Kubernetes gives a volume for a user that is not root (fsGroup).
    return file_status.st_uid == 0 and folder_status.st_gid != 0


def _signer(ring: KeyRing) -> str:
    if ring.active is None:
        return "No key signs now: a running keeper lets one sign."
    return f"Key {ring.active.kid} signs now."


def _risk(policy: KeyPolicy) -> str:
    return (
        f"Verifiers that cache the JWKS may refuse its tokens for up to {policy.jwks_max_age_s} s; "
        "a service behind Redis that is out of reach, until it is back."
    )


def _count(kids: Sequence[str]) -> str:
    return f"{len(kids)} key{'' if len(kids) == 1 else 's'}"


def _summary(ring: KeyRing) -> dict[str, Any]:
    return {
        "ring": ring.ring_id,
        "revision": ring.revision,
        "active": ring.active.kid if ring.active else None,
        "next": ring.staged.kid if ring.staged else None,
        "revoked_before": ring.revoked_before_s,
    }


def _key_object(key: Key, *, active_from_s: int | None) -> dict[str, Any]:
    return {
        "kid": key.kid,
        "alg": key.algorithm,
        "state": key.state.value,
        "max_lifetime": key.max_lifetime_s,
        "created_at": key.created_at_s,
        "activated_at": key.activated_at_s,
        "active_from": active_from_s if key.state is KeyState.NEXT else None,
        "retired_at": key.retired_at_s,
        "revoked_at": key.revoked_at_s,
        "safe_to_drop_from": key.safe_to_drop_from_s,
        "passed_over": key.passed_over,
    }


def _time(time_s: int | None) -> str:
    """A time in UTC; the bare number past the calendar's end, a dash for none."""
    if time_s is None:
        return "-"
    try:
        return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(time_s)
