"""The command line: the only reader of the environment.

Exit codes: 0 done, 1 the check failed (for example, an invalid token), 2 usage or settings.
"""

import asyncio
import errno
import logging
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, TypeVar

import click

from service import log_config
from service.cli import output
from service.cli.client import ApiClient, CallFailed, is_ready, signing_api, verifying_api
from service.cli.keys import keys
from service.config import Settings
from service.errors import Fault, GuestSessionsError, InvalidPolicy, InvalidRequest, InvalidSettings, MalformedRequest
from service.http import schemas
from service.http.auth import is_loopback, parse_api_keys_file
from service.keys.signer import inspect as decode_unverified
from service.merge.handover import Candidate, merge_guests
from service.merge.policy import Policy
from service.merge.policy_parser import compile_policy
from service.merge.service import Merged, Refused
from service.tokens.claims import GuestClaims

logger = logging.getLogger("guest_sessions.cli")

T = TypeVar("T")
LocalApi = Callable[[Settings], AbstractAsyncContextManager[ApiClient]]

FAILED: Final = 1
USAGE: Final = 2

_URL_HELP = (
    "Ask the service at this address instead of the local keyring; its API key is the first of GUEST_API_KEYS(_FILE)."
)
url_option = click.option("--url", metavar="URL", help=_URL_HELP)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
tokens_argument = click.argument("tokens", nargs=-1, metavar="[TOKEN]...")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="guest-sessions", prog_name="guest-sessions")
@click.pass_context
def main(context: click.Context) -> None:
    """Sessions for visitors who have not logged in, as long-lived signed JWTs.

    \b
    A first round, in two terminals:
      guest-sessions serve
      guest-sessions issue --payload '{"cart": ["tea"]}' --url http://127.0.0.1:8080

    Settings come from the environment (GUEST_HOST, GUEST_ISSUER, ...); the README lists them all. Without any, the
    service listens on 127.0.0.1:8080 and keeps its keys in ./data/keys.

    Exit codes: 0 done, 1 the check failed (for example, an invalid token), 2 usage or settings.
    """  # noqa: D301 - click wants the character itself: it keeps the lines as they are
    context.obj = load_settings


main.add_command(keys)


@main.command(short_help="Run the service.")
@click.option(
    "--host", metavar="ADDRESS", help="The address to listen on, or several, comma separated.  [GUEST_HOST; 127.0.0.1]"
)
@click.option("--port", metavar="PORT", help="The port to listen on.  [GUEST_PORT; 8080]")
@click.option("--workers", metavar="N", help="How many processes share the port.  [GUEST_WORKERS; 1]")
def serve(host: str | None, port: str | None, workers: str | None) -> None:
    """Run the service until it is told to end (SIGTERM or Ctrl-C)."""
    # Imported here, so that the other commands start without uvloop and the server.
    from service import server  # noqa: PLC0415

    given = {"GUEST_HOST": host, "GUEST_PORT": port, "GUEST_WORKERS": workers}
    overrides = {name: value for name, value in given.items() if value is not None}
    settings = load_settings(overrides)
    log_config.configure(level=settings.log_level, style=settings.log_format)
    if settings.unknown:
        logger.warning("ignoring unknown settings: %s", ", ".join(settings.unknown))
    try:
        sockets = server.listen(settings.hosts, settings.port)
    except server.CannotListen as error:
        _fail(_cannot_listen(error.host, error.port, error.reason), USAGE)
    server.serve(
        settings,
        sockets,
        ready=lambda bound: _welcome(settings, bound),
        reread=lambda: Settings.from_mapping({**os.environ, **overrides}),
    )


