"""Compact tokens (RFC 7515, section 7.1) by header look-up, and the making of keys. The only import of `jose`.

A key's encoded header is fixed with the key. Verification splits the token, finds its first segment in the ring's table
and thereby has the key, its state and its algorithm; what is not in the table is refused without being interpreted. So
`alg`, `jku`, `jwk`, `x5u`, `crit` and the like have nowhere to enter (RFC 8725, sections 3.1 and 3.10). Of python-jose
only the keys' `sign` and `verify` are used, parsed once and kept.
"""

import binascii
from collections.abc import Container
from typing import Any, Final, Literal, Protocol

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from jose import backends
from jose.backends import cryptography_backend
from jose.exceptions import JWKError

from service.errors import InvalidToken, KeyringDamaged, NotReady
from service.keys.keyring import Key, KeyRecord, KeyRing, KeyState, public_jwk
from service.keys.material import Algorithm, fault

MAX_TOKEN_BYTES: Final = 16_384
"""Four browser cookies' worth; nothing longer is looked at, so that its length costs an attacker's time, not ours."""

TokenType = Literal["guest+jwt", "at+jwt"]
"""The `typ` of a header: this project's own, and that of an access token (RFC 9068, section 2.1)."""


class _JoseKey(Protocol):
    """The methods used of python-jose's keys."""

    def sign(self, msg: bytes) -> bytes: ...
    def verify(self, msg: bytes, sig: bytes) -> bool: ...
    def to_dict(self) -> dict[str, Any]: ...
    def to_pem(self) -> bytes: ...


class Signer:
    """Signs and verifies under the keys of one ring; immutable.

    Loads the private part of the active key alone: checking an RSA key's numbers takes 0.1 s, and a ring of forty would
    hold up every change of the keys, a revocation included, by seconds. A public part takes 0.05 ms.

    `kid` names the key that signs, "" where none does. An RSA key's signature `is_slow`: it takes milliseconds, without
    the interpreter's lock; one on the curve takes 0.04 ms. `faults` has what is wrong with keys whose numbers make
    none, by kid: they neither sign nor verify.
    """

    def __init__(self, ring: KeyRing) -> None:
        require_cryptography_backend()
        self.kid = ""
        self.is_slow = False
        self.faults: dict[str, str] = {}
        self._table: dict[bytes, tuple[Key, _JoseKey]] = {}
        self._private: _JoseKey | None = None
        self._prefix = self._access_prefix = b""
        for key in ring.keys:
            try:
                header = encoded_header(key).encode()
                self._table[header] = (key, _load(key, private=False))
                if key.state is KeyState.ACTIVE:
                    self._private, self.kid = _load(key, private=True), key.kid
                    self.is_slow = key.algorithm == "RS256"
                    self._prefix, self._access_prefix = header + b".", encoded_header(key, typ="at+jwt").encode() + b"."
            except KeyringDamaged as error:
                self.faults[key.kid] = error.detail

    def sign(self, claims: bytes) -> str:
        """The claims' JSON as a guest token under the active key; raises `NotReady` where none is active."""
        return self._signed(self._prefix, claims)

    def sign_access_token(self, claims: bytes) -> str:
        """The claims' JSON as an access token (RFC 9068) under the active key.

        Its header is in no table that `verify` looks up, so that it is a guest token nowhere.
        """
        return self._signed(self._access_prefix, claims)

    def _signed(self, prefix: bytes, claims: bytes) -> str:
        if self._private is None:
            raise NotReady("No key signs at the moment.")
        signing_input = prefix + _encode(claims)
        return (signing_input + b"." + _encode(self._private.sign(signing_input))).decode("ascii")

    def verify(self, raw_token: str) -> tuple[Key, bytes]:
        """The key and the claims' JSON of a token whose signature is good.

        Raises:
            InvalidToken: `too_large`, `malformed`, `unknown_key`, `revoked` (its key) or `bad_signature`.
        """
        header, claims, signature, signing_input = _split(raw_token, known_headers=self._table)
        found = self._table.get(header)
        if found is None:
            raise InvalidToken("unknown_key")
        key, verifier = found
        if key.state is KeyState.REVOKED:
            raise InvalidToken("revoked")
        if not verifier.verify(signing_input, signature):
            raise InvalidToken("bad_signature")
        return key, claims


def make_key(algorithm: Algorithm, *, rsa_bits: int = 3_072) -> dict[str, Any]:
    """A fresh private JWK (RFC 7518, section 6), coordinates padded to their full length, without `kid`.

    3072 bits have 128 bits of strength: a token lives ten years, past the end of 2048 (NIST SP 800-57 part 1, table 4).
    """
    private: Any
    if algorithm == "ES256":
        private = ec.generate_private_key(ec.SECP256R1())
    else:
        private = rsa.generate_private_key(public_exponent=65_537, key_size=rsa_bits)
    return dict(_key_class(algorithm)(private, algorithm).to_dict())


