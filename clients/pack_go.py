"""Packs the Go client as Go's module proxies serve it: `python clients/pack_go.py FOLDER`, then GOPROXY=file://FOLDER.

The layout is that of `go help goproxy`, the zip's that of golang.org/x/mod/zip. The version is the changelog's newest.
"""  # noqa: INP001  (a script)

import json
import re
import sys
import zipfile
from pathlib import Path

SOURCE = Path(__file__).parent / "go"
MODULE = "github.com/guest-sessions/guest-sessions/clients/go"


def pack(folder: Path) -> None:
    """Writes the module into the proxy's folder."""
    [number, *_] = re.findall(r"^## (\d+\.\d+\.\d+)$", (SOURCE / "CHANGELOG.md").read_text(), re.MULTILINE)
    version = f"v{number}"
    versions = folder / MODULE / "@v"
    versions.mkdir(parents=True, exist_ok=True)
    (versions / "list").write_text(f"{version}\n")
    (versions / f"{version}.info").write_text(json.dumps({"Version": version}))
    (versions / f"{version}.mod").write_bytes((SOURCE / "go.mod").read_bytes())
    with zipfile.ZipFile(versions / f"{version}.zip", "w") as archive:
        for file in sorted(SOURCE.iterdir()):
            # ZipInfo's own date makes the same archive of the same files.
            name = zipfile.ZipInfo(f"{MODULE}@{version}/{file.name}")
            archive.writestr(name, file.read_bytes(), zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    pack(Path(sys.argv[1]))
