"""Keys and tokens made by hand, with `cryptography` and the standard library alone: nothing of the code under test."""

import base64
import hashlib
import hmac
import json
from functools import cache
from typing import Any, Literal

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from service.keys import keyring
from service.keys.keyring import KeyRing
from service.keys.material import Algorithm

NOW_S = 1_800_000_000
ISSUER = "http://127.0.0.1:8080"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def segment(value: object) -> str:
    return base64url(json.dumps(value, separators=(",", ":")).encode())


class EcKey:
    """A P-256 key pair; signs as RFC 7518, section 3.4."""

    algorithm: Algorithm = "ES256"

    def __init__(self, kid: str) -> None:
        self.kid = kid
        self.private = ec.generate_private_key(ec.SECP256R1())

    @property
    def jwk(self) -> dict[str, str]:
        numbers = self.private.private_numbers()
        values = {"x": numbers.public_numbers.x, "y": numbers.public_numbers.y, "d": numbers.private_value}
        return {"kty": "EC", "crv": "P-256"} | {name: base64url(v.to_bytes(32, "big")) for name, v in values.items()}

    def sign_der(self, signing_input: str) -> bytes:
        return self.private.sign(signing_input.encode(), ec.ECDSA(hashes.SHA256()))

    def sign(self, signing_input: str) -> bytes:
        r, s = decode_dss_signature(self.sign_der(signing_input))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class RsaKey:
    """A 3072-bit key pair; signs as RFC 7518, section 3.3."""

    algorithm: Algorithm = "RS256"

    def __init__(self, kid: str) -> None:
        self.kid = kid
        self.private = rsa.generate_private_key(public_exponent=65_537, key_size=3_072)

    @property
    def jwk(self) -> dict[str, str]:
        numbers = self.private.private_numbers()
        values = {
            "n": numbers.public_numbers.n,
            "e": numbers.public_numbers.e,
            "d": numbers.d,
            "p": numbers.p,
            "q": numbers.q,
            "dp": numbers.dmp1,
            "dq": numbers.dmq1,
            "qi": numbers.iqmp,
        }
        encoded = {name: v.to_bytes((v.bit_length() + 7) // 8, "big") for name, v in values.items()}
        return {"kty": "RSA"} | {name: base64url(raw) for name, raw in encoded.items()}

    def sign(self, signing_input: str) -> bytes:
        return self.private.sign(signing_input.encode(), padding.PKCS1v15(), hashes.SHA256())


SigningKey = EcKey | RsaKey


class Forge:
    """The keys of one ring, real and forged tokens under them."""

    def __init__(self) -> None:
        self.active = EcKey("active-es")
        self.retired = RsaKey("retired-rs")
        self.revoked = EcKey("revoked-es")
        self.stranger = EcKey("stranger-es")
        ring = keyring.create(_new(self.revoked), ring_id="test-ring", derivation_secret=b"s" * 32)
        ring = keyring.promote(keyring.stage(ring, _new(self.retired)), now_s=NOW_S)
        ring = keyring.promote(keyring.stage(ring, _new(self.active)), now_s=NOW_S)
        self.ring: KeyRing = keyring.revoke(ring, self.revoked.kid, now_s=NOW_S)

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Good claims but for those changed; a changed one that is `...` is left out."""
        good = {
            "iss": ISSUER,
            "sub": "G-1",
            "iat": NOW_S,
            "exp": NOW_S + 600,
            "orig_iat": NOW_S,
            "jti": "t-1",
            "ver": 1,
            "payload": {"cart": ["tea"]},
        }
        return {name: value for name, value in {**good, **changed}.items() if value is not ...}

    def header(self, key: SigningKey | None = None, **changed: Any) -> dict[str, Any]:
        """The header of the key's tokens but for the changed members; further members follow."""
        key = key or self.active
        good = {"alg": key.algorithm, "kid": key.kid, "typ": "guest+jwt"}
        return {name: value for name, value in {**good, **changed}.items() if value is not ...}

    def token(
        self,
        *,
        key: SigningKey | None = None,
        header: str | None = None,
        claims: str | None = None,
    ) -> str:
        """A token properly signed with `key`; header and claims may be any segments."""
        key = key or self.active
        signing_input = f"{header or segment(self.header(key))}.{claims or segment(self.claims())}"
        return f"{signing_input}.{base64url(key.sign(signing_input))}"

    def with_header(self, **changed: Any) -> str:
        """Signed with the active key, under a header of which some members are changed."""
        return self.token(header=segment(self.header(**changed)))

    def with_claims(self, **changed: Any) -> str:
        """Signed with the active key, some claims changed."""
        return self.token(claims=segment(self.claims(**changed)))

    def hmac_token(self, secret: bytes, *, kid: str, alg: str = "HS256") -> str:
        """The confusion of algorithms: the public key, which everybody has, as the secret of an HMAC."""
        header = segment({"alg": alg, "kid": kid, "typ": "guest+jwt"})
        signing_input = f"{header}.{segment(self.claims())}"
        return f"{signing_input}.{base64url(hmac.digest(secret, signing_input.encode(), hashlib.sha256))}"


def public_bytes(key: SigningKey, form: Literal["pem", "der", "bare"]) -> bytes:
    """The public key as verifiers are given it; `bare` is PEM without its armour."""
    public = key.private.public_key()
    encoding = serialization.Encoding.DER if form == "der" else serialization.Encoding.PEM
    encoded = public.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded if form != "bare" else b"".join(encoded.splitlines()[1:-1])


@cache
def forge() -> Forge:
    """One for each test process: an RSA key takes a while to make."""
    return Forge()


def _new(key: SigningKey) -> keyring.KeyRecord:
    return keyring.new_key(key.jwk, kid=key.kid, algorithm=key.algorithm, max_lifetime_s=1_000, now_s=NOW_S)
