import base64
from pathlib import Path

import pytest

from service.config import NAMES, SAMPLES, Settings
from service.errors import InvalidSettings

SECRET = base64.urlsafe_b64encode(bytes(32)).decode()
KEY = "k" * 20
OFF_LOOPBACK = {"GUEST_HOST": "0.0.0.0", "GUEST_ISSUER": "https://guests.example", "GUEST_API_KEYS": KEY}  # noqa: S104


def faults(**variables: str) -> list[str]:
    """The variables at fault, in the order in which they are reported."""
    with pytest.raises(InvalidSettings) as caught:
        Settings.from_mapping(variables)
    return [fault.path for fault in caught.value.errors]


def message(**variables: str) -> str:
    with pytest.raises(InvalidSettings) as caught:
        Settings.from_mapping(variables)
    [fault] = caught.value.errors
    return fault.message


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = Settings.from_mapping({})

    assert (settings.hosts, settings.port, settings.workers) == (("127.0.0.1",), 8080, 1)
    assert settings.tokens.issuers == ("http://127.0.0.1:8080",)
    assert (settings.tokens.ttl_s, settings.tokens.max_ttl_s) == (315_360_000, 315_360_000)
    assert (settings.tokens.renew_after_s, settings.tokens.max_token_bytes) == (86_400, 3_800)
    assert (settings.tokens.audience, settings.tokens.audience_since_s) == ((), None)
    assert (settings.tokens.access_ttl_s, settings.gateway.access_audience) == (300, ())
    assert (settings.keys.algorithm, settings.keys.rotate_every_s, settings.keys.jwks_max_age_s) == ("ES256", 0, 300)
    assert settings.keys.rsa_bits == 3_072
    assert (settings.keys_dir, settings.redis_url, settings.keys_secrets) == (Path("data/keys"), None, ())
    assert (settings.keys_required, settings.redis_prefix) == (False, "guest-sessions:")
    assert (settings.cookie.names, settings.cookie.domain, settings.cookie.same_site) == (("guest",), None, "Lax")
    assert (settings.cookie.secure, settings.cookie.partitioned) == (False, False)
    assert settings.merge_policy == "default"
    assert (settings.gateway.ensure_on, settings.gateway.headers) == ("navigate", frozenset())
    assert (settings.max_body_bytes, settings.log_level, settings.log_format) == (262_144, "info", None)


def test_an_empty_variable_counts_as_absent() -> None:
    settings = Settings.from_mapping(dict.fromkeys(NAMES, ""))

    assert (settings.port, settings.unknown) == (8080, ())


def test_the_names_are_those_that_the_reader_asks_for() -> None:
    assert (NAMES[0], len(NAMES), len(set(NAMES))) == ("GUEST_HOST", 38, 38)


def test_the_issuer_follows_host_and_port() -> None:
    assert Settings.from_mapping({"GUEST_HOST": "::1", "GUEST_PORT": "81"}).tokens.issuers == ("http://[::1]:81",)


def test_several_issuers_are_accepted_and_the_first_signs() -> None:
    settings = Settings.from_mapping({"GUEST_ISSUER": "https://new.example, https://old.example"})

    assert settings.tokens.issuers == ("https://new.example", "https://old.example")
    assert settings.access.allowed_origins == {"https://new.example", "https://old.example"}


def test_every_fault_is_named_at_once() -> None:
    named = faults(
        GUEST_PORT="http",
        GUEST_WORKERS="0",
        GUEST_ISSUER="guests",
        GUEST_AUDIENCE="a,,b",
        GUEST_AUDIENCE_SINCE="20260131",
        GUEST_ALGORITHM="HS256",
        GUEST_RSA_BITS="1024",
        GUEST_ACCESS_TTL="3601",
        GUEST_ACCESS_AUDIENCE="a,",
        GUEST_KEYS_REQUIRED="yes",
        GUEST_REDIS_PREFIX="shop one:",
        GUEST_COOKIE_PARTITIONED="on",
        GUEST_MERGE_POLICY="nonesuch",
        GUEST_TTL="-1",
        GUEST_MAX_TTL="1e9",
        GUEST_RENEW_AFTER="0",
        GUEST_MAX_TOKEN_BYTES="99999",
        GUEST_MAX_BODY_BYTES="1",
        GUEST_KEYS_SECRET="short",
        GUEST_API_KEYS="short",
        GUEST_ALLOW_NO_API_KEYS="yes",
        GUEST_REDIS_URL="http://redis",
        GUEST_ROTATE_EVERY="x",
        GUEST_JWKS_MAX_AGE="0",
        GUEST_COOKIE_NAME="a b",
        GUEST_COOKIE_DOMAIN="exa mple",
        GUEST_COOKIE_SAMESITE="lax",
        GUEST_ENSURE_ON="always",
        GUEST_AUTH_HEADERS="everything",
        GUEST_MERGE_POLICIES="/nonexistent/policies.json",
        GUEST_RATE_LIMIT="nan",
        GUEST_TRUSTED_PROXIES="10.0.0.1/8",
        GUEST_LOG_LEVEL="loud",
        GUEST_LOG_FORMAT="xml",
    )

    assert len(named) == len(set(named)) == 34


