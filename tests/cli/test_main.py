import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from service.cli.main import _welcome
from service.config import Settings
from tests.cli.conftest import Cli
from tests.processes import environment, running


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "service", "--version")

    shown = subprocess.run(command, env=environment({}), cwd=tmp_path, capture_output=True, check=True)  # noqa: S603

    assert version("guest-sessions").encode() in shown.stdout


def test_help_names_every_command_and_a_first_round(cli: Cli) -> None:
    shown = cli("--help")

    assert shown.returncode == 0
    for command in ("serve", "doctor", "issue", "verify", "inspect", "merge", "healthcheck"):
        assert f"\n  {command} " in shown.stdout
        assert cli(command, "--help").returncode == 0
    assert "\n    guest-sessions serve\n" in shown.stdout
    assert "\\b" not in shown.stdout


@pytest.mark.parametrize("group", [(), ("keys",)])
def test_the_list_of_commands_cuts_no_sentence_short(cli: Cli, group: tuple[str, ...]) -> None:
    listed = cli(*group, "--help").stdout.partition("\nCommands:\n")[2].splitlines()

    assert len(listed) >= 7
    assert [line for line in listed if not re.fullmatch(r"  [a-z]+ +[A-Z].*[^.]\.", line)] == []


def test_each_option_says_what_it_takes_and_what_it_is_without(cli: Cli) -> None:
    serve, merge = cli("serve", "--help").stdout, cli("merge", "--help").stdout

    assert "--port PORT" in serve
    assert "--workers N" in serve
    assert re.search(r"--policy POLICY .*default\]", merge, re.DOTALL)


def test_the_version_is_the_distribution_s(cli: Cli) -> None:
    assert cli("--version").stdout == f"guest-sessions, version {version('guest-sessions')}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("issue", "--payload", "[]"),
        ("issue", "--payload", "{"),
        ("issue", "--payload", "@nothing.json"),
        ("verify",),
        ("merge", "--policy", "nope", "token"),
        ("merge", "--policy", "./cart", "token"),
        ("merge", "--policy", "/", "token"),
        ("issue", "--ttl", "soon"),
        ("issue", "--claims", "@/"),
        ("serve", "--colour"),
        ("nonsense",),
    ],
)
def test_wrong_usage_is_exit_code_2_without_a_traceback(cli: Cli, arguments: tuple[str, ...]) -> None:
    ended = cli(*arguments)

    assert ended.returncode == 2
    assert ended.stderr.startswith("Usage: ")
    assert "Traceback" not in ended.stderr


def test_faulty_settings_are_exit_code_2(cli: Cli) -> None:
    ended = cli("issue", GUEST_TTL="soon")

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("GUEST_TTL: ")


@pytest.mark.parametrize(
    "command", [("-m", "service"), (str(Path(sys.executable).with_name("guest-sessions")),)], ids=["module", "script"]
)
def test_the_check_of_a_healthy_container_imports_no_more_than_it_needs(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    check = (sys.executable, "-X", "importtime", *command, "healthcheck")
    with running(tmp_path) as service:
        given = environment({"GUEST_PORT": service.base_url.rpartition(":")[2], "GUEST_HOST": "0.0.0.0"})  # noqa: S104
        ready = subprocess.run(check, env=given, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S603
    gone = subprocess.run(check, env=given, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S603

    imported = {line.rpartition("|")[2].strip() for line in ready.stderr.splitlines()}
    assert (ready.returncode, ready.stdout) == (0, "")
    assert imported & {"aiohttp", "asyncio", "click", "cryptography", "msgspec"} == set()
    assert gone.returncode == 1
    assert gone.stderr.endswith("error: not ready\n")


def test_settings_that_are_none_of_ours_are_named_at_the_start_and_their_values_are_not(tmp_path: Path) -> None:
    with running(
        tmp_path, GUEST_API_KEY="a-secret-under-a-misspelt-name", GUEST_TLL="60", GUEST_ISSUER="https://guests.test"
    ) as service:
        output = service.output

    warnings = [
        record["message"] for line in output.splitlines() if '"warning"' in line for record in [json.loads(line)]
    ]
    assert warnings[0] == "ignoring unknown settings: GUEST_API_KEY, GUEST_TLL"
    assert "misspelt" not in output


@pytest.mark.parametrize(
    ("host", "callers"),
    [("127.0.0.1", "local callers only"), ("0.0.0.0", "anyone who reaches this address may call")],  # noqa: S104
)
def test_who_may_call_without_a_key_is_reported_at_the_start(
    host: str, callers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"GUEST_HOST": host, "GUEST_ALLOW_NO_API_KEYS": "1", "GUEST_ISSUER": "https://guests.example"}
    _welcome(Settings.from_mapping(given), 8_080)

    assert f"No API key is configured: {callers}.\n" in capsys.readouterr().out
