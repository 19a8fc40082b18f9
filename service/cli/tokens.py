"""`guest-sessions issue`, `verify`, `inspect`, `merge`: with the local keyring, or by the service at a `--url`."""

import asyncio
import codecs
import os
import sys
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, TypeVar

import click
import msgspec

from service import log_config
from service.cli import output
from service.cli.client import Api, RemoteApi, local_api
from service.config import Settings
from service.errors import GuestSessionsError, InvalidToken, MalformedRequest
from service.http import schemas
from service.http.auth import check_api_key, parse_api_keys_file
from service.keys.signer import inspect as decode_unverified

T = TypeVar("T")
R = TypeVar("R", bound=schemas.Request)
SettingsLoader = Callable[[], Settings]

WRONG_INPUT: Final = {"malformed_request", "invalid_request", "reserved_claim", "invalid_policy", "invalid_url"}
"""The errors that a command was given wrong options for; all others are of what it was to do."""

_URL_HELP = (
    "Ask the service at this address instead of the local keyring; its API key is the first of GUEST_API_KEYS(_FILE)."
)
url_option = click.option("--url", metavar="URL", help=_URL_HELP)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the response as JSON.")
tokens_argument = click.argument("tokens", nargs=-1, metavar="[TOKEN]...")


@click.command()
@click.option("--payload", default="{}", metavar="JSON", help="The guest's state: a JSON object, or @FILE.")
@click.option("--claims", default="{}", metavar="JSON", help="Further top-level claims: a JSON object, or @FILE.")
@click.option("--subject", metavar="ID", help="The guest's id.  [G- and a random UUID]")
@click.option("--ttl", type=int, metavar="SECONDS", help="The token's lifetime.  [GUEST_TTL]")
@click.option("--audience", metavar="NAME", multiple=True, help="An audience; may be given several times.")
@url_option
@json_option
@click.pass_obj
def issue(
    load_settings: SettingsLoader,
    payload: str,
    claims: str,
    subject: str | None,
    ttl: int | None,
    audience: tuple[str, ...],
    url: str | None,
    as_json: bool,  # noqa: FBT001 - click passes flags by name
) -> None:
    """Issue a guest token and print it.

    Without --url it is signed with the local keyring, which is made if there is none.
    """
    optional = {"subject": subject, "ttl": ttl, "audience": list(audience) or None}
    asked = _request(
        schemas.IssueRequest,
        payload=_json_argument("--payload", payload),
        claims=_json_argument("--claims", claims),
        **{name: value for name, value in optional.items() if value is not None},
    )
    issued = _call(load_settings, url, lambda api: api.issue(asked), signs=True)
    click.echo(output.as_json(issued) if as_json else issued["token"])


