"""What others' linters say of openapi.yaml: nothing, not even a warning."""

from pathlib import Path

from tests.generated.conftest import HERE, OPENAPI, run
from tests.generated.test_clients import NODE_MODULES, needs_node_modules

pytestmark = needs_node_modules


def test_redocly(tmp_path: Path) -> None:
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}

    run(NODE_MODULES / ".bin" / "redocly", "lint", "--config", HERE / "redocly.yaml", OPENAPI, cwd=tmp_path, env=quiet)


def test_spectral(tmp_path: Path) -> None:
    strict = ("--ruleset", HERE / "spectral.yaml", "--fail-severity", "hint")

    run(NODE_MODULES / ".bin" / "spectral", "lint", *strict, OPENAPI, cwd=tmp_path)
