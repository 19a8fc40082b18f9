"""The set-up on machines that lack something, with a stand-in for their Python."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
WITHOUT_PIP = "#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n"
DEBIAN = f"""#!/bin/sh
test "$2" = venv || exit 0
mkdir -p "$3/bin"
touch "$3/pyvenv.cfg"
printf "{WITHOUT_PIP.encode("unicode_escape").decode()}" >"$3/bin/python"
chmod +x "$3/bin/python"
echo "The virtual environment was not created successfully because ensurepip is not available."
exit 1
"""
COMPLETE = """#!/bin/sh
test "$2" = venv || exit 0
mkdir -p "$3/bin"
touch "$3/pyvenv.cfg"
printf '#!/bin/sh\\nexit 0\\n' >"$3/bin/python"
chmod +x "$3/bin/python"
"""


def make(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Runs the first step of `make run` with another `python3` and another place for the virtual environment."""
    program = folder / "python3"
    program.write_text(python)
    program.chmod(0o755)
    command = ("make", f"{folder}/venv/.run", f"PYTHON={program}", f"VENV={folder}/venv")
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603


def test_without_python3_venv_it_says_what_to_install(tmp_path: Path) -> None:
    done = make(tmp_path, DEBIAN)

    assert done.returncode != 0
    assert "sudo apt install python3-venv" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("leftover", [WITHOUT_PIP, None], ids=["no-pip", "no-python"])
def test_a_broken_virtual_environment_is_made_again(tmp_path: Path, leftover: str | None) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    if leftover is not None:
        (tmp_path / "venv" / "bin" / "python").write_text(leftover)
        (tmp_path / "venv" / "bin" / "python").chmod(0o755)

    done = make(tmp_path, COMPLETE)

    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "venv" / ".run").exists()


def test_a_folder_that_is_no_virtual_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "mine").touch()

    done = make(tmp_path, COMPLETE)

    assert done.returncode != 0
    assert "is in the way" in done.stderr
    assert (tmp_path / "venv" / "mine").exists()
