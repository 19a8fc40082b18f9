"""Builds the application on the packed module: `python build.py PROXY`, where clients/pack_go.py wrote it. Needs Go."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

HERE = Path(__file__).parent


def build(proxy: Path) -> None:
    """Unpacks the module to where go.mod looks for it, and compiles the application."""
    shutil.rmtree(HERE / "module", ignore_errors=True)
    (HERE / "module").mkdir()
    [module] = proxy.rglob("*.zip")
    with zipfile.ZipFile(module) as archive:
        for name in archive.namelist():
            (HERE / "module" / PurePosixPath(name).name).write_bytes(archive.read(name))
    subprocess.run(["go", "build", "-o", "net-http", "."], cwd=HERE, check=True)  # noqa: S607  (whichever Go is installed)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
