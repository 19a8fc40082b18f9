"""Clients that others' generators make of openapi.yaml: each compiles strictly, and lives a guest's life."""

import shutil
import sys
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from tests.generated.conftest import HERE, OPENAPI, TTL_S, Flow, Generate, needs, run

EXPECTED: Any = {
    "issued": {"version": 1, "expires_in": TTL_S, "payload": {"cart": [{"sku": "tea", "qty": 2}]}},
    "merge_patched": {"version": 2, "payload": {"cart": [{"sku": "tea", "qty": 2}], "currency": "EUR"}},
    "json_patched": {"version": 3, "payload": {"cart": [{"sku": "tea", "qty": 3}], "currency": "EUR"}},
    "good": {"version": 3, "payload": {"cart": [{"sku": "tea", "qty": 3}], "currency": "EUR"}, "refresh_due": False},
    "bad": "malformed",
    "merged": {
        "payload": {
            "cart": [{"sku": "tea", "qty": 99}, {"sku": "mug", "qty": 1}],
            "currency": "USD",
            "merged_guests": [[ANY, 3]],
        },
        "skipped": [{"index": 1, "reason": "malformed"}],
        "conflicts": [
            {"path": "/cart/0/qty", "kept": "bounded", "rule": "sum"},
            {"path": "/currency", "kept": "session", "rule": "session"},
        ],
        "next_version": 1,
    },
    "problem": {"status": 422, "code": "reserved_claim", "paths": ["/claims/exp"]},
    "signing_key_is_published": True,
}
"""What every client reports of its calls, all with the same values."""

NODE_MODULES = HERE / "node_modules"
needs_node_modules = pytest.mark.skipif(not (NODE_MODULES / ".made").exists(), reason="not installed: npm")


def compiled(folder: Path, source: str) -> Path:
    """A TypeScript program, compiled under the strictest checks, with its libraries beside it."""
    shutil.copy(HERE / source / "flow.ts", folder)
    (folder / "node_modules").symlink_to(NODE_MODULES)
    (folder / "package.json").write_text('{"type": "module"}')
    strict = ["--strict", "--noUncheckedIndexedAccess", "--types", "node"]
    target = ["--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom", "--rootDir", ".", "--outDir", "js"]
    run(NODE_MODULES / ".bin" / "tsc", *strict, *target, "flow.ts", cwd=folder)
    (folder / "js" / "node_modules").symlink_to(NODE_MODULES)
    return folder / "js" / "flow.js"


@needs_node_modules
def test_openapi_typescript(tmp_path: Path, flow: Flow) -> None:
    run(NODE_MODULES / ".bin" / "openapi-typescript", OPENAPI, "-o", "schema.d.ts", cwd=tmp_path)

    assert flow("node", compiled(tmp_path, "openapi_fetch"), cwd=tmp_path) == EXPECTED


@needs_node_modules
@needs("java", "mvn")
def test_openapi_generator_typescript(tmp_path: Path, openapi_generator: Generate, flow: Flow) -> None:
    openapi_generator("typescript-fetch", tmp_path / "client", "--additional-properties", "importFileExtension=.js")

    assert flow("node", compiled(tmp_path, "typescript_fetch"), cwd=tmp_path) == EXPECTED


def test_openapi_python_client(tmp_path: Path, flow: Flow) -> None:
    tools = Path(sys.executable).parent
    config = tmp_path / "config.yaml"
    config.write_text("content_type_overrides: {application/yaml: text/plain}\npost_hooks: []\n")
    shutil.copy(HERE / "python" / "flow.py", tmp_path)

    run(
        *(tools / "openapi-python-client", "generate", "--path", OPENAPI, "--output-path", "client"),
        *("--config", config, "--fail-on-warning"),
        cwd=tmp_path,
    )
    path = {"MYPYPATH": "client", "PYTHONPATH": "client"}
    run(tools / "mypy", "--strict", "client", "flow.py", cwd=tmp_path, env=path)

    assert flow(sys.executable, "flow.py", cwd=tmp_path, env=path) == EXPECTED


@needs("go")
def test_oapi_codegen(tmp_path: Path, flow: Flow) -> None:
    module = Path(shutil.copytree(HERE / "oapi_codegen", tmp_path / "flow"))
    (module / "guests").mkdir()

    run("go", "tool", "oapi-codegen", "-config", "config.yaml", OPENAPI, cwd=module)
    run("go", "vet", "./...", cwd=module)

    assert flow("go", "run", ".", cwd=module) == EXPECTED


@needs("java", "mvn", "go")
def test_openapi_generator_go(tmp_path: Path, openapi_generator: Generate, flow: Flow) -> None:
    module = tmp_path / "client"

    openapi_generator(
        *("go", module, "--package-name", "guests"),
        *("--git-host", "example.com", "--git-user-id", "guests", "--git-repo-id", "client"),
    )
    (module / "flow").mkdir()
    shutil.copy(HERE / "go" / "main.go", module / "flow")
    run("go", "vet", ".", "./flow", cwd=module)

    assert flow("go", "run", "./flow", cwd=module) == EXPECTED


@needs("java", "mvn")
def test_openapi_generator_java(tmp_path: Path, openapi_generator: Generate, flow: Flow) -> None:
    project = tmp_path / "client"
    package = "com.example.guests"

    openapi_generator(
        *("java", project, "--invoker-package", package),
        *("--api-package", f"{package}.api", "--model-package", f"{package}.model"),
    )
    tests = project / "src" / "test" / "java" / "com" / "example" / "guests"
    tests.mkdir(parents=True)
    shutil.copy(HERE / "java" / "FlowTest.java", tests)

    # The generator's own pom.xml asks for -Xlint:all, and for Java 8, of which a later javac has no class library: it
    # warns of that under "options". Every other warning is an error, in the client and in the test.
    pom = project / "pom.xml"
    pom.write_text(pom.read_text("utf-8").replace("-Xlint:all<", "-Xlint:all,-options<"), "utf-8")

    options = ["--quiet", "--batch-mode", "-Dmaven.compiler.failOnWarning=true"]
    assert flow("mvn", *options, "test", cwd=project) == EXPECTED


@needs("java", "mvn", "cargo")
def test_openapi_generator_rust(tmp_path: Path, openapi_generator: Generate, flow: Flow) -> None:
    project = Path(shutil.copytree(HERE / "rust", tmp_path / "flow"))

    openapi_generator("rust", project / "client", "--package-name", "guests")

    warnings = {"RUSTFLAGS": "--deny warnings", "CARGO_TARGET_DIR": str(tmp_path / "target")}
    assert flow("cargo", "run", "--quiet", cwd=project, env=warnings) == EXPECTED
