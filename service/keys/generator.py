"""New keys and first rings, and the proof that a key works before it signs."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from service.errors import KeyringError
from service.keys import Clock, RandomBytes, keyring
from service.keys.keyring import KeyPolicy, KeyRecord, KeyRing
from service.keys.material import Algorithm
from service.keys.signer import Signer, make_key

KID_BYTES: Final = 8
"""16 hexadecimal characters, the most that the contract grants. It names a key and need not be secret."""
RING_ID_BYTES: Final = 12
DERIVATION_SECRET_BYTES: Final = 32
CLAIMANT_BYTES: Final = 16

_SELF_TEST_CLAIMS: Final = b'{"self_test":true}'


class KeyGenerator(msgspec.Struct, frozen=True):
    """Makes keys and first rings. `make_key` gives a private JWK (RFC 7517) of an algorithm, without `kid`."""

    policy: KeyPolicy
    clock: Clock
    random_bytes: RandomBytes
    make_key: Callable[..., dict[str, Any]] = make_key

    def key(self, *, algorithm: Algorithm | None = None, max_lifetime_s: int | None = None) -> KeyRecord:
        """A fresh key, by default as the settings want it; as old as it is once made.

        That takes up to seconds for RS256: call it in a thread, and outside of a transaction.
        """
        algorithm = algorithm or self.policy.algorithm
        private = self.make_key(algorithm, rsa_bits=self.policy.rsa_bits)
        return keyring.new_key(
            private,
            kid=self.random_bytes(KID_BYTES).hex(),
            algorithm=algorithm,
            max_lifetime_s=max_lifetime_s or self.policy.max_lifetime_s,
            now_s=self.clock(),
        )

    def ring(self) -> KeyRing:
        """A fresh deployment's first ring."""
        return keyring.create(
            self.key(),
            ring_id=self.random_bytes(RING_ID_BYTES).hex(),
            derivation_secret=self.random_bytes(DERIVATION_SECRET_BYTES),
        )

    def claimant(self) -> bytes:
        """A name for one process among those that may make a first ring."""
        return self.random_bytes(CLAIMANT_BYTES).hex().encode()


def prove(ring: KeyRing) -> None:
    """Signs and verifies with the active key, where there is one; raises `KeyringError` where that does not hold."""
    active = ring.active
    if active is None:
        return
    signer = Signer(ring)
    if active.kid in signer.faults:
        raise KeyringError(signer.faults[active.kid])
    key, claims = signer.verify(signer.sign(_SELF_TEST_CLAIMS))
    if (key.kid, claims) != (active.kid, _SELF_TEST_CLAIMS):
        raise KeyringError(f"Key {active.kid} failed its self-test; it does not sign.")
