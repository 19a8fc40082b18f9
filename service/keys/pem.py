"""Public keys as PEM (RFC 7468, section 13), for verifiers that take no JWKS."""

import base64

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def public_pem(jwk: dict[str, str]) -> str:
    """A public JWK of type EC (P-256) or RSA as a `PUBLIC KEY` block."""
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
    if jwk["kty"] == "EC":
        key = ec.EllipticCurvePublicNumbers(_number(jwk["x"]), _number(jwk["y"]), ec.SECP256R1()).public_key()
    else:
        key = rsa.RSAPublicNumbers(e=_number(jwk["e"]), n=_number(jwk["n"])).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def _number(text: str) -> int:
    """A Base64urlUInt (RFC 7518, section 2)."""
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")
