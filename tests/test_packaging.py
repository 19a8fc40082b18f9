import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import service

ROOT = Path(__file__).parent.parent


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


def test_the_source_distribution_suffices_to_build_from(built: Path) -> None:
    [source] = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}

    assert {"pyproject.toml", "README.md", "LICENSE", "openapi.yaml", "service/openapi.yaml"} <= names


def test_the_versions_agree() -> None:
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)

    assert stated
    assert f"## [{stated[1]}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert getattr(service, "__version__", stated[1]) == stated[1]
