import subprocess
import sys
from pathlib import Path

import pytest

from tests.live import environment, served

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(600)


def held_against(address: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """One run of schemathesis against the service at `address`, under schemathesis.toml."""
    command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(ROOT / "schemathesis.toml")]
    return subprocess.run(  # noqa: S603  # our own words
        [*command, "run", str(ROOT / "openapi.yaml"), "--url", f"http://{address}", "--seed", "1", *options],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )


def test_the_live_service_answers_as_its_description_says(tmp_path: Path) -> None:
    with served(tmp_path) as address:
        done = held_against(address, "--phases", "examples,coverage,fuzzing", "--max-examples", "5")

    assert done.returncode == 0, done.stdout


def test_the_live_service_asks_for_the_api_key_that_its_description_names(tmp_path: Path) -> None:
    with served(tmp_path, GUEST_API_KEYS="an-api-key-for-this-test") as address:
        done = held_against(
            address, "--phases", "coverage", "--include-path", "/v1/verify", "-H", "X-API-Key: an-api-key-for-this-test"
        )

    assert done.returncode == 0, done.stdout
