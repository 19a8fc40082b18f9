import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from service.cli.client import ApiClient, CallFailed, signing_api
from service.cli.main import _welcome, main
from service.config import Settings
from service.keys.encryption import make_secret
from tests.processes import environment, running

KEY = "k" * 20
TOKEN = "eyJ0eXAiOiJndWVzdCtqd3QifQ.e30.AAAA"  # enough of one to be looked into


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


@pytest.mark.parametrize("group", [(), ("keys",)])
def test_the_list_of_commands_cuts_no_sentence_short(cli: Cli, group: tuple[str, ...]) -> None:
    listed = cli(*group, "--help").stdout.partition("\nCommands:\n")[2].splitlines()

    assert len(listed) >= 7
    assert [line for line in listed if not re.fullmatch(r"  [a-z]+ +[A-Z].*[^.]\.", line)] == []


def test_each_option_says_what_it_takes_and_what_it_is_without(cli: Cli) -> None:
    serve, merge = cli("serve", "--help").stdout, cli("merge", "--help").stdout

    assert "--port PORT" in serve
    assert "--workers N" in serve
    assert re.search(r"--policy POLICY .*\[default\]", merge)


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


def test_each_verdict_on_several_tokens_says_which_token_it_is_of(cli: Cli) -> None:
    token = cli("issue", "--subject", "me").stdout.strip()

    told = cli("verify", "nonsense", token).stdout.splitlines()
    as_json = [json.loads(line) for line in cli("verify", "--json", "nonsense", token).stdout.splitlines()]
    alone = json.loads(cli("verify", "--json", token).stdout)
    inspected = cli("inspect", token, token).stdout

    assert told[0] == "token 0: bad   malformed"
    assert told[1].startswith("token 1: good  me version 1")
    assert [(each["index"], each["active"]) for each in as_json] == [(0, False), (1, True)]
    assert alone["index"] == 0
    assert "token 0: not verified" in inspected
    assert "token 1: not verified" in inspected
    assert "token 1: The guest token is not valid: malformed." in cli("inspect", token, "nonsense").stderr


@pytest.mark.parametrize("command", ["verify", "merge"])
def test_what_only_reads_makes_no_keyring(cli: Cli, tmp_path: Path, command: str) -> None:
    ended = cli(command, "nonsense")

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "error: There is no keyring in data/keys/keyring.json; "
        "a first start of the service, or `keys init`, makes one.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_inspecting_needs_and_makes_no_keyring(cli: Cli, tmp_path: Path) -> None:
    token = cli("issue", GUEST_KEYS_DIR="elsewhere").stdout.strip()

    assert cli("inspect", token).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_what_only_reads_moves_no_key_that_is_due(cli: Cli, tmp_path: Path) -> None:
    token = cli("issue").stdout.strip()
    keyring = tmp_path / "data" / "keys" / "keyring.json"
    plain = keyring.read_bytes()
    created_at = re.search(rb'"created_at": (\d+)', plain)
    assert created_at
    keyring.write_bytes(plain.replace(created_at[1], b"1700000000"))  # so long ago that a rotation is due
    aged = keyring.read_bytes()
    due = {"GUEST_ROTATE_EVERY": "7776000", "GUEST_KEYS_SECRET": make_secret()}

    verified = cli("verify", token, **due)
    merged = cli("merge", token, **due)

    assert (verified.returncode, merged.returncode) == (0, 0)
    assert keyring.read_bytes() == aged
    cli("issue", **due)
    assert keyring.read_bytes() != aged


@pytest.mark.parametrize("command", [("issue",), ("verify", "nonsense"), ("merge", "nonsense")])
@pytest.mark.parametrize(
    ("secret", "cause"),
    [
        ("", "error: The keyring is sealed, and no secret was given to open it.\n"),
        ("A" * 43, "error: The keyring is sealed with a secret that is not among those given.\n"),
    ],
    ids=["no secret", "another secret"],
)
def test_a_keyring_that_cannot_be_opened_is_told_as_the_cause(
    cli: Cli, command: tuple[str, ...], secret: str, cause: str
) -> None:
    cli("keys", "init", GUEST_KEYS_SECRET=make_secret())

    ended = cli(*command, GUEST_KEYS_SECRET=secret)
    listed = cli("keys", "list", GUEST_KEYS_SECRET=secret)

    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", cause)
    assert listed.stderr == cause


