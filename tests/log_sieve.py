"""Holds every log record of the suite, at every level, against known secrets and what looks like one."""

import base64
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from service.keys.keyring import KeyRing
from service.log_config import JsonFormatter

LOOKS_SECRET = re.compile(
    r"eyJ[\w-]{16,}\.[\w-]+"  # a token: the encoded beginning of a JSON object, a dot, claims
    r"""|["'](?:d|p|q|dp|dq|qi|k)\\?["']\s*:\s*\\?["'][\w-]{16,}"""  # a private member of a JWK
    r"|gAAAAA[\w-]{16,}"  # sealed with Fernet
)

_known: set[str] = set()


def keep_out(*secrets: str) -> None:
    """These must not be in any log from now on."""
    _known.update(secret for secret in secrets if secret)


def keep_out_settings(variables: dict[str, str]) -> None:
    """The secrets among settings."""
    for name in ("GUEST_API_KEYS", "GUEST_KEYS_SECRET"):
        keep_out(*(each.strip() for each in variables.get(name, "").split(",")))


def keep_out_ring(ring: KeyRing) -> None:
    """The private parts of a ring."""
    keep_out(base64.urlsafe_b64encode(ring.derivation_secret).decode().rstrip("="), ring.derivation_secret.hex())
    keep_out(
        *(key.private[name] for key in ring.keys for name in ("d", "p", "q", "dp", "dq", "qi") if name in key.private)
    )


def leaks(text: str) -> list[str]:
    """The secrets in a text: by their look, or as a test knows them."""
    looks = [found[0][:24] for found in LOOKS_SECRET.finditer(text)]
    return looks + [f"{secret[:4]}…" for secret in _known if secret in text]


class Sieve(logging.Handler):
    """Keeps what leaked."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(JsonFormatter())
        self.leaked: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.leaked += [f"{each} in a record of {record.name}: {record.msg!r}" for each in leaks(self.format(record))]


@contextmanager
def sifting() -> Iterator[Sieve]:
    """Every logger at its lowest level while the context lasts."""
    root, sieve = logging.getLogger(), Sieve()
    level = root.level
    root.addHandler(sieve)
    root.setLevel(logging.DEBUG)
    try:
        yield sieve
    finally:
        root.removeHandler(sieve)
        root.setLevel(level)
