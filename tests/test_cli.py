import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from service.cli import _welcome, main
from service.settings import Settings
from tests.processes import environment, running

KEY = "k" * 20


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Cli:
    """The command line in this process; output is no terminal, so plain."""

    def __call__(self, *arguments: str, stdin: str = "", **variables: str) -> Ended:
        ended = CliRunner(env=dict(variables)).invoke(main, list(arguments), input=stdin, prog_name="guest-sessions")
        if ended.exception and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return Ended(ended.exit_code, ended.stdout, ended.stderr)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """A command line in a folder of its own, with no settings; the process's log is put back afterwards."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("GUEST_")]:
        monkeypatch.delenv(name)
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield Cli()
    root.handlers, root.level = handlers, level


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "service", "--version")

    shown = subprocess.run(command, env=environment({}), cwd=tmp_path, capture_output=True, check=True)  # noqa: S603

    assert version("guest-sessions").encode() in shown.stdout


def test_help_names_every_command_and_a_first_round(cli: Cli) -> None:
    shown = cli("--help")

    assert shown.returncode == 0
    for command in ("serve", "issue", "verify", "inspect", "merge", "healthcheck"):
        assert f"\n  {command} " in shown.stdout
        assert cli(command, "--help").returncode == 0
    assert "\n    guest-sessions serve\n" in shown.stdout
    assert "\\b" not in shown.stdout


def test_the_version_is_the_distribution_s(cli: Cli) -> None:
    assert cli("--version").stdout == f"guest-sessions, version {version('guest-sessions')}\n"


def test_a_token_goes_from_issue_through_a_pipe_into_verify_and_inspect(cli: Cli) -> None:
    issued = cli("issue", "--payload", '{"cart": ["tea"]}', "--subject", "me", "--ttl", "7200")
    verified = cli("verify", stdin=issued.stdout)
    inspected = cli("inspect", "--json", issued.stdout.strip())

    assert issued.returncode == verified.returncode == 0
    assert verified.stdout.startswith("good  me version 1, key ")
    assert "\x1b" not in verified.stdout
    assert json.loads(inspected.stdout)["claims"]["payload"] == {"cart": ["tea"]}
    assert json.loads(inspected.stdout)["header"]["typ"] == "guest+jwt"


def test_a_bad_token_is_exit_code_1_and_says_why(cli: Cli) -> None:
    token = cli("issue").stdout.strip()

    ended = cli("verify", "--json", token, token.rpartition(".")[0])

    assert ended.returncode == 1
    good, bad = [json.loads(line) for line in ended.stdout.splitlines()]
    assert good["active"] is True
    assert (bad["active"], bad["reason"]) == (False, "malformed")


def test_what_is_no_token_at_all_cannot_be_inspected(cli: Cli) -> None:
    ended = cli("inspect", "a.b.c")

    assert (ended.returncode, ended.stdout) == (1, "")
    assert "malformed" in ended.stderr


def test_the_payload_may_come_from_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "payload.json").write_text('{"from": "file"}')

    issued = cli("issue", "--payload", "@payload.json", "--json")

    assert json.loads(issued.stdout)["payload"] == {"from": "file"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("issue", "--payload", "[]"),
        ("issue", "--payload", "{"),
        ("issue", "--payload", "@nothing.json"),
        ("verify",),
        ("merge", "--policy", "nope", "token"),
        ("serve", "--colour"),
        ("nonsense",),
    ],
)
def test_wrong_usage_is_exit_code_2_without_a_traceback(cli: Cli, arguments: tuple[str, ...]) -> None:
    ended = cli(*arguments)

    assert ended.returncode == 2
    assert ended.stderr.startswith("Usage: ")
    assert "Traceback" not in ended.stderr


def test_what_the_api_refuses_is_exit_code_1_with_the_place(cli: Cli) -> None:
    ended = cli("issue", "--claims", '{"exp": 1}')

    assert ended.returncode == 1
    assert "/claims/exp: is reserved" in ended.stderr


def test_faulty_settings_are_exit_code_2(cli: Cli) -> None:
    ended = cli("issue", GUEST_TTL="soon")

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("GUEST_TTL: ")


def test_a_merge_tells_what_came_from_where_and_what_was_refused(cli: Cli, tmp_path: Path) -> None:
    token = cli(
        "issue", "--subject", "me", "--payload", '{"cart": [{"sku": "tea", "qty": 2}], "lang": "de"}'
    ).stdout.strip()
    (tmp_path / "session.json").write_text('{"cart": [{"sku": "tea", "qty": 1}], "lang": "en"}')
    (tmp_path / "policy.json").write_text(
        '{"rules": {"/cart": {"rule": "by_key", "key": "sku", "fields": {"/qty": "sum"}}}}'
    )

    ended = cli("merge", "--session", "session.json", "--policy", "policy.json", token, "nonsense")

    assert ended.returncode == 0
    lines = ended.stdout.splitlines()
    assert "me\t1\tyes" in lines
    assert "token 1\t\tmalformed" in lines
    assert "/cart/0/qty\t1\t3\tsum\tme" in lines
    assert '/lang\t"en"\t"de"\tsession\tsession\tme' in lines


def test_a_merge_as_json_is_the_api_s_answer(cli: Cli) -> None:
    token = cli("issue", "--payload", '{"a": 1}').stdout.strip()

    ended = cli("merge", "--json", "--policy", "guest_replaces", token)

    answer = json.loads(ended.stdout)
    assert (answer["payload"]["a"], answer["merged"], answer["next"]) == (1, True, None)


def test_a_strict_merge_fails_on_a_bad_token(cli: Cli) -> None:
    ended = cli("merge", "--strict", "nonsense")

    assert ended.returncode == 1
    assert "token 0 is not valid: malformed" in ended.stderr


def test_a_faulty_policy_or_session_is_told_with_its_place(cli: Cli, tmp_path: Path) -> None:
    token = cli("issue").stdout.strip()
    (tmp_path / "policy.json").write_text('{"default": "nope"}')
    (tmp_path / "session.json").write_text('{"merged_guests": 7}')

    policy = cli("merge", "--policy", "policy.json", token)
    session = cli("merge", "--session", "session.json", token)

    assert (policy.returncode, session.returncode) == (1, 1)
    assert "/default: " in policy.stderr
    assert "/session/merged_guests: " in session.stderr


def test_a_running_service_says_what_it_holds_of_an_inspected_token(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "api-keys").write_text(f"# the shop\n{KEY}\n")
    with running(tmp_path, GUEST_API_KEYS=KEY) as service:
        there = {"GUEST_API_KEYS_FILE": "api-keys"}
        token = cli("issue", "--url", service.base_url, **there).stdout.strip()
        good = cli("inspect", "--url", service.base_url, token, **there)
        bad = cli("inspect", "--json", "--url", service.base_url, f"{token[:-8]}AAAAAAAA", **there)
    missing = cli("verify", "--url", service.base_url, token, GUEST_API_KEYS_FILE="nothing")
    empty = cli("verify", "--url", service.base_url, token, GUEST_API_KEYS_FILE="/dev/null")

    assert (good.returncode, bad.returncode, missing.returncode, empty.returncode) == (0, 1, 2, 2)
    assert good.stdout.startswith("good  G-")
    assert json.loads(bad.stdout)["verified"] == {"active": False, "reason": "bad_signature"}
    assert "GUEST_API_KEYS_FILE: cannot be read" in missing.stderr
    assert "GUEST_API_KEYS_FILE: holds no key" in empty.stderr


def test_a_running_service_is_asked_with_its_api_key(cli: Cli, tmp_path: Path) -> None:
    with running(tmp_path, GUEST_API_KEYS=KEY) as service:
        issued = cli("issue", "--url", service.base_url, GUEST_API_KEYS=KEY)
        verified = cli("verify", "--url", service.base_url, issued.stdout.strip(), GUEST_API_KEYS=KEY)
        without = cli("issue", "--url", service.base_url)
        health = cli("healthcheck", GUEST_PORT=service.base_url.rpartition(":")[2])
    gone = cli("healthcheck", "--url", f"{service.base_url}/readyz")
    unanswered = cli("issue", "--url", service.base_url)

    assert (issued.returncode, verified.returncode, without.returncode) == (0, 0, 1)
    assert (health.returncode, gone.returncode, unanswered.returncode) == (0, 1, 1)
    assert "API key" in without.stderr
    assert "does not answer" in unanswered.stderr


def test_settings_that_are_none_of_ours_are_named_at_the_start_and_their_values_are_not(tmp_path: Path) -> None:
    with running(tmp_path, GUEST_API_KEY="a-secret-under-a-misspelt-name", GUEST_TLL="60") as service:
        output = service.output

    warnings = [
        record["message"] for line in output.splitlines() if '"warning"' in line for record in [json.loads(line)]
    ]
    assert warnings == ["settings that nobody here knows are ignored: GUEST_API_KEY, GUEST_TLL"]
    assert "misspelt" not in output


@pytest.mark.parametrize(
    ("host", "callers"),
    [("127.0.0.1", "local callers only"), ("0.0.0.0", "whoever reaches this address may call")],  # noqa: S104
)
def test_who_may_call_without_a_key_is_told_at_the_start(
    host: str, callers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"GUEST_HOST": host, "GUEST_ALLOW_NO_API_KEYS": "1", "GUEST_ISSUER": "https://guests.example"}
    _welcome(Settings.from_mapping(given), 8_080)

    assert f"No API key is configured: {callers}.\n" in capsys.readouterr().out
