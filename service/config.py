"""The settings: one frozen value from a mapping of `GUEST_…` variables, with every fault reported at once.

Owns the names, defaults and ranges of the settings, and the rules that keep a start safe. It does not read the
environment itself; a file that a variable names is read through `read_file`. The settings are grouped into the policies
of the modules that they are for, so that no other module depends on all of them.
"""

import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, ip_network
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from service.errors import Fault, InvalidPolicy, InvalidSettings
from service.http.auth import ApiKeyPolicy, is_loopback, parse_api_key_list, parse_api_keys_file, web_origin
from service.http.cookies import CookiePolicy, SameSite
from service.http.forward_auth import ForwardAuthPolicy
from service.http.rate_limit import Network
from service.keys.encryption import parse_secrets
from service.keys.keyring import KeyPolicy
from service.keys.rotation import least_rotation_s
from service.keys.signer import MAX_TOKEN_BYTES
from service.merge.policy import Policy
from service.merge.policy_parser import parse_policy_file
from service.merge.presets import SHIPPED
from service.strict_json import parse_rfc3339
from service.tokens.service import TokenPolicy

T = TypeVar("T")
U = TypeVar("U")

TEN_YEARS_S: Final = 315_360_000
LONGEST_DIGITS: Final = 19
LONGEST_TTL_S: Final = 10 * TEN_YEARS_S
"""A century: far beyond any use, and `exp` stays exact in every verifier."""

SAMPLES: Final = {
    "GUEST_API_KEYS": "sample-api-key-not-for-production",
    "GUEST_KEYS_SECRET": "c2FtcGxlLXNlY3JldC1ub3QtZm9yLXByb2R1Y3Rpb24=",
}
"""What `.env.example` has, so that everybody knows it: taken only where the issuers are this machine."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set. Made by `from_mapping` alone."""

    hosts: tuple[str, ...]
    port: int
    workers: int
    tokens: TokenPolicy
    keys: KeyPolicy
    keys_dir: Path | None
    keys_secrets: tuple[str, ...]
    keys_required: bool
    redis_url: str | None
    redis_prefix: str
    cookie: CookiePolicy
    gateway: ForwardAuthPolicy
    access: ApiKeyPolicy
    merge_policies: Mapping[str, Policy]
    merge_policy: str
    max_body_bytes: int
    log_level: str
    log_format: Literal["text", "json"] | None
    unknown: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Settings(hosts={self.hosts!r}, port={self.port}, issuers={self.tokens.issuers!r})"

    @classmethod
    def from_mapping(
        cls, variables: Mapping[str, str], *, read_file: Callable[[Path], bytes] = Path.read_bytes
    ) -> "Settings":
        """Reads and checks all settings; an empty variable counts as absent.

        Raises:
            InvalidSettings: with every fault, each under its variable's name.
        """
        reader = _Reader(variables, read_file)
        settings = _read(reader)
        if reader.faults:
            raise InvalidSettings("The settings have faults.", reader.faults)
        return settings


