"""What the command line prints of tokens and merges: for a person, tables and colour on a terminal, tabs in a pipe."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec

from service.merge.handover import MergeResult
from service.merge.service import Refused


def as_json(value: object) -> str:
    """JSON, indented on a terminal, one line in a pipe."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2 if sys.stdout.isatty() else 0).decode()


def verdict(answer: dict[str, Any]) -> str:
    """One line on what `POST /v1/verify` answered."""
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


def unverified(content: dict[str, Any]) -> str:
    """A token's content that nobody vouches for, with the warning that says so."""
    warning = click.style("not verified: anyone can write this", fg="yellow")
    return f"{warning}\n{_indented(content)}"


def checked(content: dict[str, Any], answer: dict[str, Any]) -> str:
    """A token's content under the verdict of a service on it."""
    return f"{verdict(answer)}\n{_indented(content)}"


def _indented(document: dict[str, Any]) -> str:
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def print_merge(result: MergeResult, refused: Sequence[Refused]) -> None:
    """What a merge gave: the guests, what came from where, what was refused, and the payload."""
    print_table(
        "Guests",
        ("subject", "version", "merged"),
        [
            *((each.subject, each.version, "weakened" if each.weakened else "yes") for each in result.guests),
            *((each.subject, "", each.reason) for each in result.skipped),
            *((f"token {each.index}", "", each.reason) for each in refused),
        ],
    )
    print_table(
        "What came from where",
        ("path", "before", "after", "rule", "guest"),
        [(each.path, _json(each.before), _json(each.after), each.rule, each.subject) for each in result.changes],
    )
    print_table(
        "What was refused or altered",
        ("path", "session", "guest", "kept", "rule", "of"),
        [
            (each.path, _json(each.session), _json(each.guest), each.kept, each.rule, each.subject)
            for each in result.conflicts
        ],
    )
    click.echo(msgspec.json.format(msgspec.json.encode(result.payload), indent=2).decode())


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
