"""The command line in the test's process."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from service.cli.main import main


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Cli:
    """The command line in this process; output is no terminal, so plain."""

    def __call__(self, *arguments: str, stdin: str | bytes = "", **variables: str) -> Ended:
        ended = CliRunner(env=dict(variables)).invoke(main, list(arguments), input=stdin, prog_name="guest-sessions")
        if ended.exception and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return Ended(ended.exit_code, ended.stdout, ended.stderr)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """A command line in a folder of its own, with no settings; the process's log is put back afterwards."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("GUEST_")]:
        monkeypatch.delenv(name)
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield Cli()
    root.handlers, root.level = handlers, level
