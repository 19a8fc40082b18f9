"""The attack catalogue: each way to forge, confuse or burden that is known of JOSE, with the reason that refuses it.

Sources: RFC 8725 (JWT best current practices), RFC 7515 section 10, and the names of published faults of libraries.
"""

import base64
import json
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from service.errors import Reason
from tests.security.forge import P256_ORDER, Forge, base64url, public_bytes, segment

Attack = tuple[Callable[[Forge], str], Reason]


def parts(forge: Forge) -> tuple[str, str, str]:
    header, claims, signature = forge.token().split(".")
    return header, claims, signature


def signed_by(forge: Forge, signature: bytes) -> str:
    """A good header and good claims under this signature."""
    header, claims, _ = parts(forge)
    return f"{header}.{claims}.{base64url(signature)}"


def with_signature(change: Callable[[str], str]) -> Callable[[Forge], str]:
    def made(forge: Forge) -> str:
        header, claims, signature = parts(forge)
        return f"{header}.{claims}.{change(signature)}"

    return made


def raw_header(text: bytes) -> Callable[[Forge], str]:
    return lambda forge: forge.token(header=base64url(text))


def header_with(**changed: Any) -> Callable[[Forge], str]:
    return lambda forge: forge.with_header(**changed)


def unsigned(**changed: Any) -> Callable[[Forge], str]:
    """No signature at all, or some bytes in its place."""
    return lambda forge: f"{segment(forge.header(**changed))}.{segment(forge.claims())}.AA"


def curve_token(curve: ec.EllipticCurve, digest: hashes.HashAlgorithm, size: int) -> Callable[[Forge], str]:
    """Signed on another curve, under the active key's own header."""

    def made(forge: Forge) -> str:
        header, claims, _ = parts(forge)
        key = ec.generate_private_key(curve)
        r, s = decode_dss_signature(key.sign(f"{header}.{claims}".encode(), ec.ECDSA(digest)))
        return f"{header}.{claims}.{base64url(r.to_bytes(size, 'big') + s.to_bytes(size, 'big'))}"

    return made


def embedded(forge: Forge) -> dict[str, str]:
    return {name: value for name, value in forge.stranger.jwk.items() if name != "d"}


def own_key(**members: Any) -> Callable[[Forge], str]:
    """Signed with the attacker's key, which the header brings along."""

    def made(forge: Forge) -> str:
        header = forge.header() | {name: value or embedded(forge) for name, value in members.items()}
        return forge.token(key=forge.stranger, header=segment(header))

    return made


def pss(forge: Forge) -> str:
    signing_input = f"{segment(forge.header(forge.retired))}.{segment(forge.claims())}"
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    return f"{signing_input}.{base64url(forge.retired.private.sign(signing_input.encode(), scheme, hashes.SHA256()))}"


def malleable(forge: Forge) -> str:
    """The other half of a good signature: (r, n - s) verifies wherever (r, s) does."""
    header, claims, signature = parts(forge)
    raw = base64.urlsafe_b64decode(signature + "==")
    other = P256_ORDER - int.from_bytes(raw[32:], "big")
    return f"{header}.{claims}.{base64url(raw[:32] + other.to_bytes(32, 'big'))}"


def json_serialised(*, flattened: bool) -> Callable[[Forge], str]:
    def made(forge: Forge) -> str:
        header, claims, signature = parts(forge)
        signed = {"protected": header, "signature": signature}
        return json.dumps({"payload": claims, **signed} if flattened else {"payload": claims, "signatures": [signed]})

    return made


def pair(r: int, s: int, size: int = 32) -> Callable[[Forge], str]:
    return lambda forge: signed_by(forge, r.to_bytes(size, "big") + s.to_bytes(size, "big"))


def swapped_header(forge: Forge) -> str:
    """The claims and signature of one key under the header of another of the same ring."""
    _, claims, signature = parts(forge)
    return f"{segment(forge.header(forge.retired))}.{claims}.{signature}"


