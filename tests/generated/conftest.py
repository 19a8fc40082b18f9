import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.guest_service import GuestService, guest_service

HERE = Path(__file__).parent
OPENAPI = HERE.parent.parent / "openapi.yaml"
API_KEY = "an-api-key-for-generated-clients"
TTL_S = 3_000_000_000
"""Further than 32 bits reach, and not what any client would send of itself."""
OPENAPI_GENERATOR = "org.openapitools:openapi-generator-cli:7.25.0"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"

Flow = Callable[..., Any]
Generate = Callable[..., None]


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Runs a command to its end and returns its standard output; fails with all that it printed."""
    done = subprocess.run(  # noqa: S603  # our own words
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{command} in {cwd}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skips where one of the programs is not installed."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestService]:
    settings = {"GUEST_API_KEYS": API_KEY, "GUEST_TTL": str(TTL_S), "GUEST_MAX_TTL": str(TTL_S)}
    with guest_service(tmp_path_factory.mktemp("service"), **settings) as running:
        yield running


@pytest.fixture
def flow(service: GuestService, tmp_path: Path) -> Flow:
    """Runs a program that calls the service and writes what it saw; returns that."""

    def run_flow(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> Any:
        report = tmp_path / "report.json"
        given = {"GUESTS_URL": f"http://{service.address}", "GUESTS_API_KEY": API_KEY, "GUESTS_REPORT": str(report)}
        run(*command, cwd=cwd, env={**given, **(env or {})})
        return json.loads(report.read_text("utf-8"))

    return run_flow


@pytest.fixture(scope="session")
def openapi_generator(tmp_path_factory: pytest.TempPathFactory) -> Generate:
    """Generates a client with openapi-generator, whose jar comes from Maven's own cache or Maven Central."""
    folder = tmp_path_factory.mktemp("openapi-generator")
    run("mvn", "--quiet", "--batch-mode", COPY, f"-Dartifact={OPENAPI_GENERATOR}", "-DoutputDirectory=.", cwd=folder)
    [jar] = folder.glob("*.jar")

    def generate(language: str, output: Path, *options: str) -> None:
        parts = ("--global-property", "apis,models,supportingFiles,apiTests=false,modelTests=false")
        run("java", "-jar", jar, "generate", "-i", OPENAPI, "-g", language, "-o", output, *parts, *options, cwd=folder)

    return generate