def test_off_loopback_an_issuer_and_a_key_are_demanded() -> None:
    assert faults(GUEST_HOST="0.0.0.0") == ["GUEST_ISSUER", "GUEST_API_KEYS"]  # noqa: S104
    assert faults(GUEST_HOST="guests.internal") == ["GUEST_ISSUER", "GUEST_API_KEYS"]
    assert Settings.from_mapping(OFF_LOOPBACK).access.api_keys == (KEY,)


def test_an_operator_may_say_that_the_network_is_the_guard() -> None:
    settings = Settings.from_mapping({**OFF_LOOPBACK, "GUEST_API_KEYS": "", "GUEST_ALLOW_NO_API_KEYS": "1"})

    assert settings.access.api_keys == ()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_needs_neither(host: str) -> None:
    assert Settings.from_mapping({"GUEST_HOST": host}).hosts == (host,)


def test_a_free_port_needs_an_issuer() -> None:
    assert faults(GUEST_PORT="0") == ["GUEST_ISSUER"]


def test_a_default_lifetime_may_not_pass_the_longest() -> None:
    assert faults(GUEST_TTL="61", GUEST_MAX_TTL="60") == ["GUEST_TTL"]
    assert Settings.from_mapping({"GUEST_MAX_TTL": "60"}).tokens.ttl_s == 60


def test_a_secret_may_have_padding_or_not_and_there_may_be_several() -> None:
    secrets = Settings.from_mapping({"GUEST_KEYS_SECRET": f"{SECRET}, {SECRET[:-2]}E"}).keys_secrets

    assert secrets == (SECRET, SECRET[:-2] + "E=")


def test_a_faulty_secret_or_key_is_never_repeated() -> None:
    assert "hunter2" not in message(GUEST_KEYS_SECRET="hunter2")
    assert "hunter2" not in message(GUEST_API_KEYS="hunter2")
    assert "hunter2" not in repr(Settings.from_mapping({"GUEST_API_KEYS": "hunter2" * 4}))
    assert "hunter2" not in repr(Settings.from_mapping({"GUEST_API_KEYS": "hunter2" * 4}).access)


@pytest.mark.parametrize(
    ("secret", "good"),
    [("A" * 43, True), ("A" * 43 + "=", True), ("A" * 42, False), ("A" * 44, False), ("+" * 43, False)],
)
def test_a_secret_is_32_bytes_as_base64url(secret: str, good: bool) -> None:  # noqa: FBT001
    if good:
        assert len(Settings.from_mapping({"GUEST_KEYS_SECRET": secret}).keys_secrets) == 1
    else:
        assert faults(GUEST_KEYS_SECRET=secret) == ["GUEST_KEYS_SECRET"]


def test_secrets_and_keys_come_from_files_as_well(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "keys").write_text(f"# shop\n{KEY}\n\n  {KEY}2\n")

    settings = Settings.from_mapping(
        {"GUEST_KEYS_SECRET_FILE": str(tmp_path / "secret"), "GUEST_API_KEYS_FILE": str(tmp_path / "keys")}
    )

    assert (settings.keys_secrets, settings.access.api_keys) == ((SECRET,), (KEY, KEY + "2"))


