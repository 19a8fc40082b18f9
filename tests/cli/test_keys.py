import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from service.cli.main import main
from service.keys.encryption import Sealer, is_sealed, make_secret
from tests.redis_servers import Server, running

Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def run(folder: Path) -> Run:
    """Runs `guest-sessions keys …` as a shell would, in a pipe."""

    def run(*arguments: str, stdin: bytes | None = None, **variables: str) -> Result:
        environment = {"GUEST_KEYS_DIR": str(folder), **variables}
        return CliRunner().invoke(main, ["keys", *arguments], input=stdin, env=environment)

    return run


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(Server(tmp_path_factory.mktemp("redis"))) as (server,):
        yield server


def answer(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def states(run: Run) -> list[str]:
    return sorted(key["state"] for key in answer(run("list", "--json"))["keys"])


def test_before_there_is_a_keyring_it_says_how_one_is_made(run: Run) -> None:
    result = run("list")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "There is no keyring" in result.stderr
    assert "keys init" in result.stderr


def test_init_makes_a_keyring_once(run: Run, folder: Path) -> None:
    first, second = run("init"), run("init")

    assert first.exit_code == 0
    assert first.stdout.startswith(f"Made a keyring in {folder}. Key ")
    assert (second.exit_code, second.stdout) == (1, "")
    assert "There is a keyring already" in second.stderr
    assert (folder / "keyring.json").stat().st_mode & 0o777 == 0o600


def test_rotate_publishes_a_key_and_tells_when_it_will_sign(run: Run) -> None:
    run("init")
    first = run("rotate", GUEST_JWKS_MAX_AGE="3600")
    again = run("rotate", GUEST_JWKS_MAX_AGE="3600")

    assert "is published and signs from 20" in first.stdout
    assert "is staged already and signs from 20" in again.stdout
    assert states(run) == ["active", "next"]


def test_rotate_now_lets_the_staged_key_sign_and_says_what_it_risks(run: Run) -> None:
    run("init")
    staged = answer(run("rotate", "--json"))["next"]
    result = run("rotate", "--now")

    assert f"Key {staged} signs now." in result.stdout
    assert "may refuse its tokens for up to 300 s" in result.stdout
    assert states(run) == ["active", "retired"]
    again = answer(run("rotate", "--now", "--json"))
    assert again["active"] != staged
    assert "may refuse its tokens for up to 300 s" in again["risk"]
    assert states(run) == ["active", "retired", "retired"]


def test_revoking_the_key_that_signs_lets_another_sign(run: Run) -> None:
    active = answer(run("init", "--json"))["active"]
    result = run("revoke", active)

    assert result.exit_code == 0
    assert f"Key {active} is revoked" in result.stdout
    assert " signs now." in result.stdout
    assert states(run) == ["active", "revoked"]
    assert run("revoke", active).exit_code == 1
    assert "There is no key nope" in run("revoke", "nope").stderr


@pytest.mark.parametrize(
    ("written", "time_s"),
    [
        ("2020-01-31T00:00:00Z", 1_580_428_800),
        ("2020-01-31T12:00:00+02:00", 1_580_464_800),
        ("1580428800", 1_580_428_800),
        ("2020-01-31T00:00:00.1Z", 1_580_428_801),
    ],
)
def test_guests_from_before_a_time_are_revoked(run: Run, written: str, time_s: int) -> None:
    run("init")

    assert answer(run("revoke", "--before", written, "--json"))["revoked_before"] == time_s
    assert "are revoked." in run("list").stdout
    assert run("revoke", "--before", str(time_s - 1)).exit_code == 1
    assert "in the future" in run("revoke", "--before", "2999-01-01T00:00:00Z").stderr
    assert answer(run("revoke", "--before", "now", "--json"))["revoked_before"] > time_s


@pytest.mark.parametrize(
    "arguments",
    [(), ("kid", "--before", "now"), ("--before", "some day"), ("--before", "20260131"), ("--before", "2020-01-31")],
)
def test_what_is_to_be_revoked_must_be_clear(run: Run, arguments: tuple[str, ...]) -> None:
    assert run("revoke", *arguments).exit_code == 2


def test_list_is_one_line_a_key_with_tabs_in_a_pipe(run: Run) -> None:
    run("init")
    run("rotate")
    title, *rows = run("list").stdout.splitlines()

    assert title.endswith("key, alg, state, signs from, until, safe to drop from")
    assert sorted(row.split("\t")[2] for row in rows) == ["active", "next"]
    assert [row.split("\t")[5] for row in rows] == ["-", "-"]


def test_a_backup_restores_the_keyring_and_joins_without_losing_a_key(run: Run, folder: Path) -> None:
    run("init")
    backup = run("export").stdout
    run("rotate", "--now")
    newer = (folder / "keyring.json").read_bytes()

    joined = run("import", "-", stdin=backup.encode())
    assert joined.stdout.startswith("0 keys came in")
    assert (folder / "keyring.json").read_bytes() == newer

    (folder / "keyring.json").unlink()
    assert run("import", "-", stdin=backup.encode()).exit_code == 0
    assert run("export").stdout == backup
    assert run("import", "-", stdin=newer).stdout.startswith("1 key came in; ")
    assert (folder / "keyring.json").read_bytes() == newer


def test_a_backup_as_json_is_one_line_in_a_pipe_and_the_same_keyring(run: Run) -> None:
    run("init")
    backup, line = run("export").stdout, run("export", "--json").stdout

    assert len(line.splitlines()) == 1
    assert json.loads(line) == json.loads(backup)
    assert run("import", "-", stdin=line.encode()).stdout.startswith("0 keys came in; ")


def test_a_backup_in_a_file_is_for_its_owner_alone(run: Run, tmp_path: Path) -> None:
    run("init")
    backup = tmp_path / "backup.json"
    backup.touch(mode=0o644)

    assert run("export", "-o", str(backup)).stdout == ""
    assert backup.stat().st_mode & 0o777 == 0o600
    assert backup.read_text() == run("export").stdout
    assert run("export", "-o", str(tmp_path / "no" / "folder")).exit_code == 2


def test_a_sealed_copy_of_the_file_is_a_backup_too(run: Run, folder: Path) -> None:
    secret = run("secret").stdout.strip()
    run("init", GUEST_KEYS_SECRET=secret)
    sealed = (folder / "keyring.json").read_bytes()
    assert is_sealed(sealed)
    (folder / "keyring.json").unlink()

    assert "no secret was given" in run("import", "-", stdin=sealed).stderr
    assert run("import", "-", stdin=sealed, GUEST_KEYS_SECRET=secret).exit_code == 0
    assert "not among those given" in run("list", GUEST_KEYS_SECRET=make_secret()).stderr


def test_another_deployments_keys_come_in_only_when_asked_for_and_never_sign(run: Run, tmp_path: Path) -> None:
    active = answer(run("init", "--json"))["active"]
    elsewhere = {"GUEST_KEYS_DIR": str(tmp_path / "elsewhere")}
    theirs = answer(run("init", "--json", **elsewhere))["active"]
    exported = run("export", **elsewhere).stdout.encode()

    refused = run("import", "-", stdin=exported)
    assert (refused.exit_code, "of deployment" in refused.stderr) == (1, True)
    assert answer(run("import", "--foreign", "--json", "-", stdin=exported))["active"] == active
    keys = {key["kid"]: key["state"] for key in answer(run("list", "--json"))["keys"]}
    assert keys == {active: "active", theirs: "retired"}
    assert run("import", "--foreign", "-", stdin=exported).stdout.startswith("0 keys came in")


@pytest.mark.parametrize("content", [b"", b"{}", b"something else"])
def test_what_is_no_keyring_is_not_imported(run: Run, content: bytes) -> None:
    result = run("import", "-", stdin=content)

    assert result.exit_code == 1
    assert "no keyring" in result.stderr


def test_a_key_whose_numbers_make_none_never_gets_into_the_keyring(run: Run, tmp_path: Path) -> None:
    run("init")
    elsewhere = {"GUEST_KEYS_DIR": str(tmp_path / "elsewhere")}
    run("init", **elsewhere)
    damaged = json.loads(run("export", **elsewhere).stdout)
    damaged["keys"][0]["x"] = "A" * 43

    result = run("import", "--foreign", "-", stdin=json.dumps(damaged).encode())
    assert (result.exit_code, "its numbers make no ES256 key" in result.stderr) == (1, True)
    assert states(run) == ["active"]


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_public_keys_are_a_jwks_or_pem_and_hold_nothing_private(run: Run, algorithm: str) -> None:
    run("init", GUEST_ALGORITHM=algorithm)
    jwks = answer(run("export", "--public"))
    pem = run("export", "--public", "--pem").stdout
    blocks = answer(run("export", "--public", "--pem", "--json"))["keys"]

    (key,) = jwks["keys"]
    assert not {"d", "p", "q", "dp", "dq", "qi"} & key.keys()
    assert pem.splitlines()[0] == key["kid"]
    assert load_pem_public_key(pem.encode()) == jwt.PyJWK(key).key
    assert load_pem_public_key(blocks[key["kid"]].encode()) == jwt.PyJWK(key).key
    assert run("export", "--pem").exit_code == 2


def test_a_follower_looks_but_never_writes(run: Run, redis: Server) -> None:
    secret = make_secret()
    shared = {"GUEST_REDIS_URL": f"unix://{redis.socket}", "GUEST_KEYS_SECRET": secret}
    follower = {**shared, "GUEST_KEYS_DIR": "none"}
    with redis.client() as client:
        client.flushall()
    assert "no keyring in Redis" in run("list", **follower).stderr

    made = answer(run("init", "--json", **shared))
    assert (made["redis"], made["problem"]) == ("ok", None)
    assert answer(run("list", "--json", **follower))["active"] == made["active"]
    refused = run("rotate", **follower)
    assert (refused.exit_code, "A follower" in refused.stderr) == (1, True)


def test_init_replaces_another_keyring_in_redis_when_asked(run: Run, redis: Server, folder: Path) -> None:
    secret = make_secret()
    shared = {"GUEST_REDIS_URL": f"unix://{redis.socket}", "GUEST_KEYS_SECRET": secret}
    with redis.client() as client:
        client.flushall()
    run("init", **shared)
    (folder / "keyring.json").unlink()
    left = answer(run("init", "--json", **shared))
    assert left["redis"] == "keyring_foreign"
    assert "A running keeper" not in left["problem"]
    forced = answer(run("init", "--replace", "--json", **shared))
    assert forced["ring"] == left["ring"]

    with redis.client() as client:
        sealed = client.get("guest-sessions:keyring")
    assert (forced["redis"], forced["problem"]) == ("ok", None)
    assert isinstance(sealed, bytes)
    assert forced["ring"].encode() in Sealer([secret]).open(sealed)


def test_redis_out_of_reach_is_told_and_stops_nothing(run: Run) -> None:
    run("init")
    result = run("rotate", GUEST_REDIS_URL="redis://:hunter2@127.0.0.1:1", GUEST_KEYS_SECRET=make_secret())

    assert result.exit_code == 0
    assert "is published" in result.stdout
    assert "cannot be reached" in result.stderr
    assert "hunter2" not in result.output


def test_faults_in_the_settings_are_all_told(run: Run) -> None:
    result = run("list", GUEST_KEYS_SECRET="short", GUEST_REDIS_URL="http://x")

    assert result.exit_code == 2
    assert "GUEST_KEYS_SECRET" in result.stderr
    assert "GUEST_REDIS_URL" in result.stderr


def test_a_date_past_the_calendars_end_is_shown_as_its_number(run: Run, tmp_path: Path) -> None:
    run("init")
    elsewhere = {"GUEST_KEYS_DIR": str(tmp_path / "elsewhere")}
    run("init", **elsewhere)
    run("rotate", "--now", **elsewhere)
    exported = json.loads(run("export", **elsewhere).stdout)
    for key in exported["keys"]:
        if key["activated_at"] == min(each["activated_at"] for each in exported["keys"]):
            key["retired_at"] = 9_007_199_254_740_991
    run("import", "--foreign", "-", stdin=json.dumps(exported).encode())

    assert "9007199254740991" in run("list").stdout


def test_the_list_says_what_seals_the_file(run: Run) -> None:
    first, other = make_secret(), make_secret()
    run("init")
    assert run("list").stdout.splitlines()[0].partition(", revision")[2].startswith(" 1, the file is in the clear")

    run("rotate", GUEST_KEYS_SECRET=first)
    listed = answer(run("list", "--json", GUEST_KEYS_SECRET=f"{other},{first}"))
    assert (listed["file_sealed_with"], listed["redis_sealed_with"], listed["notes"]) == ("other", None, [])


def test_the_list_names_damaged_keys_and_future_times(run: Run, folder: Path) -> None:
    run("init")
    run("rotate", "--now")
    document = json.loads((folder / "keyring.json").read_bytes())
    document["keys"][0]["x"] = "AAAA"
    document["keys"][1]["activated_at"] = 4_070_908_800
    (folder / "keyring.json").write_text(json.dumps(document))

    notes = answer(run("list", "--json"))["notes"]

    assert f"Key {document['keys'][0]['kid']} is damaged" in notes[0]
    assert notes[1] == f"Times in the future, from a clock that is or was wrong: {document['keys'][1]['kid']}."


def test_an_export_for_0_1_0_has_its_form(run: Run) -> None:
    run("init")
    document = answer(run("export", "--for", "0.1.0"))

    assert "version" not in document
    assert [key["state"] for key in document["keys"]] == ["active"]
    assert run("export", "--for", "0.2.0").exit_code == 2
    assert run("export", "--public", "--for", "0.1.0").exit_code == 2


def test_drop_says_what_it_forgot(run: Run, folder: Path) -> None:
    run("init")
    run("rotate", "--now")
    assert run("drop").stdout == "0 keys dropped.\n"
    document = json.loads((folder / "keyring.json").read_bytes())
    first = min(document["keys"], key=lambda key: key["activated_at"])
    for key in document["keys"]:
        key |= {"created_at": 1, "activated_at": key["activated_at"] - 10**9, "max_lifetime": 1}
    (folder / "keyring.json").write_text(json.dumps(document))

    assert run("drop").stdout == f"1 key dropped: {first['kid']}.\n"
    assert states(run) == ["active"]


def test_drop_says_that_a_revoked_key_stays(run: Run, folder: Path) -> None:
    run("init")
    [key] = json.loads((folder / "keyring.json").read_bytes())["keys"]
    run("revoke", key["kid"])

    assert run("drop").stdout == "0 keys dropped. Revoked keys stay on record.\n"
    assert sorted(states(run)) == ["active", "revoked"]


def test_without_redis_nothing_is_said_of_it(run: Run) -> None:
    run("init")

    assert "Redis" not in run("rotate").output


def test_a_new_key_follows_the_active_ones_algorithm(run: Run) -> None:
    run("init", GUEST_ALGORITHM="RS256", GUEST_RSA_BITS="2048")
    run("rotate")

    keys = answer(run("list", "--json"))["keys"]
    assert [key["alg"] for key in keys] == ["RS256", "RS256"]
