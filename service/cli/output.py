"""What the command line prints: tables and colour on a terminal, tabs in a pipe, errors; and its exit codes."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn

import click
import msgspec

from service.errors import GuestSessionsError
from service.merge.fold import AppliedChange

FAILED: Final = 1
USAGE: Final = 2


def fail(message: str, exit_code: int) -> NoReturn:
    """Ends the process; the message may come from elsewhere."""
    click.echo(f"{click.style('error', fg='red', bold=True)}: {printable(message)}", err=True)
    sys.exit(exit_code)


def printable(text: str) -> str:
    """The text with what could steer a terminal replaced."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


def note(message: str) -> None:
    """Something to know beside the result, on standard error."""
    click.echo(f"{click.style('note', fg='yellow', bold=True)}: {message}", err=True)


def explained(error: GuestSessionsError) -> str:
    """The error's detail with the token that it is about, its reason, and its faults on lines of their own."""
    facts: dict[str, Any] = error.facts
    index, reason = facts.get("index"), facts.get("reason")
    token = "" if index is None else f"token {index}: "
    shown = "" if reason is None or reason in error.detail else f" ({reason})"
    faults = "".join(f"\n  {fault['path'] or '/'}: {fault['message']}" for fault in facts.get("errors", ()))
    return f"{token}{error.detail}{shown}{faults}"


def which(index: int, of: Sequence[object]) -> str:
    """Names the token that a line is about, where there are several."""
    return f"token {index}: " if len(of) > 1 else ""


def as_json(value: object) -> str:
    """JSON, indented on a terminal, one line in a pipe."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2 if sys.stdout.isatty() else 0).decode()


def verdict(answer: dict[str, Any]) -> str:
    """One line on a response of `POST /v1/verify`."""
    if not answer["active"]:
        return f"{click.style('bad', fg='red', bold=True)}   {answer['reason']}"
    due = ", due for a refresh" if answer["refresh_due"] else ""
    return (
        f"{click.style('good', fg='green', bold=True)}  {answer['subject']} version {answer['version']}, "
        f"key {answer['key_id']}, {span(answer['expires_in'])} left{due}"
    )


def span(seconds: int) -> str:
    """A span of time in the largest unit of which there are two."""
    for unit, length_s in (("years", 31_536_000), ("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds // length_s} {unit}"
    return f"{seconds} seconds"


def inspected(content: dict[str, Any], answer: dict[str, Any] | None) -> str:
    """A token's content under a service's verdict on it, or under the warning that nobody vouches for it."""
    warning = click.style("not verified: anyone can write this", fg="yellow")
    return f"{warning if answer is None else verdict(answer)}\n{_indented(content)}"


def _indented(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def print_merge(merged: dict[str, Any], changes: Sequence[AppliedChange]) -> None:
    """The response of a merge: the guests, what came from where, what was refused, and the payload."""
    merged = msgspec.json.decode(msgspec.json.encode(merged))
    guests = [
        (each["subject"], each["version"], "weakened" if each["weakened"] else "yes") for each in merged["guests"]
    ]
    skipped = [(each.get("subject", f"token {each['index']}"), "", each["reason"]) for each in merged["skipped"]]
    print_table("Guests", ("subject", "version", "merged"), guests + skipped)
    print_table(
        "What came from where",
        ("path", "before", "after", "rule", "guest"),
        [(each.path, _json(each.before), _json(each.after), each.rule, each.subject) for each in changes],
    )
    refused = [
        (
            each["path"],
            _json(each.get("session")),
            _json(each.get("guest")),
            each["kept"],
            each["rule"],
            each["subject"],
        )
        for each in merged["conflicts"]
    ]
    print_table("What was refused or altered", ("path", "session", "guest", "kept", "rule", "of"), refused)
    click.echo(_indented(merged["payload"]))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on a terminal; in a pipe the title, then one line a row with tabs between. Nothing without rows."""
    texts = [[str(cell) for cell in row] for row in rows]
    if not texts:
        return
    if not sys.stdout.isatty():
        click.echo(f"# {title}: " + ", ".join(columns))
        for row in texts:
            click.echo("\t".join(row))
        return
    # Imported here: a service prints no tables, and need not carry what does.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(*columns, title=title, title_justify="left")
    table.columns[0].no_wrap = True  # names stay whole, to be copied
    for row in texts:
        table.add_row(*row)
    Console().print(table, markup=False)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
