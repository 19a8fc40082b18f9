"""The README does what it says: its commands are run against a live service, its outputs and tables compared."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service import config
from service.config import Settings
from service.merge.presets import SHIPPED
from tests.live import environment, served

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
ADDRESS = "127.0.0.1:8080"
FRESH = frozenset(
    [
        "token",
        "subject",
        "token_id",
        "key_id",
        "issued_at",
        "first_issued_at",
        "expires_at",
        "expires_in",
        "bytes",
        "cookie_bytes_left",
        "kid",
        "x",
        "y",
    ]
)
"""Members whose values are new every time; of these only the type is compared."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def documents(text: str) -> list[Any]:
    """Every JSON value of a text that holds several, one after the other."""
    found, rest = [], text.strip()
    while rest:
        value, end = json.JSONDecoder().raw_decode(rest)
        found.append(value)
        rest = rest[end:].strip()
    return found


def likeness(value: Any, name: str = "") -> Any:
    """The value with the parts that are new every time replaced by their type."""
    if name in FRESH:
        return type(value).__name__
    if name == "merged_guests":
        return [[type(each).__name__ for each in receipt] for receipt in value]
    if isinstance(value, dict):
        return {member: likeness(each, member) for member, each in value.items()}
    return [likeness(each) for each in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the service listens that `make run` would start, on a free port and with a fresh keyring."""
    with served(tmp_path_factory.mktemp("readme")) as found:
        yield found


@pytest.fixture(scope="module")
def printed(address: str) -> list[str]:
    """What each block of the walk-through prints, and last the guest's token."""
    mark = "====="
    script = f"echo {mark}\n".join([*blocks("bash"), "echo $TOKEN"])
    done = subprocess.run(  # noqa: S603  # the README's own words
        ["bash", "-euo", "pipefail", "-c", script.replace(ADDRESS, address)],  # noqa: S607  # as a reader would
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split(mark)


def test_the_walk_through_prints_what_it_says(printed: list[str]) -> None:
    documented = blocks("json")

    assert len(documented) == len(printed) - 1 == 2
    for text, output in zip(documented, printed[:-1], strict=True):
        assert [likeness(each) for each in documents(output)] == [likeness(each) for each in documents(text)]


def test_the_python_snippet_verifies_a_token_offline(printed: list[str], address: str, tmp_path: Path) -> None:
    [snippet] = blocks("python")
    script = tmp_path / "verify.py"
    script.write_text(snippet.replace(ADDRESS, address), encoding="utf-8")
    token = printed[-1].strip()

    done = subprocess.run(  # noqa: S603  # the README's own words
        [sys.executable, script, token], env=environment(), capture_output=True, text=True, timeout=60, check=True
    )

    assert re.fullmatch(r"G-[0-9a-f-]{36} 2 \{'cart': \[.*'EUR'\}\n", done.stdout)


def test_the_python_snippet_refuses_a_forged_token(printed: list[str], address: str, tmp_path: Path) -> None:
    [snippet] = blocks("python")
    script = tmp_path / "verify.py"
    script.write_text(snippet.replace(ADDRESS, address), encoding="utf-8")
    head, body, _ = printed[-1].strip().split(".")

    done = subprocess.run(  # noqa: S603  # the README's own words
        [sys.executable, script, f"{head}.{body}.{'A' * 86}"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "InvalidSignatureError" in done.stderr


def settings_table() -> dict[str, str]:
    """Each setting of the table in docs/settings.md with its default as it stands there."""
    return dict(re.findall(r"^\| `(GUEST_\w+)` \| (.*?) \|", SETTINGS, re.MULTILINE))


def test_the_table_names_every_setting_and_no_other() -> None:
    assert sorted(settings_table()) == sorted(config.NAMES)


def test_the_defaults_of_the_table_are_those_of_the_code() -> None:
    made = Settings.from_mapping({})
    defaults = {name: re.sub(r"`", "", default) for name, default in settings_table().items()}

    assert defaults == {
        "GUEST_HOST": ", ".join(made.hosts),
        "GUEST_PORT": str(made.port),
        "GUEST_WORKERS": str(made.workers),
        "GUEST_ISSUER": made.tokens.issuers[0].replace(made.hosts[0], "HOST").replace(str(made.port), "PORT"),
        "GUEST_AUDIENCE": _shown(made.tokens.audience),
        "GUEST_AUDIENCE_SINCE": _shown(made.tokens.audience_since_s),
        "GUEST_RSA_BITS": str(made.keys.rsa_bits),
        "GUEST_KEYS_REQUIRED": str(int(made.keys_required)),
        "GUEST_REDIS_PREFIX": made.redis_prefix,
        "GUEST_COOKIE_PARTITIONED": str(int(made.cookie.partitioned)),
        "GUEST_ACCESS_TTL": str(made.tokens.access_ttl_s),
        "GUEST_ACCESS_AUDIENCE": _shown(made.gateway.access_audience),
        "GUEST_MERGE_POLICY": made.merge_policy,
        "GUEST_ALGORITHM": made.keys.algorithm,
        "GUEST_TTL": str(made.tokens.ttl_s),
        "GUEST_MAX_TTL": str(made.tokens.max_ttl_s),
        "GUEST_RENEW_AFTER": str(made.tokens.renew_after_s),
        "GUEST_MAX_TOKEN_BYTES": str(made.tokens.max_token_bytes),
        "GUEST_MAX_BODY_BYTES": str(made.max_body_bytes),
        "GUEST_API_KEYS": _shown(made.access.api_keys),
        "GUEST_API_KEYS_FILE": _shown(made.access.api_keys_file),
        "GUEST_ALLOW_NO_API_KEYS": "0",
        "GUEST_KEYS_DIR": f"./{made.keys_dir}",
        "GUEST_KEYS_SECRET": _shown(made.keys_secrets),
        "GUEST_KEYS_SECRET_FILE": _shown(made.keys_secrets),
        "GUEST_REDIS_URL": _shown(made.redis_url),
        "GUEST_ROTATE_EVERY": str(made.keys.rotate_every_s),
        "GUEST_JWKS_MAX_AGE": str(made.keys.jwks_max_age_s),
        "GUEST_COOKIE_NAME": ", ".join(made.cookie.names),
        "GUEST_COOKIE_DOMAIN": _shown(made.cookie.domain),
        "GUEST_COOKIE_SAMESITE": made.cookie.same_site,
        "GUEST_ENSURE_ON": made.gateway.ensure_on,
        "GUEST_AUTH_HEADERS": _shown(made.gateway.headers),
        "GUEST_MERGE_POLICIES": "none" if set(made.merge_policies) == set(SHIPPED) else "some",
        "GUEST_RATE_LIMIT": f"{made.gateway.rate_limit_per_s:g}",
        "GUEST_TRUSTED_PROXIES": _shown(made.gateway.trusted_proxies),
        "GUEST_LOG_LEVEL": made.log_level,
        "GUEST_LOG_FORMAT": _shown(made.log_format),
    }


def _shown(value: object) -> str:
    return str(value) if value else "none"
