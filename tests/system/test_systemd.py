"""The units of examples/systemd, read by systemd itself."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "examples/systemd"
ANALYZE = shutil.which("systemd-analyze")

pytestmark = pytest.mark.skipif(ANALYZE is None, reason="systemd is not here")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The service's unit beside its socket's, with a program that is installed everywhere."""
    for each in UNITS.iterdir():
        text = each.read_text("utf-8").replace("/opt/guest-sessions/bin/guest-sessions serve", "/bin/true")
        (tmp_path / each.name).write_text(text, "utf-8")
    return tmp_path / "guest-sessions.service"


def analyze(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [str(ANALYZE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - ours


@pytest.mark.parametrize("suffix", [".service", ".socket"])
def test_systemd_takes_the_unit_without_a_word(unit: Path, suffix: str) -> None:
    done = analyze("verify", "--man=no", unit.with_suffix(suffix))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_unit_with_a_fault_is_complained_of(unit: Path) -> None:
    unit.write_text(unit.read_text("utf-8").replace("[Service]", "[Service]\nProtectSytem=strict"), "utf-8")

    assert "ProtectSytem" in analyze("verify", "--man=no", unit).stderr


def test_the_unit_is_exposed_as_little_as_systemd_s_own(unit: Path) -> None:
    """The exposure level is at most 2 of 10; without hardening it is 9.6."""
    done = analyze("security", "--offline=true", "--threshold=20", unit)

    assert done.returncode == 0, done.stdout[-500:]