ATTACKS: dict[str, Attack] = {
    # no signature
    **{
        f"alg {alg!r}, unsigned": (unsigned(alg=alg), "unknown_key")
        for alg in ("none", "None", "NONE", "nOnE", "", " ")
    },
    "alg none, nothing after the last dot": (
        lambda f: f"{segment(f.header(alg='none'))}.{segment(f.claims())}.",
        "malformed",
    ),
    "alg none, no last dot": (lambda f: f"{segment(f.header(alg='none'))}.{segment(f.claims())}", "malformed"),
    "alg none, properly signed": (header_with(alg="none"), "unknown_key"),
    "the signature taken away": (with_signature(lambda _: ""), "malformed"),
    **{
        f"alg {name}": (header_with(alg=alg), "unknown_key")
        for name, alg in {
            "null": None,
            "a number": 256,
            "a list": ["ES256"],
            "an object": {"a": 1},
            "missing": ...,
        }.items()
    },
    "alg ES384": (header_with(alg="ES384"), "unknown_key"),
    "alg es256 in small letters": (header_with(alg="es256"), "unknown_key"),
    "alg ES256K": (header_with(alg="ES256K"), "unknown_key"),
    "alg HS256, signed by the EC key": (header_with(alg="HS256"), "unknown_key"),
    # symmetric and asymmetric confused
    **{
        f"{alg} with the {name} public key as {form}": (
            lambda f, which=which, form=form, alg=alg: f.hmac_token(  # type: ignore[misc]
                public_bytes(getattr(f, which), form), kid=getattr(f, which).kid, alg=alg
            ),
            "unknown_key" if alg == "HS256" else "bad_signature",
        )
        for name, which, own in (("EC", "active", "ES256"), ("RSA", "retired", "RS256"))
        for form in ("pem", "der", "bare")
        for alg in ("HS256", own)
    },
    "HS256 with the empty secret": (lambda f: f.hmac_token(b"", kid="active-es"), "unknown_key"),
    "HS256 with the secret from /dev/null by kid": (lambda f: f.hmac_token(b"", kid="../../dev/null"), "unknown_key"),
    # keys that the token brings along
    "embedded jwk": (own_key(jwk=None), "unknown_key"),
    "jku to the attacker": (own_key(jku="https://evil.example/jwks.json"), "unknown_key"),
    "x5u to the attacker": (own_key(x5u="https://evil.example/chain.pem"), "unknown_key"),
    "x5c chain": (own_key(x5c=["MIIB"]), "unknown_key"),
    "x5t thumbprint": (own_key(x5t="AAAA"), "unknown_key"),
    "jwk beside a good signature": (header_with(jwk={"kty": "EC"}), "unknown_key"),
    # kid
    **{
        f"kid {name}": (header_with(kid=kid), "unknown_key")
        for name, kid in {
            "null": None,
            "true": True,
            "a number": 7,
            "a list": ["active-es"],
            "an object": {"kid": "active-es"},
            "missing": ...,
            "empty": "",
            "unknown": "nobody",
            "in capitals": "ACTIVE-ES",
            "with a space": "active-es ",
            "with NUL": "active-es\x00",
            "path traversal": "../../../../etc/passwd",
            "SQL": "x' UNION SELECT 'key' --",
            "a command": "| whoami",
            "an address": "https://evil.example/key",
            "a template": "{{7*7}}${7*7}",
            "of 10,000 characters": "k" * 10_000,
            "a lone surrogate": "\ud800",
            "a number past 64 bits": 2**70,
        }.items()
    },
    "kid twice, the last one good": (
        raw_header(b'{"alg":"ES256","kid":"x","kid":"active-es","typ":"guest+jwt"}'),
        "unknown_key",
    ),
    # header members that must be understood, or must not
    "crit with an extension": (header_with(crit=["exp"], exp=1), "unknown_key"),
    "crit empty": (header_with(crit=[]), "unknown_key"),
    "b64 false": (header_with(b64=False, crit=["b64"]), "unknown_key"),
    "zip": (header_with(zip="DEF"), "unknown_key"),
    "cty JWT, a nested token": (header_with(cty="JWT"), "unknown_key"),
    "enc beside alg": (header_with(enc="A256GCM"), "unknown_key"),
    "typ JWT": (header_with(typ="JWT"), "unknown_key"),
    "typ at+jwt": (header_with(typ="at+jwt"), "unknown_key"),
    "typ logout+jwt": (header_with(typ="logout+jwt"), "unknown_key"),
    "typ in capitals": (header_with(typ="GUEST+JWT"), "unknown_key"),
    "typ missing": (header_with(typ=...), "unknown_key"),
    "an unknown member": (header_with(colour="red"), "unknown_key"),
    "a member __proto__": (header_with(__proto__={"alg": "none"}), "unknown_key"),
    # the same header in another spelling, properly signed
    "header in another order": (raw_header(b'{"typ":"guest+jwt","kid":"active-es","alg":"ES256"}'), "unknown_key"),
    "header with white space": (raw_header(b'{"alg": "ES256", "kid": "active-es", "typ": "guest+jwt"}'), "unknown_key"),
    "header with an escape": (
        raw_header(b'{"alg":"ES\\u0032\\u0035\\u0036","kid":"active-es","typ":"guest+jwt"}'),
        "unknown_key",
    ),
    "header with a byte order mark": (
        raw_header(b'\xef\xbb\xbf{"alg":"ES256","kid":"active-es","typ":"guest+jwt"}'),
        "unknown_key",
    ),
    "header in UTF-16": (
        raw_header('{"alg":"ES256","kid":"active-es","typ":"guest+jwt"}'.encode("utf-16")),
        "unknown_key",
    ),
    "header not JSON": (raw_header(b"ES256"), "unknown_key"),
    "header a list": (raw_header(b'["ES256"]'), "unknown_key"),
    "header null": (raw_header(b"null"), "unknown_key"),
    "header not UTF-8": (raw_header(b'{"alg":"\xff"}'), "unknown_key"),
    "header of 2,000 nested lists": (raw_header(b"[" * 2_000 + b"]" * 2_000), "unknown_key"),
    "header of another key of the ring": (swapped_header, "bad_signature"),
    # other serialisations
    "JSON serialisation, general": (json_serialised(flattened=False), "malformed"),
    "JSON serialisation, flattened": (json_serialised(flattened=True), "malformed"),
    "JWE, five segments": (lambda _: f"{segment({'alg': 'dir', 'enc': 'A256GCM'})}..AAAA.AAAA.AAAA", "malformed"),
    "a token inside a token": (lambda f: f.token(claims=base64url(f.token().encode())), "malformed"),
    # claims that are not JSON objects, though well signed
    **{
        f"claims {name}": (lambda f, raw=raw: f.token(claims=base64url(raw)), "malformed")  # type: ignore[misc]
        for name, raw in {
            "a list": b"[]",
            "null": b"null",
            "a string": b'"sub"',
            "a number": b"1",
            "empty object": b"{}",
            "not JSON": b"sub=G-1",
            "not UTF-8": b'{"sub":"\xff"}',
            "cut off": b'{"iss":"http://127.0.0.1:8080","sub":',
            "with trailing data": b"{}{}",
            "NaN": b'{"exp":NaN}',
            "nested 800 deep": b'{"payload":' * 800 + b"1" + b"}" * 800,
            "a number of 9,000 digits": b'{"exp":' + b"9" * 9_000 + b"}",
            "a double past its range": b'{"exp":1e999}',
            "a lone surrogate": b'{"sub":"\\ud800"}',
        }.items()
    },
    # signatures
    "signature by a stranger": (lambda f: f.token(key=f.stranger, header=segment(f.header())), "bad_signature"),
    "one bit changed": (
        with_signature(
            lambda s: base64url(
                bytes([base64.urlsafe_b64decode(s + "==")[0] ^ 1]) + base64.urlsafe_b64decode(s + "==")[1:]
            )
        ),
        "bad_signature",
    ),
    "r = s = 0": (pair(0, 0), "bad_signature"),
    "r = 0": (pair(0, 1), "bad_signature"),
    "s = 0": (pair(1, 0), "bad_signature"),
    "r = s = 1": (pair(1, 1), "bad_signature"),
    "r = s = n": (pair(P256_ORDER, P256_ORDER), "bad_signature"),
    "r = s = n - 1": (pair(P256_ORDER - 1, P256_ORDER - 1), "bad_signature"),
    "r = n + 1, s = 1": (pair(P256_ORDER + 1, 1), "bad_signature"),
    "all ones": (pair(2**256 - 1, 2**256 - 1), "bad_signature"),
    "r and s of 33 bytes": (pair(1, 1, size=33), "bad_signature"),
    "one byte": (lambda f: signed_by(f, b"\x00"), "bad_signature"),
    "half a signature": (with_signature(lambda s: s[:44]), "bad_signature"),
    "63 bytes": (lambda f: signed_by(f, b"\x01" * 63), "bad_signature"),
    "65 bytes": (lambda f: signed_by(f, b"\x01" * 65), "bad_signature"),
    "as DER": (
        lambda f: signed_by(f, f.active.sign_der(".".join(parts(f)[:2]))),
        "bad_signature",
    ),
    "on P-384 with SHA-384": (curve_token(ec.SECP384R1(), hashes.SHA384(), 48), "bad_signature"),
    "on P-384 with SHA-256": (curve_token(ec.SECP384R1(), hashes.SHA256(), 48), "bad_signature"),
    "on P-521": (curve_token(ec.SECP521R1(), hashes.SHA512(), 66), "bad_signature"),
    "on secp256k1": (curve_token(ec.SECP256K1(), hashes.SHA256(), 32), "bad_signature"),
    "RSA-PSS under RS256": (pss, "bad_signature"),
    "RS256 of zeros": (
        lambda f: f"{segment(f.header(f.retired))}.{segment(f.claims())}.{base64url(bytes(384))}",
        "bad_signature",
    ),
    "RS256 with the empty-ish signature": (
        lambda f: f"{segment(f.header(f.retired))}.{segment(f.claims())}.AA",
        "bad_signature",
    ),
    # spellings and segments: one token has one encoding
    "padded signature": (with_signature(lambda s: s + "=="), "malformed"),
    "standard alphabet": (lambda f: forced_spelling(f, b"-_", b"+/"), "malformed"),
    "white space in the signature": (with_signature(lambda s: s[:10] + " " + s[10:]), "malformed"),
    "a line break in the signature": (with_signature(lambda s: s[:10] + "\n" + s[10:]), "malformed"),
    "a tab after the token": (lambda f: f.token() + "\t", "malformed"),
    "NUL after the token": (lambda f: f.token() + "\x00", "malformed"),
    "trailing bits set": (with_signature(lambda s: s[:-1] + chr(ord(s[-1]) + 1)), "malformed"),
    "a letter from another script": (with_signature(lambda s: s[:-1] + "А"), "malformed"),  # noqa: RUF001 - the attack
    "a full-width dot": (lambda f: f.token().replace(".", "．"), "malformed"),  # noqa: RUF001 - the attack
    "a lone surrogate": (lambda f: f.token() + "\ud800", "malformed"),
    "one character too many": (with_signature(lambda s: s + "A"), "bad_signature"),
    "four characters too many": (with_signature(lambda s: s + "AAAA"), "bad_signature"),
    "percent-encoded": (lambda f: f.token().replace(".", "%2E"), "malformed"),
    "Bearer before it": (lambda f: f"Bearer {f.token()}", "malformed"),
    "in quotation marks": (lambda f: f'"{f.token()}"', "malformed"),
    "empty": (lambda _: "", "malformed"),
    "two dots": (lambda _: "..", "malformed"),
    "no header": (lambda f: "." + ".".join(parts(f)[1:]), "malformed"),
    "no claims": (lambda f: f"{parts(f)[0]}..{parts(f)[2]}", "malformed"),
    "two segments": (lambda f: ".".join(parts(f)[:2]), "malformed"),
    "four segments": (lambda f: f.token() + ".AAAA", "malformed"),
    "a dot after it": (lambda f: f.token() + ".", "malformed"),
    "the token twice": (lambda f: f.token() + f.token(), "malformed"),
    "the token twice, with a dot": (lambda f: f"{f.token()}.{f.token()}", "malformed"),
    "claims doubled": (lambda f: f"{parts(f)[0]}.{parts(f)[1] * 2}.{parts(f)[2]}", "malformed"),
    "claims cut": (
        lambda f: f"{parts(f)[0]}.{base64url(b'{}')}.{parts(f)[2]}",
        "bad_signature",
    ),
    "header cut": (lambda f: f"{parts(f)[0][:-4]}.{parts(f)[1]}.{parts(f)[2]}", "unknown_key"),
    # size
    "16,385 bytes": (lambda _: "A" * 16_385, "too_large"),
    "100 KB": (lambda _: "A" * 100_000, "too_large"),
    "100 KB of dots": (lambda _: "." * 100_000, "too_large"),
    "10 MB": (lambda f: f"{parts(f)[0]}.{'A' * 10_000_000}.{parts(f)[2]}", "too_large"),
    "16,384 characters of four bytes each": (lambda _: "🦊" * 16_384, "too_large"),
    # keys
    "of a revoked key": (lambda f: f.token(key=f.revoked), "revoked"),
    "of a revoked key, badly signed": (
        lambda f: f.token(key=f.stranger, header=segment(f.header(f.revoked))),
        "revoked",
    ),
    "of another ring": (lambda f: f.token(key=f.stranger), "unknown_key"),
}


def forced_spelling(forge: Forge, old: bytes, new: bytes) -> str:
    """A token whose signature has characters of both alphabets, in the wrong one."""
    while True:
        header, claims, signature = parts(forge)
        if "-" in signature or "_" in signature:
            return f"{header}.{claims}.{signature.encode().translate(bytes.maketrans(old, new)).decode()}"
