"""What `make release-check` builds into dist/, installed in empty places and tried there."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.processes import running, send
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
GO_MODULE = "github.com/guest-sessions/guest-sessions/clients/go"


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Runs a command to its end, without this project on any path; its standard output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GUEST_", "PYTHON"))}
    done = subprocess.run(  # noqa: S603  (our own words)
        [str(word) for word in command], cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def version(project: Path) -> str:
    stated: str = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    return stated


def installed(package: Path | str, locked: str, folder: Path) -> Path:
    """The `bin` of a new virtual environment with the package and what it says it needs, in the locked versions."""
    bin_folder = virtual_environment(folder / "venv")
    lock = (ROOT / "requirements" / f"{locked}.txt").read_text("utf-8")
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(re.findall(r"^[a-z0-9.-]+==[^ \n]+", lock, re.MULTILINE)))
    run(bin_folder / "python", "-m", "pip", "install", "--quiet", "-c", constraints, package, cwd=folder)
    return bin_folder


def virtual_environment(folder: Path) -> Path:
    run(sys.executable, "-m", "venv", folder, cwd=ROOT)
    return folder / "bin"


def is_let_in(name: str) -> bool:
    """Whether .dockerignore lets a file at the root go into the build."""
    return f"!{name}" in (ROOT / ".dockerignore").read_text("utf-8").splitlines()


@pytest.mark.parametrize("package", ["guest_sessions-{}-py3-none-any.whl", "guest_sessions-{}.tar.gz"])
def test_the_service_starts_from_what_is_installed(package: str, tmp_path: Path) -> None:
    number = version(ROOT)
    commands = installed(DIST / package.format(number), "run", tmp_path)

    assert run(commands / "guest-sessions", "--version", cwd=tmp_path).split()[-1] == number
    port = free_port()
    serve = [commands / "guest-sessions", "serve", "--port", str(port)]
    environment = {"PATH": os.environ["PATH"], "GUEST_KEYS_DIR": str(tmp_path / "keys")}
    with running(serve, port=port, log=tmp_path / "service.log", env=environment):
        token = send(port, "/v1/issue", method="POST", headers=[("Content-Type", "application/json")], body=b"{}")
        assert token.status == 201
        pages = {path: send(port, path).status for path in ("/readyz", "/openapi.yaml", "/docs", "/metrics")}
        assert pages == dict.fromkeys(pages, 200)


def test_the_image_is_made_of_its_context_alone(tmp_path: Path) -> None:
    context, base, venv = tmp_path / "build", virtual_environment(tmp_path / "base"), tmp_path / "venv"
    context.mkdir()
    dockerfile = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text("utf-8"))
    first_stage = dockerfile[: dockerfile.index("FROM", dockerfile.index("FROM") + 1)]

    for instruction, argument in re.findall(r"^(COPY|RUN) (.+)$", first_stage, re.MULTILINE):
        if instruction == "COPY":
            *sources, target = argument.split()
            (context / target).mkdir(exist_ok=True)
            for source in sources:
                assert is_let_in(source.split("/")[0]), f"{source} is not in the context"
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, context / target, dirs_exist_ok=True)
                else:
                    shutil.copy(ROOT / source, context / target)
        else:
            words = [word.replace("/venv", str(venv)) for word in json.loads(argument)]
            assert words[0] == "python"
            run(base / "python", *words[1:], cwd=context)

    assert run(venv / "bin/guest-sessions", "--version", cwd=tmp_path).split()[-1] == version(ROOT)


@pytest.mark.parametrize("package", ["guest_sessions_client-{}-py3-none-any.whl", "guest_sessions_client-{}.tar.gz"])
def test_the_python_client_needs_what_it_says(package: str, tmp_path: Path) -> None:
    number = version(ROOT / "clients/python")
    commands = installed(DIST / package.format(number), "clients", tmp_path)

    program = "import guest_sessions, importlib.metadata as m; print(m.version('guest-sessions-client'))"
    assert run(commands / "python", "-c", program, cwd=tmp_path).strip() == number
    program = "import guest_sessions as g, pathlib; print((pathlib.Path(g.__file__).parent / 'py.typed').exists())"
    assert run(commands / "python", "-c", program, cwd=tmp_path).strip() == "True"


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_the_javascript_clients_types_pass_tsc(tmp_path: Path) -> None:
    source = ROOT / "clients/javascript"
    described: dict[str, Any] = json.loads((source / "package.json").read_text("utf-8"))
    locked = json.loads((source / "package-lock.json").read_text("utf-8"))["packages"]
    tools = [f"{name}@{locked[f'node_modules/{name}']['version']}" for name in described["devDependencies"]]
    (tmp_path / "package.json").write_text('{"type": "module", "private": true}')
    run("npm", "install", "--silent", DIST / f"guest-sessions-{described['version']}.tgz", *tools, cwd=tmp_path)
    shutil.copytree(source / "examples", tmp_path / "examples")

    compiled = [
        "--noEmit",
        "--strict",
        "--module",
        "nodenext",
        "--target",
        "es2022",
        "--lib",
        "es2023,dom",
        "--types",
        "node",
    ]
    run("node_modules/.bin/tsc", *compiled, *sorted((tmp_path / "examples").glob("*.ts")), cwd=tmp_path)
    for entry in ("guest-sessions", "guest-sessions/express", "guest-sessions/fastify"):
        run("node", "--input-type=module", "-e", f"await import('{entry}')", cwd=tmp_path)


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
def test_a_go_program_takes_the_module_from_a_proxy(tmp_path: Path) -> None:
    readme = (ROOT / "clients/go/README.md").read_text("utf-8")
    [program] = re.findall(r"^```go\n(package main\n.*?)^```", readme, re.MULTILINE | re.DOTALL)
    (tmp_path / "main.go").write_text(program)
    environment = {
        "GOPROXY": f"file://{DIST / 'goproxy'},{run('go', 'env', 'GOPROXY', cwd=tmp_path).strip()}",
        "GONOSUMDB": GO_MODULE,
        "GOMODCACHE": str(tmp_path / "cache"),  # not the machine's, which may have an earlier build of the same version
        "GOFLAGS": "-modcacherw",
    }
    run("go", "mod", "init", "shop.example/shop", cwd=tmp_path, **environment)
    run("go", "get", GO_MODULE, cwd=tmp_path, **environment)

    run("go", "vet", ".", cwd=tmp_path, **environment)
