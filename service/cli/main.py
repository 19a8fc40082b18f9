"""The command line: the only reader of the environment.

Exit codes: 0 done, 1 the check failed (for example, an invalid token), 2 usage or settings.
"""

import asyncio
import errno
import logging
import os
import socket
import sys
from collections.abc import Mapping

import click

from service import log_config
from service.cli import output, tokens
from service.cli.client import is_ready
from service.cli.doctor import doctor, settings_warnings
from service.cli.keys import keys
from service.config import Settings, http_address
from service.errors import InvalidSettings
from service.http.auth import is_loopback

logger = logging.getLogger("guest_sessions.cli")


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


for command in (doctor, keys, tokens.issue, tokens.verify, tokens.inspect, tokens.merge):
    main.add_command(command)


@main.command(short_help="Run the service.")
@click.option(
    "--host", metavar="ADDRESS", help="The address to listen on, or several, comma separated.  [GUEST_HOST; 127.0.0.1]"
)
@click.option("--port", metavar="PORT", help="The port to listen on.  [GUEST_PORT; 8080]")
@click.option("--workers", metavar="N", help="How many processes share the port.  [GUEST_WORKERS; 1]")
def serve(host: str | None, port: str | None, workers: str | None) -> None:
    """Run the service until SIGTERM or Ctrl-C."""
    # Imported here, so that the other commands start without uvloop and the server.
    from service import server  # noqa: PLC0415

    given = {"GUEST_HOST": host, "GUEST_PORT": port, "GUEST_WORKERS": workers}
    overrides = {name: value for name, value in given.items() if value is not None}
    settings = load_settings(overrides)
    log_config.configure(level=settings.log_level, style=settings.log_format)
    for warning in settings_warnings(settings):
        logger.warning(warning)
    try:
        inherited = server.inherited(os.environ, hosts=settings.hosts)
        sockets = inherited or server.listen(settings.hosts, settings.port)
    except ValueError as error:
        output.fail(f"Cannot listen: {error}.", output.USAGE)
    except server.CannotListen as error:
        # Without the address, which Python adds to the text of the system's error.
        is_name_unknown = error.errno is None or isinstance(error.reason, socket.gaierror)
        reason = error.strerror if is_name_unknown else os.strerror(error.errno or 0)
        name = "port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "host"
        choice = f"choose another with --{name} or GUEST_{name.upper()}"
        output.fail(f"Cannot listen on {error.host}:{error.port}: {reason}; {choice}.", output.USAGE)
    server.serve(
        settings,
        sockets,
        are_inherited=bool(inherited),
        ready=lambda bound: _welcome(settings, bound),
        reread=lambda: Settings.from_mapping({**os.environ, **overrides}),
    )


@main.command(short_help="Say whether the service is ready, for containers.")
@click.option("--url", metavar="URL", help="What to ask.  [/readyz of GUEST_HOST and GUEST_PORT]")
def healthcheck(url: str | None) -> None:
    """Exit 0 if the service is ready, else 1: for containers without curl."""
    host = os.environ.get("GUEST_HOST", "").partition(",")[0].strip() or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not bound
    local = http_address(host, os.environ.get("GUEST_PORT") or "8080")
    if not asyncio.run(is_ready(url or f"{local}/readyz")):
        output.fail("not ready", output.FAILED)


def load_settings(overrides: Mapping[str, str] | None = None) -> Settings:
    """The settings from the environment; ends the process with exit code 2 and every fault where there are any."""
    try:
        return Settings.from_mapping({**os.environ, **(overrides or {})})
    except InvalidSettings as error:
        for fault in error.errors:
            click.echo(f"{click.style(fault.path, bold=True)}: {fault.message}", err=True)
        sys.exit(output.USAGE)


def _welcome(settings: Settings, port: int) -> None:
    """What to try next, for who just started it; says nothing where it runs in earnest, behind keys."""
    if settings.access.api_keys or settings.access.api_keys_file:
        return
    base = http_address(settings.hosts[0], port)
    callers = (
        "local callers only" if all(map(is_loopback, settings.hosts)) else "anyone who reaches this address may call"
    )
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
"""
    )