def test_files_that_hold_nothing_or_cannot_be_read_are_faults(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# nothing\n")
    (tmp_path / "bytes").write_bytes(b"\xff")
    (tmp_path / "commas").write_text(f"# two\n{KEY},{KEY}2\n")

    assert message(GUEST_API_KEYS_FILE=str(tmp_path / "empty")) == "holds no key"
    assert message(GUEST_API_KEYS_FILE=str(tmp_path / "bytes")) == "is not UTF-8 text"
    assert message(GUEST_API_KEYS_FILE=str(tmp_path / "commas")) == "line 2 has a comma: a file has one key a line"
    assert message(GUEST_KEYS_SECRET_FILE=str(tmp_path / "none")).startswith("cannot be read: ")
    assert faults(GUEST_API_KEYS=KEY, GUEST_API_KEYS_FILE=str(tmp_path / "none"))[0] == "GUEST_API_KEYS"


def test_redis_needs_a_secret_and_a_follower_needs_redis() -> None:
    assert faults(GUEST_REDIS_URL="redis://localhost") == ["GUEST_KEYS_SECRET"]
    assert faults(GUEST_KEYS_DIR="none") == ["GUEST_REDIS_URL"]
    follower = {"GUEST_KEYS_DIR": "none", "GUEST_REDIS_URL": "redis://localhost", "GUEST_KEYS_SECRET": SECRET}
    assert Settings.from_mapping(follower).keys_dir is None


@pytest.mark.parametrize(
    "url", ["redis://a", "rediss://a", "unix:///run/redis.sock", "redis+sentinel://a,b/main", "redis+cluster://a,b"]
)
def test_every_form_of_redis_is_taken(url: str) -> None:
    assert Settings.from_mapping({"GUEST_REDIS_URL": url, "GUEST_KEYS_SECRET": SECRET}).redis_url == url


def test_an_https_issuer_makes_the_cookie_secure_and_host_bound() -> None:
    cookie = Settings.from_mapping({"GUEST_ISSUER": "https://guests.example"}).cookie
    wide = Settings.from_mapping({"GUEST_ISSUER": "https://a.example", "GUEST_COOKIE_DOMAIN": ".A.example"}).cookie

    assert (cookie.names, cookie.secure) == (("__Host-guest",), True)
    assert (wide.names, wide.domain) == (("guest",), "a.example")


def test_a_cookie_that_browsers_would_drop_is_refused() -> None:
    https = "https://guests.example"

    assert faults(GUEST_COOKIE_NAME="__Host-g") == ["GUEST_COOKIE_NAME"]
    assert faults(GUEST_COOKIE_NAME="__secure-g") == ["GUEST_COOKIE_NAME"]
    assert faults(GUEST_ISSUER=https, GUEST_COOKIE_NAME="__Host-g", GUEST_COOKIE_DOMAIN="a.b") == ["GUEST_COOKIE_NAME"]
    assert faults(GUEST_COOKIE_SAMESITE="None") == ["GUEST_COOKIE_SAMESITE"]
    assert Settings.from_mapping({"GUEST_ISSUER": https, "GUEST_COOKIE_NAME": "__Secure-g"}).cookie.names == (
        "__Secure-g",
    )


def test_a_rate_limit_needs_trusted_proxies_off_loopback() -> None:
    limited = {**OFF_LOOPBACK, "GUEST_RATE_LIMIT": "2.5"}

    assert faults(**limited) == ["GUEST_TRUSTED_PROXIES"]
    assert Settings.from_mapping({"GUEST_RATE_LIMIT": "2.5"}).gateway.rate_limit_per_s == 2.5
    assert (
        len(Settings.from_mapping({**limited, "GUEST_TRUSTED_PROXIES": "10.0.0.0/8, fd00::/8"}).gateway.trusted_proxies)
        == 2
    )


@pytest.mark.parametrize(
    "issuer",
    [
        *("guests", "ftp://a.example", "https://", "https://a.example?x", "https://a.example#x", "https://u@a.example"),
        *("http://a.example:65536", "http://a.example:x", "http://a.example:0"),
        *("HTTPS://a.example", "Http://a.example", "https:a.example", "https:///a.example"),
        *(
            "https://a.example?",
            "https://a.example/#",
            "https://@a.example",
            "https://:@a.example",
            "https://a.example/@u",
        ),
    ],
)
def test_an_issuer_is_an_address(issuer: str) -> None:
    assert faults(GUEST_ISSUER=issuer) == ["GUEST_ISSUER"]


@pytest.mark.parametrize(
    ("issuer", "origin"),
    [
        ("https://A.example:443", "https://a.example"),
        ("https://a.example:/guests", "https://a.example"),
        ("https://a.example:0443", "https://a.example"),
        ("https://a.example:80", "https://a.example:80"),
        ("http://a.example:80/guests", "http://a.example"),
        ("http://a.example:443", "http://a.example:443"),
        ("https://[2001:DB8::443]:443", "https://[2001:db8::443]"),
        ("https://[2001:db8::443]", "https://[2001:db8::443]"),
    ],
)
def test_the_origin_of_an_issuer_is_the_one_that_a_browser_states(issuer: str, origin: str) -> None:
    assert Settings.from_mapping({"GUEST_ISSUER": issuer}).access.allowed_origins == {origin}


def test_a_rotation_too_fast_for_the_jwks_is_refused() -> None:
    assert faults(GUEST_ROTATE_EVERY="60") == ["GUEST_ROTATE_EVERY"]
    assert Settings.from_mapping({"GUEST_ROTATE_EVERY": "7776000"}).keys.rotate_every_s == 7_776_000


def test_named_policies_come_from_a_file_beside_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"wishes": {"rules": {"/wishes": "union"}}}')
    (tmp_path / "p.toml").write_text('[wishes.rules]\n"/wishes" = "union"\n')

    for name in ("p.json", "p.toml"):
        policies = Settings.from_mapping({"GUEST_MERGE_POLICIES": str(tmp_path / name)}).merge_policies
        assert {"default", "cart", "wishes"} <= set(policies)