class _Reader:
    """Reads variables one at a time, and records the names that were read and the faults that were found."""

    def __init__(self, variables: Mapping[str, str], read_file: Callable[[Path], bytes] = Path.read_bytes) -> None:
        self.variables = variables
        self.read_file = read_file
        self.names: dict[str, None] = {}  # a set that keeps the order
        self.faults: list[Fault] = []

    def fault(self, name: str, message: str) -> None:
        self.faults.append(Fault(name, message))

    def text(self, name: str) -> str | None:
        self.names[name] = None
        return self.variables.get(name, "").strip() or None

    def parsed(self, name: str, parse: Callable[[str], T], default: U) -> T | U:
        """The variable through `parse`, whose ValueError is the fault's message."""
        text = self.text(name)
        if text is None:
            return default
        try:
            return parse(text)
        except ValueError as error:
            self.fault(name, str(error))
            return default

    def matched(self, name: str, pattern: str, message: str, default: T) -> str | T:
        """The variable, which must match the whole pattern."""

        def parse(text: str) -> str:
            if re.fullmatch(pattern, text) is None:
                raise ValueError(message)
            return text

        return self.parsed(name, parse, default)

    def listed(
        self, name: str, default: tuple[str, ...] = (), *, pattern: str = ".+", message: str = ""
    ) -> tuple[str, ...]:
        """The different entries of the variable, each of which must match the whole pattern."""

        def parse(text: str) -> tuple[str, ...]:
            parts = [part.strip() for part in text.split(",")]
            if not all(parts):
                raise ValueError("has an empty entry")
            if not all(re.fullmatch(pattern, part) for part in parts):
                raise ValueError(message)
            return tuple(dict.fromkeys(parts))

        return self.parsed(name, parse, default)

    def whole(self, name: str, default: int, *, least: int, most: int) -> int:
        def parse(text: str) -> int:
            if not (text.isascii() and text.isdigit() and len(text) <= LONGEST_DIGITS and least <= int(text) <= most):
                raise ValueError(f"must be a whole number from {least} to {most}")
            return int(text)

        return self.parsed(name, parse, default)

    def flag(self, name: str) -> bool:
        return bool(self.choice(name, ("0", "1"), "0") == "1")

    def choice(self, name: str, choices: tuple[str, ...], default: Any) -> Any:
        return self.matched(name, "|".join(choices), f"must be one of: {', '.join(choices)}", default)

    def file(self, name: str, parse: Callable[[bytes], T], default: U) -> T | U:
        """The content of the file that the variable names, through `parse`."""

        def read(text: str) -> T:
            try:
                return parse(self.read_file(Path(text)))
            except OSError as error:
                raise ValueError(f"cannot be read: {error.strerror}") from error

        return self.parsed(name, read, default)


def _read(reader: _Reader) -> Settings:
    def check_redis_url(text: str) -> str:
        from service.keys.redis_store import parse_redis_url  # noqa: PLC0415 - 7 MiB that are not needed without Redis

        parse_redis_url(text)
        return text

    hosts: tuple[str, ...] = reader.parsed("GUEST_HOST", parse_hosts, ("127.0.0.1",))
    port = reader.whole("GUEST_PORT", 8080, least=0, most=65535)
    outside = next((host for host in hosts if not is_loopback(host)), None)
    tokens = _read_tokens(reader, host=hosts[0], port=port, outside=outside)
    issuers = tokens.issuers
    keys_dir = reader.parsed("GUEST_KEYS_DIR", lambda text: None if text == "none" else Path(text), Path("data/keys"))
    keys_secrets = _read_secrets(reader, "GUEST_KEYS_SECRET", parse_secrets, parse_file=parse_secrets)
    redis_url = reader.parsed("GUEST_REDIS_URL", check_redis_url, None)
    if reader.text("GUEST_REDIS_URL") and not keys_secrets and not _is_set(reader, "GUEST_KEYS_SECRET"):
        reader.fault("GUEST_KEYS_SECRET", "is required with GUEST_REDIS_URL: what goes to Redis is always sealed")
    if keys_dir is None and not reader.text("GUEST_REDIS_URL"):
        reader.fault("GUEST_REDIS_URL", "is required with GUEST_KEYS_DIR=none: a follower has its keys from Redis")
    api_keys = _read_secrets(reader, "GUEST_API_KEYS", parse_api_key_list, parse_file=parse_api_keys_file)
    guarded = reader.flag("GUEST_ALLOW_NO_API_KEYS") or _is_set(reader, "GUEST_API_KEYS")
    if outside is not None and not guarded:
        reader.fault(
            "GUEST_API_KEYS",
            f"is required when listening beyond loopback (GUEST_HOST is {outside}); "
            "GUEST_ALLOW_NO_API_KEYS=1 says that the network controls who may call",
        )
    _refuse_samples(reader, issuers, keys_secrets=keys_secrets, api_keys=api_keys)
    merge_policies, merge_policy = _read_merge_policies(reader)
    return Settings(
        hosts=hosts,
        port=port,
        workers=reader.whole("GUEST_WORKERS", 1, least=1, most=256),
        tokens=tokens,
        keys=_read_keys(reader, tokens),
        keys_dir=keys_dir,
        keys_secrets=keys_secrets,
        keys_required=reader.flag("GUEST_KEYS_REQUIRED"),
        redis_url=redis_url,
        redis_prefix=reader.matched(
            "GUEST_REDIS_PREFIX", "[!-~]{1,64}", "must be of 1 to 64 visible ASCII characters", "guest-sessions:"
        ),
        cookie=_read_cookie(reader, issuers),
        gateway=_read_gateway(reader, outside),
        access=ApiKeyPolicy(
            api_keys=api_keys,
            api_keys_file=reader.parsed("GUEST_API_KEYS_FILE", Path, None),
            allowed_origins=frozenset(web_origin(issuer) for issuer in issuers),
        ),
        merge_policies=merge_policies,
        merge_policy=merge_policy,
        max_body_bytes=reader.whole("GUEST_MAX_BODY_BYTES", 262_144, least=1_024, most=16_777_216),
        log_level=reader.choice("GUEST_LOG_LEVEL", ("debug", "info", "warning", "error"), "info"),
        log_format=reader.choice("GUEST_LOG_FORMAT", ("text", "json"), None),
        # The last to be read: by now the reader has seen every name that is a setting.
        unknown=tuple(sorted(n for n in reader.variables if n.startswith("GUEST_") and n not in reader.names)),
    )


