import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest

from service.keys.encryption import make_secret
from tests.cli.conftest import Cli
from tests.ports import free_port
from tests.processes import running, until

KEY = "k" * 20
TOKEN = "eyJ0eXAiOiJndWVzdCtqd3QifQ.e30.AAAA"  # enough of one to be looked into


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

    lines = cli("verify", "nonsense", token).stdout.splitlines()
    as_json = [json.loads(line) for line in cli("verify", "--json", "nonsense", token).stdout.splitlines()]
    alone = json.loads(cli("verify", "--json", token).stdout)
    inspected = cli("inspect", token, token).stdout

    assert lines[0] == "token 0: bad   malformed"
    assert lines[1].startswith("token 1: good  me version 1")
    assert [(each["index"], each["active"]) for each in as_json] == [(0, False), (1, True)]
    assert alone["index"] == 0
    assert "token 0: not verified" in inspected
    assert "token 1: not verified" in inspected


def test_a_batch_goes_on_after_what_is_no_token(cli: Cli) -> None:
    token = cli("issue", "--subject", "me", "--payload", '{"a": 1}').stdout.strip()
    lines = b"\xef\xbb\xbf\xff\xfe\n" + token.encode() + b"\n" + b"x" * 300_000 + b"\n"

    verified = cli("verify", stdin=lines)
    inspected = cli("inspect", stdin=lines)
    merged = cli("merge", "--json", stdin=lines)

    assert verified.returncode == inspected.returncode == 1
    assert [line.split()[:4] for line in verified.stdout.splitlines()] == [
        ["token", "0:", "bad", "malformed"],
        ["token", "1:", "good", "me"],
        ["token", "2:", "bad", "too_large"],
    ]
    assert "token 0: The guest token is not valid: malformed.\n" in inspected.stderr
    assert '"sub": "me"' in inspected.stdout
    assert [each["reason"] for each in json.loads(merged.stdout)["skipped"]] == ["malformed", "too_large"]


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


def test_no_command_on_tokens_moves_a_key_that_is_due(cli: Cli, tmp_path: Path) -> None:
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
    issued = cli("issue", **due)

    assert (verified.returncode, merged.returncode, issued.returncode) == (0, 0, 0)
    assert keyring.read_bytes() == aged


@pytest.mark.parametrize("command", [("issue",), ("verify", "nonsense"), ("merge", "nonsense")])
@pytest.mark.parametrize(
    ("secret", "cause"),
    [
        ("", "error: The keyring is sealed, and no secret was given to open it.\n"),
        ("A" * 43, "error: The keyring is sealed with a secret that is not among those given.\n"),
    ],
    ids=["no secret", "another secret"],
)
def test_a_keyring_that_cannot_be_opened_is_reported_as_the_cause(
    cli: Cli, command: tuple[str, ...], secret: str, cause: str
) -> None:
    cli("keys", "init", GUEST_KEYS_SECRET=make_secret())

    ended = cli(*command, GUEST_KEYS_SECRET=secret)
    listed = cli("keys", "list", GUEST_KEYS_SECRET=secret)

    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", cause)
    assert listed.stderr == cause


def test_what_is_no_token_at_all_cannot_be_inspected(cli: Cli) -> None:
    ended = cli("inspect", "a.b.c")

    assert (ended.returncode, ended.stdout) == (1, "")
    assert "malformed" in ended.stderr


def test_the_payload_may_come_from_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "payload.json").write_text('{"from": "file"}')

    issued = cli("issue", "--payload", "@payload.json", "--json")

    assert json.loads(issued.stdout)["payload"] == {"from": "file"}


def test_an_option_that_is_no_json_is_named_with_the_place(cli: Cli) -> None:
    assert "--claims is not JSON: Expecting value at character 8" in cli("issue", "--claims", '{"exp": }').stderr


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--claims", '{"exp": 1}', "/claims/exp: is reserved"),
        ("--ttl", "0", "/ttl: Expected `int` >= 1"),
        ("--ttl", "9999999999", "/ttl: "),
        ("--subject", "two words", "/subject: "),
        ("--audience", "", "/audience/0: "),
    ],
    ids=["claim", "no-ttl", "long-ttl", "subject", "audience"],
)
def test_an_option_that_the_api_would_refuse_is_wrong_usage(cli: Cli, option: str, value: str, message: str) -> None:
    ended = cli("issue", option, value)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr


