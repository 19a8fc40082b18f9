"""The numbers of a key (RFC 7518, sections 6.2 and 6.3), as members of a JWK, and whether they do make a key."""

import base64
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa

Algorithm = Literal["ES256", "RS256"]


class Material(msgspec.Struct, frozen=True):
    """The members of a key of one algorithm."""

    kty: str
    public: tuple[str, ...]
    private: tuple[str, ...]


MATERIAL: Final[Mapping[str, Material]] = MappingProxyType(
    {
        "ES256": Material("EC", ("crv", "x", "y"), ("d",)),
        "RS256": Material("RSA", ("n", "e"), ("d", "p", "q", "dp", "dq", "qi")),
    }
)
PRIVATE_MEMBERS: Final = frozenset(name for material in MATERIAL.values() for name in material.private)
MEMBERS: Final = frozenset({"kty", *PRIVATE_MEMBERS, *(name for each in MATERIAL.values() for name in each.public)})

_P256_CHARS: Final = 43
"""Length in base64url of a coordinate of 32 bytes; no other length encodes so many (RFC 7518, section 6.2.1.2)."""


def without_private(members: Mapping[str, Any]) -> dict[str, Any]:
    """The members but the private ones."""
    return {name: value for name, value in members.items() if name not in PRIVATE_MEMBERS}


def fault(algorithm: str, members: Mapping[str, Any], *, private: bool) -> str | None:
    """The fault in the form of a key, None where it is whole; says nothing about the numbers themselves."""
    material = MATERIAL.get(algorithm)
    if material is None:
        return "its algorithm is not known here"
    names = material.public + (material.private if private else ())
    if members.get("kty") != material.kty or not all(_is_base64url(members.get(name)) for name in names):
        return f"it is no whole {algorithm} key"
    if algorithm == "ES256" and (
        members["crv"] != "P-256" or any(len(members[name]) != _P256_CHARS for name in ("x", "y"))
    ):
        return "it is not on the curve P-256, with coordinates of 32 bytes each"
    return None


def _is_base64url(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,1024}", value) is not None


def soundness(algorithm: str, members: Mapping[str, Any]) -> int:
    """0: the members make no key; 1: they make a public one; 2: the private part is there and belongs to it.

    Costs up to 0.1 s for RS256. Meant for records that differ, which two of one key never do unless one is damaged, or
    one has forgotten its private part.
    """
    if fault(algorithm, members, private=False) is not None:
        return 0
    # Each is a Base64urlUInt (RFC 7518, section 2).
    numbers = {
        name: int.from_bytes(base64.urlsafe_b64decode(members[name] + "=" * (-len(members[name]) % 4)), "big")
        for name in MEMBERS & members.keys() - {"kty", "crv"}
        if _is_base64url(members[name])
    }
    try:
        if algorithm == "ES256":
            public: Any = ec.EllipticCurvePublicNumbers(numbers["x"], numbers["y"], ec.SECP256R1())
        else:
            public = rsa.RSAPublicNumbers(numbers["e"], numbers["n"])
        public.public_key()
    except ValueError:
        return 0
    if fault(algorithm, members, private=True) is not None:
        return 1
    try:
        if algorithm == "ES256":
            ec.EllipticCurvePrivateNumbers(numbers["d"], public).private_key()
        else:
            p, q, d, dp, dq, qi = (numbers[name] for name in ("p", "q", "d", "dp", "dq", "qi"))
            rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, public).private_key()
    except ValueError:
        return 1
    return 2
