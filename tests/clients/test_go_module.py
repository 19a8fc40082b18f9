"""The Go client's module as packed: its own tests, and the program of its README against the real service."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateways.guest_service import guest_service
from tests.gateways.processes import running, send
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
MODULE = "github.com/guest-sessions/guest-sessions/clients/go"
NAVIGATION = [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]

pytestmark = pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")


def go(*arguments: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(  # noqa: S603  (our own words)
        ["go", *arguments],  # noqa: S607  (whichever Go is installed)
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A new Go project that has the packed module from a proxy, and the environment in which Go finds it."""
    folder = tmp_path_factory.mktemp("go")
    subprocess.run([sys.executable, ROOT / "clients/pack_go.py", folder / "proxy"], check=True)  # noqa: S603
    environment = {
        "GOPROXY": f"file://{folder / 'proxy'},{go('env', 'GOPROXY', folder=folder).strip()}",
        "GONOSUMDB": MODULE,
        "GOMODCACHE": str(folder / "cache"),  # not the machine's, which may have an earlier build of the same version
        "GOFLAGS": "-modcacherw",
    }
    (folder / "shop").mkdir()
    go("mod", "init", "shop.example/shop", folder=folder / "shop", **environment)
    go("get", MODULE, folder=folder / "shop", **environment)
    yield folder / "shop", environment
    shutil.rmtree(folder / "cache")


def test_the_module_passes_vet_and_its_tests(project: tuple[Path, dict[str, str]]) -> None:
    folder, environment = project
    module = Path(json.loads(go("list", "-m", "-json", MODULE, folder=folder, **environment))["Dir"])
    go("vet", "./...", folder=module, **environment)
    go("test", "-count=1", "./...", folder=module, **environment)


def test_the_module_needs_go_jose_alone(project: tuple[Path, dict[str, str]]) -> None:
    folder, environment = project
    modules = go("list", "-m", "all", folder=folder, **environment).split("\n")
    assert [line.split()[0] for line in modules[1:] if line] == ["github.com/go-jose/go-jose/v4", MODULE]


def test_the_readmes_shop_keeps_a_cart_at_login(project: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, environment = project
    readme = (ROOT / "clients/go/README.md").read_text()
    [program] = re.findall(r"^```go\n(package main\n.*?)^```", readme, re.MULTILINE | re.DOTALL)
    port = free_port()
    with guest_service(tmp_path, GUEST_ISSUER="http://localhost:8000") as service:
        here = program.replace("127.0.0.1:8080", service.address)
        here = here.replace('ListenAndServe("localhost:8000"', f'ListenAndServe("127.0.0.1:{port}"')
        (folder / "main.go").write_text(here)
        go("build", "-o", "shop", ".", folder=folder, **environment)
        with running([folder / "shop"], port=port, log=tmp_path / "shop.log"):
            page = send(port, "/", headers=NAVIGATION)
            cookie = [("Cookie", page.all("Set-Cookie")[0].partition(";")[0])]
            bought = send(port, "/cart/cup", method="POST", headers=cookie, body=b"")
            assert bought.status == 200
            cookie = [("Cookie", bought.all("Set-Cookie")[0].partition(";")[0])]
            account = send(port, "/login", method="POST", headers=cookie, body=b"").json()
            assert (account["name"], account["cart"]) == ("Ada", [{"sku": "cup", "qty": 1}])
            assert len(account["merged_guests"]) == 1
            assert "Max-Age=0" in send(port, "/logout", method="POST", headers=cookie, body=b"").all("Set-Cookie")[0]
