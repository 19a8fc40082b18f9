"""Sealing: bytes to bytes with Fernet (AES-128-CBC and HMAC-SHA256), under one or more secrets.

Knows nothing of the content. The first secret seals, any of them opens, so that a secret can be changed without a
pause.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from service.errors import KeyringDamaged, WrongSecret

_VERSION: Final = 0x80
_LEAST_BYTES: Final = 1 + 8 + 16 + 16 + 32
"""Version, time, IV, one block, HMAC (the Fernet specification, "Token Format")."""
_BLOCK_BYTES: Final = 16


class Sealer:
    """Seals with the first of `secrets`, opens with any; each is 32 bytes as base64url."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Raises ValueError where there is none or one is not of 32 bytes."""
        self._fernets = [Fernet(secret) for secret in secrets]
        self._any = MultiFernet(self._fernets)

    def seal(self, plain: bytes) -> bytes:
        """Text-safe bytes that nobody without a secret can read or make."""
        return self._fernets[0].encrypt(plain)

    def open(self, sealed: bytes) -> bytes:
        """What was sealed.

        Raises:
            KeyringDamaged: where these are no sealed bytes at all.
            WrongSecret: where they have the form, but were sealed with another secret (or altered: nobody can tell).
        """
        if not is_sealed(sealed):
            raise KeyringDamaged("These bytes are not sealed, or were cut off.")
        try:
            return self._any.decrypt(sealed)
        except InvalidToken as error:
            raise WrongSecret("The keyring is sealed with a secret that is not among those given.") from error

    def is_current(self, sealed: bytes) -> bool:
        """Whether the first secret opens it, so that nothing is left to seal again."""
        try:
            self._fernets[0].decrypt(sealed)
        except InvalidToken:
            return False
        return True


def is_sealed(content: bytes) -> bool:
    """Whether the bytes have the form of a Fernet token; says nothing about their secret."""
    try:
        raw = base64.b64decode(content.strip(), altchars=b"-_", validate=True)
    except binascii.Error:
        return False
    return len(raw) >= _LEAST_BYTES and raw[0] == _VERSION and (len(raw) - _LEAST_BYTES) % _BLOCK_BYTES == 0


def parse_secrets(text: str) -> tuple[str, ...]:
    """Secrets as the settings give them: each 32 bytes as base64url, with or without padding, comma separated.

    Raises:
        ValueError: naming the entry by its number, never the secret.
    """
    secrets = [secret.strip() for secret in text.split(",")]
    for number, secret in enumerate(secrets, 1):
        if re.fullmatch(r"[A-Za-z0-9_-]{43}=?", secret) is None:
            raise ValueError(f"entry {number} is not 32 bytes as base64url; make one with: guest-sessions keys secret")
    return tuple(dict.fromkeys(f"{secret.rstrip('=')}=" for secret in secrets))


def make_secret() -> str:
    """A fresh secret: 32 random bytes as base64url."""
    return Fernet.generate_key().decode("ascii")