async def test_the_service_of_a_local_call_answers_nobody_else(tmp_path: Path) -> None:
    settings = Settings.from_mapping({"GUEST_KEYS_DIR": str(tmp_path)})
    async with signing_api(settings) as api:
        ours = await api.issue({})
        with pytest.raises(CallFailed) as theirs:
            await ApiClient(api.base_url, api_key=None).issue({})

    assert ours["token"]
    assert theirs.value.detail.startswith("A valid API key is needed")


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
        ("issue", "--ttl", "0"),
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


def test_an_option_that_is_no_json_is_named_with_the_place(cli: Cli) -> None:
    assert "--claims is not JSON: Expecting value at character 8" in cli("issue", "--claims", '{"exp": }').stderr


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
    cli("keys", "init")
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


def _answer(status: int, body: str, *, length: int | None = None) -> bytes:
    head = f"HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n{body}".encode()


@contextmanager
def answering(reply: bytes) -> Iterator[str]:
    """The address of something that answers every request with these bytes, and closes."""

    class Answers(StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(reply)

    with ThreadingTCPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    "reply",
    [
        _answer(200, "[]"),
        _answer(200, "{}"),
        _answer(200, '"x"'),
        _answer(200, "null"),
        _answer(200, ""),
        _answer(200, "[" * 100_000),
        _answer(200, "<html>It works!</html>"),
        _answer(200, '{"active": true}'),
        _answer(200, '{"active": "yes"}'),
        _answer(200, '{"active": false}'),
        _answer(201, '{"token": 7}'),
        _answer(401, "[]"),
        _answer(404, '{"detail": ["Not Found"]}'),
        _answer(422, '{"detail": "x", "errors": [{"loc": ["body"]}]}'),
        _answer(502, "<html>Bad Gateway</html>"),
        _answer(200, '{"active": fal', length=1_000),
        _answer(200, "")[:20],
        b"",
        b"SSH-2.0-OpenSSH_9.9\r\n",
    ],
    ids=lambda reply: reply[:13].decode() + "…" + reply[-24:].decode(),
)
@pytest.mark.parametrize("command", [("issue",), ("verify", "token"), ("merge", "token"), ("inspect", f"{TOKEN}")])
def test_whatever_else_answers_is_told_in_a_line(cli: Cli, command: tuple[str, ...], reply: bytes) -> None:
    with answering(reply) as url:
        ended = cli(command[0], "--url", url, *command[1:])

    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(rf"error: {url} does not answer( as a guest-sessions service)?\.\n", ended.stderr)


@pytest.mark.parametrize("url", ["nonsense", "http://[", "ftp://127.0.0.1", "http://127.0.0.1:99999", "http://"])
def test_what_is_no_address_is_told_in_a_line(cli: Cli, url: str) -> None:
    ended = cli("issue", "--url", url)

    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (1, "", 1)


def test_an_api_key_that_no_header_can_carry_is_told_without_the_key(cli: Cli) -> None:
    ended = cli("issue", "--url", "http://127.0.0.1:1", GUEST_API_KEYS="before\nafter")

    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (1, "", 1)
    assert "before" not in ended.stderr


def test_settings_that_are_none_of_ours_are_named_at_the_start_and_their_values_are_not(tmp_path: Path) -> None:
    with running(tmp_path, GUEST_API_KEY="a-secret-under-a-misspelt-name", GUEST_TLL="60") as service:
        output = service.output

    warnings = [
        record["message"] for line in output.splitlines() if '"warning"' in line for record in [json.loads(line)]
    ]
    assert warnings == ["ignoring unknown settings: GUEST_API_KEY, GUEST_TLL"]
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
