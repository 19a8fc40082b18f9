"""What the use cases ask of the world: the clock, signatures, the keyring's places. Knows nothing of any adapter."""

from collections.abc import Callable, Hashable
from typing import Any, Protocol

from service.keys.keyring import Algorithm, Key, KeyRing

Clock = Callable[[], float]
"""Unix time in seconds."""

RandomBytes = Callable[[int], bytes]
"""As many bytes as asked for, of cryptographic strength."""

KeyMaker = Callable[[Algorithm], dict[str, Any]]
"""Makes a fresh private JWK (RFC 7517) of the algorithm, without `kid`."""


class TokenSigner(Protocol):
    """Compact tokens (RFC 7515, section 7.1) under the keys of one ring; parsed once, immutable after."""

    def sign(self, claims: bytes) -> str:
        """The claims' JSON as a guest token under the active key."""

    def sign_access_token(self, claims: bytes) -> str:
        """The claims' JSON as an access token (RFC 9068) under the active key."""

    def verify(self, raw_token: str) -> tuple[Key, bytes]:
        """The key and the claims' JSON of a token whose signature is good.

        Raises:
            InvalidToken: `too_large`, `malformed`, `unknown_key`, `revoked` (its key) or `bad_signature`.
        """


SignerMaker = Callable[[KeyRing], TokenSigner]
"""Raises `KeyringDamaged` where the numbers of a key do not make one."""


class Sealer(Protocol):
    """Keeps bytes from being read or made by anybody without a secret."""

    def seal(self, plain: bytes) -> bytes:
        """Sealed under the first secret; two calls never give the same bytes."""

    def open(self, sealed: bytes) -> bytes:
        """What was sealed under any of the secrets; raises `KeyringDamaged` or `WrongSecret`."""

    def is_current(self, sealed: bytes) -> bool:
        """Whether it is sealed under the first secret."""


class KeyStore(Protocol):
    """The truth: one durable place for the ring's bytes. Blocking; called in a thread."""

    @property
    def place(self) -> str:
        """Where the bytes are, for people."""

    def stamp(self) -> Hashable:
        """Changes whenever the bytes do; None where there are none. Cheap. Raises `StoreUnavailable`."""

    def read(self) -> bytes | None:
        """The bytes, durable by now, None where there are none yet; raises `StoreUnavailable`."""

    def update(self, change: Callable[[bytes | None], bytes | None]) -> bytes | None:
        """Decides and writes inside one lock: `change` gets what is there and gives what shall be, None for no change.

        Answers what is there afterwards; on return it is durable. Raises `StoreUnavailable` and writes nothing, or
        whatever `change` raises.
        """


class SigningKeys(Protocol):
    """The ring that a process holds now, parsed. A new object for each change of the ring."""

    @property
    def ring(self) -> KeyRing:
        """The ring."""

    @property
    def codec(self) -> TokenSigner:
        """What signs and verifies under it."""

    @property
    def max_lifetime_s(self) -> int:
        """The longest lifetime that may be signed now: what the settings say and the active key is on record for."""


class KeySource(Protocol):
    """Where use cases get the keys from, at each use anew."""

    @property
    def loaded(self) -> SigningKeys | None:
        """The keys to use now; None while there are none. Never waits."""
