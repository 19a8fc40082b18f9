"""The two places of a ring, as rings: the file, which is the truth, and the sealed copy in the cache.

Owns sealing, opening and the self-test of a key before it becomes active; knows nothing of files, Redis or of when
something is due.
"""

from collections.abc import Callable, Hashable
from typing import Any, Final, Protocol

from service.errors import KeyringError, WrongSecret
from service.keys import Clock, RandomBytes, encoding, keyring
from service.keys.encryption import Sealer
from service.keys.keyring import Algorithm, KeyPolicy, KeyRing
from service.keys.signer import Signer

KID_BYTES: Final = 8
"""16 hexadecimal characters, the most that the contract grants. It names a key and need not be secret."""
RING_ID_BYTES: Final = 12
DERIVATION_SECRET_BYTES: Final = 32
FOUNDER_BYTES: Final = 16

KeyMaker = Callable[[Algorithm], dict[str, Any]]
"""Makes a fresh private JWK (RFC 7517) of the algorithm, without `kid`."""

SignerMaker = Callable[[KeyRing], Signer]
"""Raises `KeyringDamaged` where the numbers of a key do not make one."""

_SELF_TEST_CLAIMS: Final = b'{"self_test":true}'


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


class KeyGenerator:
    """Makes keys and first rings, and proves that the active key of a ring works."""

    def __init__(
        self, policy: KeyPolicy, *, make_key: KeyMaker, make_signer: SignerMaker, random_bytes: RandomBytes
    ) -> None:
        self._policy = policy
        self._make_key = make_key
        self._random_bytes = random_bytes
        self.make_signer = make_signer

    def key(self, clock: Clock) -> keyring.Key:
        """A fresh key, as old as it is once made: that takes up to seconds for RS256, so call it in a thread."""
        private = self._make_key(self._policy.algorithm)
        return keyring.new_key(
            private,
            kid=self._random_bytes(KID_BYTES).hex(),
            algorithm=self._policy.algorithm,
            max_lifetime_s=self._policy.max_lifetime_s,
            now_s=clock(),
        )

    def ring(self, clock: Clock) -> KeyRing:
        """A fresh deployment's first ring."""
        return keyring.found(
            self.key(clock),
            ring_id=self._random_bytes(RING_ID_BYTES).hex(),
            derivation_secret=self._random_bytes(DERIVATION_SECRET_BYTES),
            now_s=clock(),
        )

    def founder(self) -> bytes:
        """A name for one process among those that may make a first ring."""
        return self._random_bytes(FOUNDER_BYTES).hex().encode()

    def prove(self, ring: KeyRing) -> None:
        """Signs and verifies with the active key; raises `KeyringError` where that does not hold."""
        codec = self.make_signer(ring)
        key, claims = codec.verify(codec.sign(_SELF_TEST_CLAIMS))
        if (key.kid, claims) != (ring.active.kid, _SELF_TEST_CLAIMS):
            raise KeyringError(f"Key {ring.active.kid} failed its self-test; it does not sign.")


class RingFile:
    """The ring in its store. Blocking; call it in a thread."""

    def __init__(self, store: KeyStore, sealer: Sealer | None, mint: KeyGenerator) -> None:
        self._store = store
        self._sealer = sealer
        self._mint = mint
        self.place = store.place
        self.stamp = store.stamp

    def read(self) -> KeyRing | None:
        """The ring, None where there is no file; raises `StoreUnavailable`, `KeyringDamaged` or `WrongSecret`."""
        content = self._store.read()
        return None if content is None else open_file(content, self._sealer)

    def update(self, decide: Callable[[KeyRing | None], KeyRing]) -> KeyRing:
        """Decides under the store's lock and makes the outcome durable; the same ring again means no change.

        Nothing is written before every key's public part was loaded and the active one passed its self-test. Raises as
        `read`, or what `decide` raises, and then writes nothing.
        """
        decided: list[KeyRing] = []

        def change(content: bytes | None) -> bytes | None:
            current = None if content is None else open_file(content, self._sealer)
            wanted = decide(current)
            decided.append(wanted)
            if current == wanted:
                return None
            self._mint.prove(wanted)
            return self._sealed(encoding.to_jwk_set(wanted))

        self._store.update(change)
        return decided[-1]

    def seal_anew(self) -> None:
        """Seals a plain file, or one sealed under an older secret, with the first; raises as `update`."""
        content = self._store.read()
        if content is not None and self._needs_sealing(content):
            self._store.update(lambda current: None if current is None else self._resealed(current))

    def _resealed(self, content: bytes) -> bytes:
        return self._sealed(encoding.to_jwk_set(open_file(content, self._sealer)))

    def _sealed(self, plain: bytes) -> bytes:
        return plain if self._sealer is None else self._sealer.seal(plain)

    def _needs_sealing(self, content: bytes) -> bool:
        return self._sealer is not None and not self._sealer.is_current(content)


def open_file(content: bytes, sealer: Sealer | None) -> KeyRing:
    """The ring in a file's content, sealed or plain; raises `KeyringDamaged` or `WrongSecret`."""
    if content.lstrip().startswith(b"{"):
        return encoding.from_jwk_set(content)
    if sealer is not None:
        return encoding.from_jwk_set(sealer.open(content.strip()))
    if content.startswith(_FERNET_PREFIX):
        raise WrongSecret("The keyring is sealed, and no secret was given to open it.")
    return encoding.from_jwk_set(content)


_FERNET_PREFIX: Final = b"gAAAA"
"""The version and the first bytes of the time, as base64, until the year 2106 and beyond."""