@main.command()
@click.option("--payload", default="{}", metavar="JSON", help="The guest's state: a JSON object, or @FILE.")
@click.option("--claims", default="{}", metavar="JSON", help="Further top-level claims: a JSON object, or @FILE.")
@click.option("--subject", metavar="ID", help="The guest's id.  [G- and a random UUID]")
@click.option("--ttl", type=click.IntRange(min=1), metavar="SECONDS", help="The token's lifetime.  [GUEST_TTL]")
@click.option("--audience", metavar="NAME", multiple=True, help="An audience; may be given several times.")
@url_option
@json_option
def issue(
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
    asked = {"subject": subject, "ttl": ttl, "audience": list(audience) or None}
    body = {
        "payload": _json_argument("--payload", payload),
        "claims": _json_argument("--claims", claims),
        **{name: value for name, value in asked.items() if value is not None},
    }
    answer = _call(url, signing_api, lambda api: api.issue(body))
    click.echo(output.as_json(answer) if as_json else answer["token"])


@main.command(short_help="Say whether tokens are good.")
@tokens_argument
@click.option("--audience", metavar="NAME", multiple=True, help="Demand this audience too; may be given several times.")
@url_option
@json_option
def verify(tokens: tuple[str, ...], audience: tuple[str, ...], url: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Say whether tokens are good; exit 1 if any is not. Without arguments: one a line from standard input.

    Of several, each answer says which token it is of, counted from 0.
    """
    body = {"audience": list(audience)} if audience else {}
    given = _given(tokens)
    answers = _call(url, verifying_api, lambda api: _verify_all(api, given, **body))
    for index, answer in enumerate(answers):
        if as_json:
            click.echo(output.as_json({"index": index, **answer}))
        else:
            click.echo(_which(index, answers) + output.verdict(answer))
    if not all(answer["active"] for answer in answers):
        sys.exit(FAILED)


@main.command(short_help="Show what tokens say, unverified.")
@tokens_argument
@click.option("--url", metavar="URL", help="Let the service at this address check the tokens too.")
@json_option
def inspect(tokens: tuple[str, ...], url: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Show what tokens say, WITHOUT checking a signature. Without arguments: one a line from standard input.

    With --url the verdict of the service there comes with each token; exit 1 if any is bad.
    """
    given = _given(tokens)
    contents = [_unverified(token, _which(index, given)) for index, token in enumerate(given)]
    answers = [] if url is None else _call(url, verifying_api, lambda api: _verify_all(api, given))
    for index, (content, answer) in enumerate(zip_longest(contents, answers)):
        if as_json:
            verified = {} if answer is None else {"verified": answer}
            click.echo(output.as_json({"index": index, **content, **verified}))
        else:
            text = output.unverified(content) if answer is None else output.checked(content, answer)
            click.echo(_which(index, contents) + text)
    if not all(answer["active"] for answer in answers):
        sys.exit(FAILED)


@main.command(short_help="Try out what merging guests into a session gives.")
@tokens_argument
@click.option(
    "--session",
    "session_file",
    type=click.File("rb"),
    metavar="FILE",
    help="The session to merge into: a JSON file.  [{}]",
)
@click.option("--policy", default="default", metavar="POLICY", help="A policy's name, or a JSON file.  [default]")
@click.option("--strict", is_flag=True, help="Fail on a bad token instead of skipping it.")
@url_option
@json_option
def merge(
    tokens: tuple[str, ...],
    session_file: BinaryIO | None,
    policy: str,
    strict: bool,  # noqa: FBT001
    url: str | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Show what merging guest tokens into a session gives, for trying a policy out. Nothing is stored or signed.

    Without arguments, the tokens come from standard input, one a line. With --url the service there verifies the
    tokens; the policy is always the local one.
    """
    session: dict[str, Any] = {} if session_file is None else _json_bytes("--session", session_file.read())
    given, compiled = _given(tokens), _policy(policy)
    answers = _call(url, verifying_api, lambda api: _verify_all(api, given))
    refused = [Refused(index, answer["reason"], None) for index, answer in enumerate(answers) if not answer["active"]]
    if strict and refused:
        _fail(f"token {refused[0].index} is not valid: {refused[0].reason}", FAILED)
    candidates = [Candidate(index, _claims_of(answer)) for index, answer in enumerate(answers) if answer["active"]]
    try:
        result = merge_guests(session, candidates, compiled)
    except InvalidRequest as error:
        _fail_with_faults(error)
    if as_json:
        click.echo(output.as_json(schemas.merged_object(Merged(result, (*result.skipped, *refused), None), None)))
    else:
        output.print_merge(result, refused)


@main.command(short_help="Say whether the service is ready, for containers.")
@click.option("--url", metavar="URL", help="What to ask.  [/readyz of GUEST_HOST and GUEST_PORT]")
def healthcheck(url: str | None) -> None:
    """Exit 0 if the service is ready, else 1: for containers without curl."""
    if not asyncio.run(is_ready(url or _local_readyz(os.environ))):
        _fail("not ready", FAILED)


def load_settings(overrides: Mapping[str, str] | None = None) -> Settings:
    """The settings from the environment; ends the process with exit code 2 and every fault where there are any."""
    try:
        return Settings.from_mapping({**os.environ, **(overrides or {})})
    except InvalidSettings as error:
        for fault in error.errors:
            click.echo(f"{click.style(fault.path, bold=True)}: {fault.message}", err=True)
        sys.exit(USAGE)


def _call(url: str | None, local_api: LocalApi, ask: Callable[[ApiClient], Coroutine[Any, Any, T]]) -> T:
    async def local() -> T:
        async with local_api(load_settings()) as api:
            return await ask(api)

    async def remote(address: str) -> T:
        return await ask(ApiClient(address, api_key=_first_api_key()))

    log_config.configure(level="error", style="text")
    try:
        return asyncio.run(local() if url is None else remote(url))
    except CallFailed as error:
        _fail_with_problem(error)
    except GuestSessionsError as error:
        _fail(error.detail, FAILED)


def _first_api_key() -> str | None:
    """The key to call with; the other settings are the service's, and need not be good here."""
    file = os.environ.get("GUEST_API_KEYS_FILE")
    if not file:
        return os.environ.get("GUEST_API_KEYS", "").partition(",")[0].strip() or None
    try:
        return parse_api_keys_file(Path(file).read_text("utf-8"))[0]
    except OSError as error:
        _fail(f"GUEST_API_KEYS_FILE: cannot be read: {error.strerror}", USAGE)
    except ValueError as error:
        _fail(f"GUEST_API_KEYS_FILE: {error}", USAGE)


def _local_readyz(environment: Mapping[str, str]) -> str:
    host = environment.get("GUEST_HOST", "").partition(",")[0].strip() or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{environment.get('GUEST_PORT') or '8080'}/readyz"


async def _verify_all(api: ApiClient, tokens: tuple[str, ...], **members: Any) -> list[dict[str, Any]]:
    return [await api.verify(token, **members) for token in tokens]


def _claims_of(verified: dict[str, Any]) -> GuestClaims:
    """The claims of a token that the API found good, as far as merging looks at them."""
    return GuestClaims(
        issuer="",
        subject=verified["subject"],
        audience=(),
        issued_at_s=verified["issued_at"],
        expires_at_s=verified["expires_at"],
        first_issued_at_s=verified["first_issued_at"],
        token_id=verified["token_id"],
        version=verified["version"],
        payload=verified["payload"],
        extra_claims=verified["claims"],
    )


def _policy(name_or_file: str) -> Policy:
    """A policy from a file, or else by its name among the shipped ones and those of GUEST_MERGE_POLICIES."""
    if Path(name_or_file).is_file():
        try:
            return compile_policy(_json_bytes("--policy", Path(name_or_file).read_bytes()))
        except InvalidPolicy as error:
            _fail_with_faults(error)
    policies = load_settings().merge_policies
    if name_or_file not in policies:
        raise click.UsageError(f"--policy: {name_or_file} is no file and none of: {', '.join(sorted(policies))}")
    return policies[name_or_file]


def _given(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """The tokens of the arguments, or else those of standard input."""
    if tokens:
        return tokens
    lines = tuple(line.strip() for line in sys.stdin if line.strip())
    if not lines:
        raise click.UsageError("No token was given, as an argument or on standard input.")
    return lines


def _json_argument(option: str, text: str) -> dict[str, Any]:
    try:
        return _json_bytes(option, Path(text[1:]).read_bytes() if text.startswith("@") else text.encode())
    except OSError as error:
        raise click.UsageError(f"{option}: {text[1:]}: {error.strerror}") from error


def _json_bytes(option: str, content: bytes) -> dict[str, Any]:
    try:
        return schemas.decode_object(content)
    except MalformedRequest as error:
        raise click.UsageError(f"{option} {error.errors[0].message}") from error
    except GuestSessionsError as error:
        raise click.UsageError(f"{option} must be a JSON object: {error.detail}") from error


def _unverified(token: str, which: str) -> dict[str, Any]:
    try:
        return decode_unverified(token)
    except GuestSessionsError as error:
        _fail(f"{which}{error.detail}", FAILED)


def _which(index: int, of: Sequence[object]) -> str:
    """Names the token that a line is about, where there are several."""
    return f"token {index}: " if len(of) > 1 else ""


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    """The reason, without the address that Python adds to it a second time, and the setting to change."""
    unknown_host = isinstance(error, socket.gaierror)
    reason = error.strerror if unknown_host or error.errno is None else os.strerror(error.errno)
    name = "port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "host"
    return f"Cannot listen on {host}:{port}: {reason}; choose another with --{name} or GUEST_{name.upper()}."


def _welcome(settings: Settings, port: int) -> None:
    """What to try next, for who just started it; says nothing where it runs in earnest, behind keys."""
    if settings.access.api_keys or settings.access.api_keys_file:
        return
    host = settings.hosts[0]
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    callers = "local callers only" if all(map(is_loopback, settings.hosts)) else "whoever reaches this address may call"
    place = "Redis alone" if settings.keys_dir is None else str(settings.keys_dir)
    click.echo(
        f"""
{click.style("guest-sessions", bold=True)} is up at {click.style(base, fg="cyan")}
Keys: {place}. No API key is configured: {callers}.

Try:
  curl -s -X POST {base}/v1/issue -H 'Content-Type: application/json' -d '{{"payload": {{"cart": ["tea"]}}}}'
  curl -s {base}/.well-known/jwks.json
  open {base}/docs in a browser

Ctrl-C ends it.
""".rstrip()
        + "\n"
    )


def _fail(message: str, exit_code: int) -> NoReturn:
    click.echo(f"{click.style('error', fg='red', bold=True)}: {message}", err=True)
    sys.exit(exit_code)


def _fail_with_faults(error: InvalidPolicy | InvalidRequest) -> NoReturn:
    _fail(error.detail + _told(error.errors), FAILED)


def _fail_with_problem(error: CallFailed) -> NoReturn:
    reason = f" ({error.reason})" if error.reason else ""
    _fail(f"{error.detail}{reason}{_told(error.errors)}", FAILED)


def _told(faults: Iterable[Fault]) -> str:
    return "".join(f"\n  {fault.path or '/'}: {fault.message}" for fault in faults)