def http_address(host: str, port: int | str) -> str:
    """The address of a server; IPv6 stands in brackets (RFC 3986, section 3.2.2)."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def parse_issuers(text: str) -> tuple[str, ...]:
    """The addresses of GUEST_ISSUER, as they are written; raises ValueError for anything else."""
    issuers = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for issuer in issuers:
        url = urlsplit(issuer)
        # As it is written, not as it is parsed: what looks at the issuer later, verifiers too, compares it as text.
        if not issuer.startswith(("http://", "https://")) or not url.hostname or not set("?#@").isdisjoint(issuer):
            raise ValueError("must be addresses that start with http:// or https://, in lower case, without ?, # or @")
        if not all("!" <= character <= "~" and character not in '"\\<>' for character in issuer):
            raise ValueError("must be of visible ASCII characters, fit for a URL")
        if url.port == 0:  # any other that cannot be is refused by `port` itself
            raise ValueError("has no port to be reached at")
    return issuers


def parse_hosts(text: str) -> tuple[str, ...]:
    """The hosts of GUEST_HOST; raises ValueError for anything else."""
    hosts = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for host in hosts:
        if ":" in host:
            IPv6Address(host)
        elif re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?", host) is None:
            raise ValueError("must be IP addresses, without brackets, or host names, comma separated")
    return hosts


def _read_tokens(reader: _Reader, *, host: str, port: int, outside: str | None) -> TokenPolicy:
    issuers: tuple[str, ...] = (http_address(host, port),)
    if reader.text("GUEST_ISSUER") is not None:
        issuers = reader.parsed("GUEST_ISSUER", parse_issuers, issuers)
    elif outside is not None:
        reader.fault("GUEST_ISSUER", f"is required when listening beyond loopback (GUEST_HOST is {outside})")
    elif port == 0:
        reader.fault("GUEST_ISSUER", "is required with GUEST_PORT=0: the port is not known beforehand")
    max_ttl_s = reader.whole("GUEST_MAX_TTL", TEN_YEARS_S, least=1, most=LONGEST_TTL_S)
    ttl_s = reader.whole("GUEST_TTL", min(TEN_YEARS_S, max_ttl_s), least=1, most=LONGEST_TTL_S)
    if ttl_s > max_ttl_s:
        reader.fault("GUEST_TTL", f"is {ttl_s}, more than GUEST_MAX_TTL ({max_ttl_s})")
    return TokenPolicy(
        issuers=issuers,
        audience=reader.listed("GUEST_AUDIENCE"),
        audience_since_s=reader.parsed("GUEST_AUDIENCE_SINCE", parse_time, None),
        ttl_s=ttl_s,
        max_ttl_s=max_ttl_s,
        renew_after_s=reader.whole("GUEST_RENEW_AFTER", 86_400, least=1, most=LONGEST_TTL_S),
        max_token_bytes=reader.whole("GUEST_MAX_TOKEN_BYTES", 3_800, least=256, most=MAX_TOKEN_BYTES),
        access_ttl_s=reader.whole("GUEST_ACCESS_TTL", 300, least=1, most=3_600),
    )


def _read_keys(reader: _Reader, tokens: TokenPolicy) -> KeyPolicy:
    policy = KeyPolicy(
        algorithm=reader.choice("GUEST_ALGORITHM", ("ES256", "RS256"), "ES256"),
        max_lifetime_s=tokens.max_ttl_s,
        jwks_max_age_s=reader.whole("GUEST_JWKS_MAX_AGE", 300, least=1, most=86_400),
        rotate_every_s=reader.whole("GUEST_ROTATE_EVERY", 0, least=0, most=LONGEST_TTL_S),
        rsa_bits=reader.whole("GUEST_RSA_BITS", 3_072, least=2_048, most=4_096),
    )
    least_s = least_rotation_s(policy)
    if 0 < policy.rotate_every_s < least_s:
        reader.fault(
            "GUEST_ROTATE_EVERY",
            f"must be 0 or at least {least_s}: any faster, and the JWKS would pass its limit of keys, or a key would "
            "sign before verifiers have seen it",
        )
    return policy


def _refuse_samples(
    reader: _Reader, issuers: tuple[str, ...], *, keys_secrets: tuple[str, ...], api_keys: tuple[str, ...]
) -> None:
    if all(is_loopback(urlsplit(issuer).hostname or "") for issuer in issuers):
        return
    # Decoded, as one secret has several spellings: the last character carries two bits that are ignored.
    sample = urlsafe_b64decode(SAMPLES["GUEST_KEYS_SECRET"])
    found = {
        "GUEST_KEYS_SECRET": sample in [urlsafe_b64decode(secret) for secret in keys_secrets],
        "GUEST_API_KEYS": SAMPLES["GUEST_API_KEYS"] in api_keys,
    }
    for name in [name for name, is_sample in found.items() if is_sample]:
        reader.fault(
            name if reader.text(name) else f"{name}_FILE",
            "is the sample of .env.example, which everybody knows; make one of your own",
        )


def _read_cookie(reader: _Reader, issuers: tuple[str, ...]) -> CookiePolicy:
    secure = issuers[0].startswith("https://")
    labels = r"\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*"
    domain = (
        reader.matched("GUEST_COOKIE_DOMAIN", labels, "must be a domain name", "").removeprefix(".").lower() or None
    )
    names = reader.listed(
        "GUEST_COOKIE_NAME",
        ("__Host-guest" if secure and not domain else "guest",),
        pattern=r"[!#$%&'*+.^_`|~0-9A-Za-z-]+",  # a token of RFC 9110, section 5.6.2
        message="must be cookie names, comma separated: visible ASCII without separators",
    )
    same_site: SameSite = reader.choice("GUEST_COOKIE_SAMESITE", ("Lax", "Strict", "None"), "Lax")
    partitioned = reader.flag("GUEST_COOKIE_PARTITIONED")
    # The first name alone is ever set. Browsers compare these prefixes without regard to case, and drop a cookie that
    # breaks their rules (RFC 6265bis, section 4.1.3).
    prefix = names[0].lower()
    if prefix.startswith(("__host-", "__secure-")) and not secure:
        reader.fault("GUEST_COOKIE_NAME", f"{names[0]} needs an https:// GUEST_ISSUER, or browsers drop the cookie")
    if prefix.startswith("__host-") and domain:
        reader.fault("GUEST_COOKIE_NAME", f"{names[0]} allows no GUEST_COOKIE_DOMAIN, or browsers drop the cookie")
    if same_site == "None" and not secure:
        reader.fault("GUEST_COOKIE_SAMESITE", "None needs an https:// GUEST_ISSUER, or browsers drop the cookie")
    if partitioned and not (secure and same_site == "None"):
        reader.fault("GUEST_COOKIE_PARTITIONED", "needs an https:// GUEST_ISSUER and GUEST_COOKIE_SAMESITE=None")
    return CookiePolicy(names=names, domain=domain, same_site=same_site, secure=secure, partitioned=partitioned)


def _read_gateway(reader: _Reader, outside: str | None) -> ForwardAuthPolicy:
    number = r"[0-9]{1,6}(\.[0-9]+)?|\.[0-9]+|1000000"
    message = "must be a number of new guests a second, from 0 to 1000000"
    rate_limit_per_s = float(reader.matched("GUEST_RATE_LIMIT", number, message, "0"))
    trusted_proxies: tuple[Network, ...] = reader.parsed(
        "GUEST_TRUSTED_PROXIES", lambda text: tuple(ip_network(part.strip()) for part in text.split(",")), ()
    )
    if rate_limit_per_s and not reader.text("GUEST_TRUSTED_PROXIES") and outside is not None:
        reader.fault("GUEST_TRUSTED_PROXIES", "is required with GUEST_RATE_LIMIT: else all share the gateway's address")
    names = ("payload", "token", "access")
    headers = reader.listed("GUEST_AUTH_HEADERS", pattern="|".join(names), message=f"must be of: {', '.join(names)}")
    access_audience = reader.listed("GUEST_ACCESS_AUDIENCE")
    if "access" in headers and not reader.text("GUEST_ACCESS_AUDIENCE"):
        reader.fault("GUEST_ACCESS_AUDIENCE", "is required with GUEST_AUTH_HEADERS=access: the services meant")
    return ForwardAuthPolicy(
        ensure_on=reader.choice("GUEST_ENSURE_ON", ("navigate", "any"), "navigate"),
        headers=frozenset(headers),
        access_audience=access_audience,
        rate_limit_per_s=rate_limit_per_s,
        trusted_proxies=trusted_proxies,
    )


def _read_merge_policies(reader: _Reader) -> tuple[Mapping[str, Policy], str]:
    """The named policies, and the name of the one that holds where a request names none."""
    path = reader.text("GUEST_MERGE_POLICIES") or ""
    name = reader.text("GUEST_MERGE_POLICY") or "default"

    def parse(content: bytes) -> dict[str, Policy]:
        return parse_policy_file(content, format="toml" if path.endswith(".toml") else "json")

    try:
        policies = {**SHIPPED, **reader.file("GUEST_MERGE_POLICIES", parse, {})}
    except InvalidPolicy as error:
        for fault in error.errors:
            reader.fault("GUEST_MERGE_POLICIES", f"{fault.path}: {fault.message}")
        return SHIPPED, name  # the name may be that of a policy in the faulty file
    if name not in policies:
        reader.fault("GUEST_MERGE_POLICY", f"names no merge policy; there are: {', '.join(sorted(policies))}")
    return policies, name


def _is_set(reader: _Reader, name: str) -> bool:
    return reader.text(name) is not None or reader.text(f"{name}_FILE") is not None


def _read_secrets(
    reader: _Reader,
    name: str,
    parse: Callable[[str], tuple[str, ...]],
    *,
    parse_file: Callable[[str], tuple[str, ...]],
) -> tuple[str, ...]:
    """Secrets from their variable or, as Docker and Kubernetes mount them, from the file that NAME_FILE names."""
    if reader.text(name) and reader.text(f"{name}_FILE"):
        reader.fault(name, f"and {name}_FILE are both set; only one may be")

    def decode(content: bytes) -> tuple[str, ...]:
        try:
            return parse_file(content.decode("utf-8").strip())
        except UnicodeDecodeError as error:
            raise ValueError("is not UTF-8 text") from error

    return reader.file(f"{name}_FILE", decode, reader.parsed(name, parse, ()))


def parse_time(text: str) -> float:
    """Unix seconds of an RFC 3339 time, or of ten digits, which are Unix seconds already.

    Fewer digits are refused: 20260131 is meant as a date, and would be read as one of 1970.

    Raises:
        ValueError: the text is neither.
    """
    if re.fullmatch(r"[0-9]{10}", text):
        return int(text)
    if (time_s := parse_rfc3339(text)) is None:
        raise ValueError("must be a time as 2026-01-31T12:00:00Z (RFC 3339), or Unix seconds in ten digits")
    return time_s


_reader = _Reader({})
_read(_reader)
NAMES: Final = tuple(_reader.names)
"""The names of all settings, in the order in which they are read."""