def test_each_fault_of_a_policy_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"a": {"default": "nope"}, "b": {"colour": 1}}')

    assert faults(GUEST_MERGE_POLICIES=str(tmp_path / "p.json")) == ["GUEST_MERGE_POLICIES"] * 2


def test_names_that_are_none_of_ours_are_reported_and_not_refused() -> None:
    # Kubernetes sets such names for a service called "guest".
    assert Settings.from_mapping({"GUEST_SERVICE_HOST": "10.0.0.1", "PATH": "/bin"}).unknown == ("GUEST_SERVICE_HOST",)


@pytest.mark.parametrize("host", [":", "[", "[::1]", "a b", "http://x", "-", "1::2::3", "x" * 255, "a/b", "é"])
def test_a_host_that_is_none_is_a_fault(host: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        Settings.from_mapping({"GUEST_HOST": host})

    assert [fault.path for fault in caught.value.errors] == ["GUEST_HOST"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_an_address_or_a_name_is_a_host(host: str) -> None:
    assert Settings.from_mapping({"GUEST_HOST": host}).hosts == (host,)


def test_several_hosts_are_taken_and_the_first_names_the_issuer() -> None:
    settings = Settings.from_mapping({"GUEST_HOST": "127.0.0.1, ::1,127.0.0.1"})

    assert (settings.hosts, settings.tokens.issuers) == (("127.0.0.1", "::1"), ("http://127.0.0.1:8080",))


def test_one_host_beyond_loopback_is_enough_to_demand_a_guard() -> None:
    assert faults(GUEST_HOST="127.0.0.1,0.0.0.0") == ["GUEST_ISSUER", "GUEST_API_KEYS"]
    assert faults(GUEST_HOST="127.0.0.1,") == ["GUEST_HOST"]
    several = {**OFF_LOOPBACK, "GUEST_HOST": "::1,0.0.0.0", "GUEST_RATE_LIMIT": "1"}
    assert faults(**several) == ["GUEST_TRUSTED_PROXIES"]


@pytest.mark.parametrize(
    ("text", "since_s"),
    [
        ("1767225600", 1_767_225_600),
        ("2026-01-01T00:00:00Z", 1_767_225_600),
        ("2026-01-01t01:30:00.5+01:30", 1_767_225_600.5),
    ],
    ids=["unix", "utc", "offset"],
)
def test_a_time_is_rfc_3339_or_ten_digits(text: str, since_s: float) -> None:
    assert Settings.from_mapping({"GUEST_AUDIENCE_SINCE": text}).tokens.audience_since_s == since_s


@pytest.mark.parametrize(
    "text", ["20260131", "2026-01-31", "2026-01-31T00:00:00", "2026-02-30T00:00:00Z", "yesterday", "-1767225600"]
)
def test_what_could_be_meant_as_another_time_is_refused(text: str) -> None:
    assert faults(GUEST_AUDIENCE_SINCE=text) == ["GUEST_AUDIENCE_SINCE"]


def test_the_first_cookie_name_is_set_and_meets_its_prefix() -> None:
    https = "https://guests.example"

    names = Settings.from_mapping({"GUEST_ISSUER": https, "GUEST_COOKIE_NAME": "__Host-g, guest"}).cookie.names
    moved = Settings.from_mapping({"GUEST_COOKIE_NAME": "guest,__Host-g"}).cookie.names

    assert (names, moved) == (("__Host-g", "guest"), ("guest", "__Host-g"))
    assert faults(GUEST_COOKIE_NAME="__Host-g,guest") == ["GUEST_COOKIE_NAME"]
    assert faults(GUEST_COOKIE_NAME="guest,,old") == ["GUEST_COOKIE_NAME"]


def test_a_partitioned_cookie_needs_secure_and_samesite_none() -> None:
    https = "https://guests.example"
    partitioned = {"GUEST_ISSUER": https, "GUEST_COOKIE_SAMESITE": "None", "GUEST_COOKIE_PARTITIONED": "1"}

    assert Settings.from_mapping(partitioned).cookie.partitioned is True
    assert faults(GUEST_COOKIE_PARTITIONED="1") == ["GUEST_COOKIE_PARTITIONED"]
    assert faults(GUEST_COOKIE_PARTITIONED="1", GUEST_ISSUER=https) == ["GUEST_COOKIE_PARTITIONED"]


def test_the_access_header_needs_an_audience() -> None:
    given = {"GUEST_AUTH_HEADERS": "payload,access", "GUEST_ACCESS_AUDIENCE": "cart, search"}

    gateway = Settings.from_mapping(given).gateway

    assert sorted(gateway.headers) == ["access", "payload"]
    assert gateway.access_audience == ("cart", "search")
    assert faults(GUEST_AUTH_HEADERS="access") == ["GUEST_ACCESS_AUDIENCE"]


def test_the_default_policy_may_come_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text('{"wishes": {"rules": {"/wishes": "union"}}}')
    (tmp_path / "bad.json").write_text('{"wishes": {"default": "nope"}}')

    settings = Settings.from_mapping(
        {"GUEST_MERGE_POLICIES": str(tmp_path / "good.json"), "GUEST_MERGE_POLICY": "wishes"}
    )

    assert settings.merge_policy == "wishes"
    assert message(GUEST_MERGE_POLICY="wishes").startswith("names no merge policy; there are: cart, default, ")
    assert faults(GUEST_MERGE_POLICIES=str(tmp_path / "bad.json"), GUEST_MERGE_POLICY="wishes") == [
        "GUEST_MERGE_POLICIES"
    ]


@pytest.mark.parametrize("spelling", ["", "4", "5=", "6", "7="], ids=["as-published", "bare", "5", "6", "7"])
def test_the_samples_are_refused_under_a_public_issuer(tmp_path: Path, spelling: str) -> None:
    sample = SAMPLES["GUEST_KEYS_SECRET"]
    secret = sample if not spelling else sample[:42] + spelling
    samples = {"GUEST_KEYS_SECRET": f"{SECRET},{secret}", "GUEST_API_KEYS": f"{KEY},{SAMPLES['GUEST_API_KEYS']}"}
    (tmp_path / "secret").write_text(samples["GUEST_KEYS_SECRET"])
    (tmp_path / "keys").write_text(samples["GUEST_API_KEYS"].replace(",", "\n"))
    files = {"GUEST_KEYS_SECRET_FILE": str(tmp_path / "secret"), "GUEST_API_KEYS_FILE": str(tmp_path / "keys")}

    assert faults(GUEST_ISSUER="https://guests.example", **samples) == list(samples)
    assert faults(GUEST_ISSUER="https://guests.example", **files) == list(files)
    assert len(Settings.from_mapping({"GUEST_ISSUER": "https://localhost", **files}).keys_secrets) == 2