def test_a_running_service_s_refusal_of_an_option_is_wrong_usage_too(cli: Cli, tmp_path: Path) -> None:
    with running(tmp_path, GUEST_MAX_TTL="60") as service:
        ended = cli("issue", "--url", service.base_url, "--ttl", "61")

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "/ttl: " in ended.stderr


@pytest.mark.parametrize("option", ["--payload", "--claims"])
def test_a_file_may_begin_with_a_byte_order_mark(cli: Cli, tmp_path: Path, option: str) -> None:
    (tmp_path / "object.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')

    assert cli("issue", option, "@object.json").returncode == 0


def test_making_a_keyring_by_the_way_is_said(cli: Cli) -> None:
    first, second = cli("issue"), cli("issue")

    assert first.stderr == (
        "note: There was no keyring in data/keys: a new one was made, which no other service knows.\n"
    )
    assert second.stderr == ""


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
    assert "# What came from where: path, before, after, rule, guest" in lines
    assert '/lang\t"en"\t"de"\tsession\tsession\tme' in lines


def test_a_merge_as_json_is_the_api_s_answer(cli: Cli) -> None:
    token = cli("issue", "--payload", '{"a": 1}').stdout.strip()

    ended = cli("merge", "--json", "--policy", "guest_replaces", token)

    answer = json.loads(ended.stdout)
    assert (answer["payload"]["a"], answer["merged"], answer["next"]) == (1, True, None)


def test_a_merge_is_that_of_the_api(cli: Cli, tmp_path: Path) -> None:
    old = cli("issue", "--subject", "a", "--payload", '{"n": 1}', "--ttl", "1").stdout.strip()
    with running(
        tmp_path, GUEST_KEYS_DIR=str(tmp_path / "data" / "keys"), GUEST_ISSUER="http://127.0.0.1:8080"
    ) as service:
        one = cli("issue", "--subject", "a", "--payload", '{"n": 1}', "--url", service.base_url).stdout.strip()
        two = cli("issue", "--subject", "b", "--payload", '{"n": 2}', "--url", service.base_url).stdout.strip()
        until(lambda: cli("verify", old).returncode == 1)
        tokens = ("nonsense", two, old, one, one)
        there = cli("merge", "--json", "--url", service.base_url, "--policy", "guest_replaces", *tokens)
        shown = cli("merge", "--url", service.base_url, *tokens)
    here = cli("merge", "--json", "--policy", "guest_replaces", *tokens)

    assert json.loads(here.stdout) == json.loads(there.stdout)
    assert json.loads(here.stdout)["skipped"] == [
        {"index": 0, "reason": "malformed"},
        {"index": 2, "reason": "expired", "subject": "a"},
        {"index": 4, "reason": "superseded", "subject": "a"},
    ]
    assert shown.stdout.splitlines()[:3] == ["# Guests: subject, version, merged", "a\t1\tyes", "b\t1\tyes"]


def test_a_merge_takes_as_many_tokens_as_the_api(cli: Cli) -> None:
    cli("keys", "init")

    most = cli("merge", *["nonsense"] * 32)
    more = cli("merge", *["nonsense"] * 33)

    assert (most.returncode, more.returncode) == (0, 2)
    assert "/tokens: Expected `array` of length <= 32" in more.stderr


def test_a_policy_and_a_file_of_its_name_are_distinguished(cli: Cli, tmp_path: Path) -> None:
    token = cli("issue", "--payload", '{"lang": "de"}').stdout.strip()
    (tmp_path / "session.json").write_text('{"lang": "en"}')
    (tmp_path / "guest_replaces").write_text("\ufeff" + '{"default": "session"}')

    named = cli("merge", "--json", "--session", "session.json", "--policy", "guest_replaces", token)
    from_file = cli("merge", "--json", "--session", "session.json", "--policy", "./guest_replaces", token)

    langs = [json.loads(ended.stdout)["payload"]["lang"] for ended in (named, from_file)]
    assert langs == ["de", "en"]


def test_the_default_policy_is_that_of_the_settings(cli: Cli, tmp_path: Path) -> None:
    token = cli("issue", "--payload", '{"lang": "de"}').stdout.strip()
    (tmp_path / "session.json").write_text('{"lang": "en"}')

    ended = cli("merge", "--json", "--session", "session.json", token, GUEST_MERGE_POLICY="guest_replaces")

    assert json.loads(ended.stdout)["payload"]["lang"] == "de"


def test_a_strict_merge_fails_on_a_bad_token(cli: Cli) -> None:
    cli("keys", "init")
    ended = cli("merge", "--strict", "nonsense")

    assert ended.returncode == 1
    assert ended.stderr == "error: token 0: The guest token is not valid: malformed.\n"


def test_a_faulty_policy_or_session_is_reported_with_its_place(cli: Cli, tmp_path: Path) -> None:
    token = cli("issue").stdout.strip()
    (tmp_path / "policy.json").write_text('{"default": "nope"}')
    (tmp_path / "session.json").write_text('{"merged_guests": 7}')

    policy = cli("merge", "--policy", "policy.json", token)
    session = cli("merge", "--session", "session.json", token)

    assert (policy.returncode, session.returncode) == (2, 2)
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
    assert "nothing listens on 127.0.0.1:" in unanswered.stderr


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
def test_whatever_else_answers_is_reported_in_a_line(cli: Cli, command: tuple[str, ...], reply: bytes) -> None:
    with answering(reply) as url:
        ended = cli(command[0], "--url", url, *command[1:])

    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(
        rf"error: {url} (does not respond as an HTTP service|responds with status \d+ and \S+, but not as .*)\.\n",
        ended.stderr,
    )


@pytest.mark.parametrize("url", ["nonsense", "http://[", "ftp://127.0.0.1", "http://127.0.0.1:99999", "http://"])
def test_what_is_no_address_is_said_in_a_line(cli: Cli, url: str) -> None:
    ended = cli("issue", "--url", url)

    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (2, "", 1)
    assert "is not an address: it must begin with http:// or https:// and name a host" in ended.stderr


def test_a_wrong_address_is_said_with_what_is_wrong(cli: Cli, tmp_path: Path) -> None:
    redirect = b"HTTP/1.1 301 Moved\r\nLocation: https://guests.example/v1/issue\r\nContent-Length: 0\r\n\r\n"
    html = _answer(404, "<html>")
    port = free_port()
    with answering(redirect) as moved, answering(html) as other, running(tmp_path) as service:
        wrong = {
            "redirect": cli("issue", "--url", moved).stderr,
            "path": cli("issue", "--url", f"{other}/v1").stderr,
            "tls": cli("issue", "--url", service.base_url.replace("http:", "https:")).stderr,
            "port": cli("issue", "--url", f"http://127.0.0.1:{port}").stderr,
            "host": cli("issue", "--url", "http://guests.invalid").stderr,
        }

    assert wrong["redirect"] == f"error: {moved} redirects to https://guests.example: call that address.\n"
    assert "responds with status 404 and application/json, but not as a guest-sessions service" in wrong["path"]
    assert "no path such as /v1" in wrong["path"]
    assert "cannot be called by TLS" in wrong["tls"]
    assert f"nothing listens on 127.0.0.1:{port} (" in wrong["port"]
    assert "there is no host guests.invalid" in wrong["host"]


def test_what_comes_from_elsewhere_cannot_steer_the_terminal(cli: Cli) -> None:
    with answering(_answer(422, '{"detail": "\\u001b[2Jgone"}')) as url:
        ended = cli("issue", "--url", url)

    assert ended.stderr == "error: \ufffd[2Jgone\n"


def test_an_api_key_that_no_header_can_carry_is_reported_without_the_key(cli: Cli) -> None:
    ended = cli("issue", "--url", "http://127.0.0.1:1", GUEST_API_KEYS="before\nand after it all")

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: GUEST_API_KEYS: the first key has characters other than visible ASCII\n"