def public_pem(key: KeyRecord) -> str:
    """The public part of a key as a `PUBLIC KEY` block (RFC 7468, section 13), for verifiers that take no JWKS."""
    return _load(key, private=False).to_pem().decode("ascii")


def encoded_header(key: KeyRecord, *, typ: TokenType = "guest+jwt") -> str:
    """The first segment of every token of type `typ` under `key`: these members, this order, no white space."""
    return _encode(f'{{"alg":"{key.algorithm}","kid":"{key.kid}","typ":"{typ}"}}'.encode("ascii")).decode("ascii")


def inspect(raw_token: str) -> dict[str, Any]:
    """Header and claims as a token states them, UNVERIFIED: anybody can have written them. For people to look at.

    Raises:
        InvalidToken: `too_large` or `malformed`.
    """
    header, claims, _, _ = _split(raw_token, known_headers=())
    try:
        return {"header": msgspec.json.decode(_decode(header)), "claims": msgspec.json.decode(claims)}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidToken("malformed") from error


def require_cryptography_backend(found: tuple[type, type] = (backends.ECKey, backends.RSAKey)) -> None:
    """Refuses the pure-Python `ecdsa` that python-jose falls back to in silence: it leaks its key through timing.

    Raises:
        RuntimeError: on that back end (CVE-2024-23342).
    """
    if found != (cryptography_backend.CryptographyECKey, cryptography_backend.CryptographyRSAKey):
        raise RuntimeError("python-jose runs without its cryptography back end; install python-jose[cryptography]")


class _ES256Key(backends.ECKey):  # type: ignore[misc]  # python-jose has no types
    """python-jose's key, with the constant parts of each signature made once: that saves a fifth of its time."""

    def sign(self, msg: bytes) -> bytes:
        r, s = decode_dss_signature(self.prepared_key.sign(msg, _ECDSA_SHA256))
        return r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")

    def verify(self, msg: bytes, sig: bytes) -> bool:
        if len(sig) != 2 * _COORDINATE_BYTES:
            return False
        r, s = int.from_bytes(sig[:_COORDINATE_BYTES], "big"), int.from_bytes(sig[_COORDINATE_BYTES:], "big")
        try:
            self.prepared_key.verify(encode_dss_signature(r, s), msg, _ECDSA_SHA256)
        except InvalidSignature:
            return False
        return True


_COORDINATE_BYTES: Final = 32
"""Of each half of an ES256 signature (RFC 7518, section 3.4)."""
_ECDSA_SHA256: Final = ec.ECDSA(hashes.SHA256())


def _key_class(algorithm: str) -> Any:
    return _ES256Key if algorithm == "ES256" else backends.RSAKey


def _load(key: KeyRecord, *, private: bool) -> _JoseKey:
    reason = fault(key.algorithm, key.private, private=private)
    if reason is not None:
        raise KeyringDamaged(f"Key {key.kid} is damaged: {reason}.")
    try:
        jwk = key.private if private else public_jwk(key)
        loaded: _JoseKey = _key_class(key.algorithm)(jwk, key.algorithm)
    except (JWKError, ValueError) as error:
        raise KeyringDamaged(f"Key {key.kid} is damaged: its numbers make no {key.algorithm} key.") from error
    return loaded


def _split(raw_token: str, *, known_headers: Container[bytes]) -> tuple[bytes, bytes, bytes, bytes]:
    """Header segment, claims, signature and signing input of a token of three canonical segments."""
    encoded = raw_token.encode("utf-8", "surrogatepass")
    if len(encoded) > MAX_TOKEN_BYTES:
        raise InvalidToken("too_large")
    segments = encoded.split(b".")
    if len(segments) != 3:  # noqa: PLR2004 - RFC 7515, section 7.1
        raise InvalidToken("malformed")
    header, claims, signature = segments
    if header not in known_headers:
        _decode(header)
    return header, _decode(claims), _decode(signature), encoded[: len(header) + 1 + len(claims)]


def _encode(raw: bytes) -> bytes:
    """Base64url without padding (RFC 7515, section 2)."""
    return binascii.b2a_base64(raw, newline=False).translate(_TO_URL).rstrip(b"=")


def _decode(segment: bytes) -> bytes:
    """The one canonical spelling of base64url, or `malformed`: a token must not have two spellings of one signature."""
    try:
        raw = binascii.a2b_base64(segment.translate(_FROM_URL) + b"=" * (-len(segment) % 4), strict_mode=True)
    except binascii.Error as error:
        raise InvalidToken("malformed") from error
    if not raw or _encode(raw) != segment:
        raise InvalidToken("malformed")
    return raw


_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")
