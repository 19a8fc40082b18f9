"""`python -m tests.mutation`: sows one fault at a time into a module and sees whether its tests notice.

Each mutant runs in a process of its own, forked from one that has imported everything but this project, with the
mutant's source in the module's place; no file is changed. Survivors must be explained in `explained.txt`.
"""

import contextlib
import importlib
import importlib.abc
import importlib.util
import io
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final

import click
import pytest
from rich.console import Console
from rich.progress import Progress

from tests.mutation.mutants import Mutant, mutants

ROOT: Final = Path(__file__).parent.parent.parent
EXPLAINED: Final = Path(__file__).parent / "explained.txt"
TIMEOUT_S: Final = 120.0
PRELOADED: Final = (
    *("aiohttp.web", "click", "cryptography.hazmat.primitives.asymmetric.rsa", "hypothesis.strategies"),
    *("jose.jwk", "jsonpatch", "jwt", "msgspec", "openapi_schema_validator", "prometheus_client", "redis.asyncio"),
    *("referencing.jsonschema", "yaml"),
)
"""What the tests import of others, so that no mutant has to."""
PYTEST: Final = (
    *("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # a plugin that is loaded before pytest looks at it
)
MERGING: Final = ("tests/merge/test_merging.py", "tests/merge/test_policy.py", "tests/merge/test_laws.py")
TESTS: Final = {
    "tokens.claims": ("tests/tokens/test_claims.py", "tests/keys/test_signer.py"),
    "keys.signer": (
        "tests/keys/test_signer.py",
        "tests/security/test_tokens.py",
        "-k",
        "not api and not endpoint and not gateway",
    ),
    "keys.keyring": ("tests/keys/test_keyring.py",),
    "merge.receipts": MERGING,
    "merge.rules": MERGING,
    "merge.policy": MERGING,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("modules", nargs=-1, type=click.Choice(list(TESTS)))
def main(modules: Sequence[str]) -> None:
    """Mutate MODULES, or all of them; exits 1 where a survivor is not explained."""
    explained = {line for line in EXPLAINED.read_text("utf-8").splitlines() if line and not line.startswith("#")}
    unexplained = 0
    for name in PRELOADED:
        importlib.import_module(name)
    for module in modules or list(TESTS):
        sown = list(mutants((ROOT / "service" / f"{module.replace('.', '/')}.py").read_text("utf-8")))
        if not _passes(module, None):
            raise click.ClickException(f"the tests of {module} fail without any fault")
        survivors = _survivors(module, sown)
        new = [mutant for mutant in survivors if f"{module}: {mutant.name}" not in explained]
        unexplained += len(new)
        click.echo(f"{module}: {len(sown)} mutants, {len(survivors)} survived, {len(new)} of them unexplained")
        for mutant in new:
            click.echo(f"  line {mutant.line}: {mutant.name}")
    raise SystemExit(1 if unexplained else 0)


def _survivors(module: str, sown: list[Mutant]) -> list[Mutant]:
    with Progress(console=Console(stderr=True)) as progress:
        return [each for each in progress.track(sown, description=module) if _passes(module, each.source)]


def _passes(module: str, source: str | None) -> bool:
    """Whether the module's tests pass with this source in its place; hanging is failing."""
    child = os.fork()
    if child == 0:
        _run_and_exit(module, source)
    give_up_at_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < give_up_at_s:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run_and_exit(module: str, source: str | None) -> None:
    os.setpgid(0, 0)
    os.chdir(ROOT)
    sys.meta_path.insert(0, _InPlace(f"service.{module}", source))
    # A mutant may fail in any way, and must never come back into the parent's code.
    with contextlib.suppress(BaseException), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        os._exit(int(pytest.main([*PYTEST, *TESTS[module]])))
    os._exit(1)


class _InPlace(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module another source."""

    def __init__(self, name: str, source: str | None) -> None:
        self._name = name
        self._source = source

    def find_spec(self, fullname: str, _path: object, _target: object = None) -> ModuleSpec | None:
        if fullname != self._name or self._source is None:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source or "", f"<mutant of {self._name}>", "exec"), vars(module))  # noqa: S102 - our own source


if __name__ == "__main__":
    main()
