"""The container engine's files, read as they are; no engine is needed."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.config import SAMPLES, Settings
from service.errors import InvalidSettings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
INSTRUCTIONS = [line.split(" ", 1) for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
FINAL_STAGE = INSTRUCTIONS[max(i for i, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM") :]


def final(name: str) -> list[str]:
    return [argument for instruction, argument in FINAL_STAGE if instruction == name]


def sample_settings() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def demanded_variables() -> dict[str, str]:
    """Each variable that compose refuses to start without, with what it then says."""
    values = [str(value) for service in SERVICES.values() for value in service.get("environment", {}).values()]
    return {match[1]: match[2] for value in values if (match := re.fullmatch(r"\$\{(\w+):\?(.+)\}", value))}


def test_the_image_comes_from_the_slim_python_alone_and_names_no_syntax() -> None:
    assert {argument.split()[0] for name, argument in INSTRUCTIONS if name == "FROM"} == {"python:3.13-slim"}
    assert "# syntax" not in DOCKERFILE


def test_the_image_runs_as_a_user_of_a_fixed_number_that_is_not_root() -> None:
    [user] = final("USER")

    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)


@pytest.mark.parametrize(
    ("instruction", "words"),
    [
        ("ENTRYPOINT", ["guest-sessions"]),
        ("CMD", ["serve"]),
        ("HEALTHCHECK", ["guest-sessions", "healthcheck"]),
        ("VOLUME", ["/data/keys"]),
    ],
)
def test_the_image_starts_checks_and_keeps_in_exec_form(instruction: str, words: list[str]) -> None:
    [argument] = final(instruction)

    assert json.loads(argument[argument.index("[") :]) == words


def test_the_image_is_checked_seldom_and_in_words_that_every_builder_knows() -> None:
    [argument] = final("HEALTHCHECK")
    options = dict(re.findall(r"--(\S+?)=(\S+)", argument))

    assert options.keys() == {"interval", "timeout", "start-period", "retries"}
    assert int(options["interval"].removesuffix("s")) >= 30
    assert "healthcheck" not in SERVICES["guest-sessions"], "the image's own holds"


def test_nothing_is_installed_but_by_hash() -> None:
    installs = [argument for name, argument in INSTRUCTIONS if name == "RUN" and '"install"' in argument]
    unpinned = [
        argument
        for argument in installs
        if not {"--require-hashes", "--only-binary=:all:"} <= set(json.loads(argument))
        # The project itself, made in the line before, with no index to go to.
        and "--no-index" not in json.loads(argument)
    ]

    assert len(installs) == 3
    assert unpinned == []


def test_every_locked_package_has_its_hashes_and_no_index_is_named() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        logical_lines = re.sub(r"\\\n\s*", "", lock.read_text(encoding="utf-8")).splitlines()
        packages = [line for line in logical_lines if line and not line.lstrip().startswith("#")]

        assert packages
        assert [line for line in packages if not re.match(r"[a-z0-9.-]+==\S+ .*--hash=sha256:", line)] == []
        assert "://" not in lock.read_text(encoding="utf-8")


def test_the_final_stage_builds_nothing() -> None:
    tools = re.compile(r"\b(pip3? install|apt-get|apk|gcc|make|curl)\b")

    assert [argument for argument in final("RUN") if tools.search(argument)] == []
    assert "pip uninstall" in final("RUN")[0]


def test_what_goes_into_the_build_is_named_one_by_one() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        word.split("/")[0]
        for name, argument in INSTRUCTIONS
        if name == "COPY" and "--from" not in argument
        for word in shlex.split(argument)[:-1]
    }

    assert rules[0] == "*"
    assert let_in == copied
    assert [name for name in let_in if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_can_take_the_whole_machine(name: str) -> None:
    assert re.fullmatch(r"\d+m", SERVICES[name]["mem_limit"])
    assert 0 < SERVICES[name]["pids_limit"] <= 128


@pytest.mark.parametrize("name", SERVICES)
def test_each_container_can_write_nowhere_and_may_nothing(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "cap_add" not in service


def test_the_service_waits_for_a_healthy_redis() -> None:
    assert SERVICES["guest-sessions"]["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert SERVICES["redis"]["healthcheck"]["test"] == ["CMD", "redis-cli", "ping"]


def test_redis_keeps_nothing_and_nothing_but_the_service_reaches_it() -> None:
    redis = SERVICES["redis"]
    options = dict(zip(redis["command"][1::2], redis["command"][2::2], strict=True))

    assert redis["image"] == "redis:8"
    assert (options["--save"], options["--appendonly"]) == ("", "no")
    assert "volumes" not in redis
    assert "ports" not in redis
    assert redis["networks"] == ["cache"]
    assert COMPOSE["networks"]["cache"] == {"internal": True}


def test_the_keyring_lies_on_a_volume_that_all_replicas_share() -> None:
    service = SERVICES["guest-sessions"]

    assert service["volumes"] == ["keys:/data/keys"]
    assert service["environment"]["GUEST_KEYS_DIR"] == "/data/keys"
    assert "keys" in COMPOSE["volumes"]
    assert "container_name" not in service


def test_replicas_take_a_range_of_ports_on_the_loopback_address() -> None:
    [ports] = SERVICES["guest-sessions"]["ports"]
    [(first, last)] = re.findall(r":-(\d+)-(\d+)\}", ports)

    assert ports.startswith("127.0.0.1:")
    assert ports.endswith(":8080")
    assert int(last) > int(first)


def test_each_secret_that_is_missing_is_reported_with_what_to_do() -> None:
    demanded = demanded_variables()

    assert set(demanded) == {"GUEST_ISSUER", "GUEST_API_KEYS", "GUEST_KEYS_SECRET"}
    assert [name for name, message in demanded.items() if "cp .env.example .env" not in message] == []


def in_the_container(issuer: str) -> dict[str, str]:
    """The variables that compose gives the service, out of the sample settings."""
    fixed = {
        name: value for name, value in SERVICES["guest-sessions"]["environment"].items() if not value.startswith("$")
    }
    given = {name: value for name, value in sample_settings().items() if name.startswith("GUEST_")}
    return {**given, **fixed, "GUEST_ISSUER": issuer}


def test_the_sample_settings_suffice_to_start() -> None:
    assert set(demanded_variables()) <= set(sample_settings())

    made = Settings.from_mapping(in_the_container(sample_settings()["GUEST_ISSUER"]))

    assert (made.hosts, made.port, made.keys_dir) == (("0.0.0.0",), 8080, Path("/data/keys"))  # noqa: S104  # as the image does
    assert made.access.api_keys
    assert made.keys_secrets
    assert made.unknown == ()


def test_the_sample_secrets_are_refused_where_others_are_served() -> None:
    with pytest.raises(InvalidSettings) as refused:
        Settings.from_mapping(in_the_container("https://guests.example.com"))

    assert {fault.path for fault in refused.value.errors} == {"GUEST_API_KEYS", "GUEST_KEYS_SECRET"}
    assert SAMPLES.keys() == {"GUEST_API_KEYS", "GUEST_KEYS_SECRET"}