@click.command(short_help="Say whether tokens are good.")
@tokens_argument
@click.option("--audience", metavar="NAME", multiple=True, help="Demand this audience too; may be given several times.")
@url_option
@json_option
@click.pass_obj
def verify(
    load_settings: SettingsLoader,
    tokens: tuple[str, ...],
    audience: tuple[str, ...],
    url: str | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Say whether tokens are good; exit 1 if any is not. Without arguments: one a line from standard input.

    Of several, each line says which token it is about, counted from 0.
    """
    given = _given(tokens)
    verdicts = _verify_all(load_settings, url, given, audience)
    for index, verdict in enumerate(verdicts):
        if as_json:
            click.echo(output.as_json({"index": index, **verdict}))
        else:
            click.echo(output.which(index, given) + output.verdict(verdict))
    sys.exit(0 if all(verdict["active"] for verdict in verdicts) else output.FAILED)


@click.command(short_help="Show what tokens say, unverified.")
@tokens_argument
@click.option("--url", metavar="URL", help="Let the service at this address check the tokens too.")
@json_option
@click.pass_obj
def inspect(load_settings: SettingsLoader, tokens: tuple[str, ...], url: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Show what tokens say, WITHOUT checking a signature. Without arguments: one a line from standard input.

    With --url the verdict of the service there comes with each token. Exit 1 if any is bad, or is no token at all.
    """
    given = _given(tokens)
    verdicts = [None] * len(given) if url is None else _verify_all(load_settings, url, given, ())
    bad = False
    for index, (token, verdict) in enumerate(zip(given, verdicts, strict=True)):
        try:
            content = decode_unverified(token)
        except InvalidToken as error:
            click.echo(f"{output.which(index, given)}{error.detail}", err=True)
            bad = True
            continue
        bad = bad or (verdict is not None and not verdict["active"])
        if as_json:
            verified = {} if verdict is None else {"verified": verdict}
            click.echo(output.as_json({"index": index, **content, **verified}))
        else:
            click.echo(output.which(index, given) + output.inspected(content, verdict))
    sys.exit(output.FAILED if bad else 0)


@click.command(short_help="Try out what merging guests into a session gives.")
@tokens_argument
@click.option(
    "--session",
    "session_file",
    type=click.File("rb"),
    metavar="FILE",
    help="The session to merge into: a JSON file.  [{}]",
)
@click.option(
    "--policy",
    metavar="POLICY",
    help="A policy's name, or a JSON file; ./NAME is a file.  [GUEST_MERGE_POLICY; default]",
)
@click.option("--strict", is_flag=True, help="Fail on a bad token instead of skipping it.")
@url_option
@json_option
@click.pass_obj
def merge(
    load_settings: SettingsLoader,
    tokens: tuple[str, ...],
    session_file: BinaryIO | None,
    policy: str | None,
    strict: bool,  # noqa: FBT001
    url: str | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Show what merging guest tokens into a session gives, for trying a policy out. Nothing is stored or signed.

    Without arguments, the tokens come from standard input, one a line. With --url the service there merges, under a
    policy of its own unless POLICY is a file.
    """
    named = {} if policy is None else {"policy": _policy(policy, () if url else load_settings().merge_policies)}
    if policy is None and url is None:
        named = {"policy": load_settings().merge_policy}
    asked = _request(
        schemas.MergeRequest,
        tokens=list(_given(tokens)),
        session={} if session_file is None else _json_object("--session", session_file.read()),
        strict=strict,
        **named,
    )
    merged, changes = _call(load_settings, url, lambda api: api.merge(asked))
    if as_json:
        click.echo(output.as_json(merged))
    else:
        output.print_merge(merged, changes)


def _call(
    load_settings: SettingsLoader,
    url: str | None,
    ask: Callable[[Api], Coroutine[Any, Any, T]],
    *,
    signs: bool = False,
) -> T:
    """Calls the service at `url`, or the local use cases; a refusal ends the process."""

    async def call() -> T:
        if url is not None:
            return await ask(RemoteApi(url, api_key=_first_api_key()))
        return await ask(await local_api(load_settings(), signs=signs))

    log_config.configure(level="error", style="text")
    try:
        return asyncio.run(call())
    except GuestSessionsError as error:
        _refuse(error)


def _verify_all(
    load_settings: SettingsLoader, url: str | None, tokens: tuple[str, ...], audience: tuple[str, ...]
) -> list[dict[str, Any]]:
    demanded = {"audience": list(audience)} if audience else {}
    requests = [_request(schemas.VerifyRequest, token=token, **demanded) for token in tokens]

    async def ask(api: Api) -> list[dict[str, Any]]:
        return [await api.verify(each) for each in requests]

    return _call(load_settings, url, ask)


def _request(shape: type[R], **members: Any) -> R:
    """The request that the options make, held to the same rules as one from outside."""
    try:
        return schemas.decode(msgspec.json.encode(members), shape)
    except GuestSessionsError as error:
        _refuse(error)


def _refuse(error: GuestSessionsError) -> NoReturn:
    output.fail(output.explained(error), output.USAGE if error.code in WRONG_INPUT else output.FAILED)


def _first_api_key() -> str | None:
    """The key to call with; the other settings are the service's, and need not be good here."""
    name = "GUEST_API_KEYS_FILE" if os.environ.get("GUEST_API_KEYS_FILE") else "GUEST_API_KEYS"
    value = os.environ.get(name, "")
    try:
        if name == "GUEST_API_KEYS_FILE":
            return parse_api_keys_file(Path(value).read_text("utf-8"))[0]
        key = value.partition(",")[0].strip()
        if key:
            check_api_key(key, "the first key")
    except OSError as error:
        output.fail(f"{name}: cannot be read: {error.strerror}", output.USAGE)
    except ValueError as error:
        output.fail(f"{name}: {error}", output.USAGE)
    return key or None


def _policy(given: str, names: Collection[str]) -> str | dict[str, Any]:
    """A policy by its name, or the content of a file. A name with a path separator is always a file."""
    if os.sep in given or (given not in names and Path(given).is_file()):
        return _json_object("--policy", _file_content("--policy", given))
    if names and given not in names:
        raise click.UsageError(f"--policy: {given} is no file and none of: {', '.join(sorted(names))}")
    return given


def _given(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """The tokens of the arguments, or else those of standard input. Bytes that are no UTF-8 are replaced: no token."""
    raw = [token.encode("utf-8", "surrogateescape") for token in tokens]
    if not tokens:
        content = sys.stdin.buffer.read().removeprefix(codecs.BOM_UTF8)
        raw = [line.strip() for line in content.splitlines() if line.strip()]
    if not raw:
        raise click.UsageError("No token was given, as an argument or on standard input.")
    return tuple(each.decode("utf-8", "replace") for each in raw)


def _json_argument(option: str, text: str) -> dict[str, Any]:
    content: bytes = (
        _file_content(option, text[1:]) if text.startswith("@") else text.encode("utf-8", "surrogateescape")
    )
    return _json_object(option, content)


def _file_content(option: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{option}: {path}: {error.strerror}") from error


def _json_object(option: str, content: bytes) -> dict[str, Any]:
    """The object in a document; editors on Windows begin one with a byte order mark."""
    try:
        return schemas.decode_object(content.removeprefix(codecs.BOM_UTF8))
    except MalformedRequest as error:
        raise click.UsageError(f"{option} {error.errors[0].message}") from error
    except GuestSessionsError as error:
        raise click.UsageError(f"{option} must be a JSON object: {error.detail}") from error
