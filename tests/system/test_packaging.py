import os
import re
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import service

ROOT = Path(__file__).parents[2]
READERS = [
    *(f"tests/system/test_{name}.py" for name in ("containers", "docs", "examples", "security_promises")),
    "tests/merge/test_docs.py",
]
"""The tests that read the project's files and are quick; others read the same and serve as well."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel, both built from this tree."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True)  # noqa: S603  # our own words
    return folder


def test_the_wheel_carries_every_module_the_types_marker_and_the_description(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        carried = {name for name in archive.namelist() if name.startswith("service/")}
        description = archive.read("service/openapi.yaml")

    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "service").rglob("*") if path.is_file()}
    assert carried == {name for name in there if "__pycache__" not in name}
    assert description == (ROOT / "openapi.yaml").read_bytes()


@pytest.fixture(scope="module")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the source distribution unpacks to."""
    [source] = built.glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("sdist")
    subprocess.run(["tar", "-xzf", source, "-C", folder], check=True)  # noqa: S603, S607  # our own archive
    [root] = folder.iterdir()
    return root


def test_a_wheel_of_the_source_distribution_carries_the_description_itself(unpacked: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=unpacked, check=True)  # noqa: S603  # our own words

    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        carried = archive.getinfo("service/openapi.yaml")

        assert stat.S_ISREG(carried.external_attr >> 16)
        assert archive.read(carried) == (ROOT / "openapi.yaml").read_bytes()


@pytest.mark.timeout(400)  # it collects all tests once more
def test_the_source_distribution_carries_all_that_its_tests_read(unpacked: Path) -> None:
    pytest_there = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    for arguments in (["--collect-only"], READERS):
        ended = subprocess.run(  # noqa: S603  # our own words
            [*pytest_there, *arguments], cwd=unpacked, capture_output=True, text=True, check=False
        )

        assert ended.returncode == 0, ended.stdout


def test_cleaning_removes_all_that_git_ignores_but_keys_and_secrets() -> None:
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()}
    # Without what the make that runs the tests was given, such as VENV.
    shown = subprocess.run(
        ["make", "--dry-run", "clean"],  # noqa: S607
        env={"PATH": os.environ["PATH"]},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    removed = {word for line in shown.stdout.splitlines() for word in line.split()}

    left = {name for name in ignored if not any(word == name or word.endswith(f"/{name}") for word in removed)}
    assert left == {"data", ".env"}


def test_the_tests_run_on_every_python_that_the_package_names() -> None:
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    [listed] = re.findall(r"^PYTHONS \?= (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)

    assert listed.split() == [f"python{version}" for version in named]


def test_the_versions_agree() -> None:
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)

    assert stated
    assert f"## [{stated[1]}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert getattr(service, "__version__", stated[1]) == stated[1]
    images = re.findall(
        r"image: guest-sessions:(\S+)", (ROOT / "examples/kubernetes/guest-sessions.yaml").read_text("utf-8")
    )
    assert set(images) == {stated[1]}
