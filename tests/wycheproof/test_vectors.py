"""Project Wycheproof's vectors against the codec: `make wycheproof WYCHEPROOF=FOLDER`.

FOLDER is `testvectors_v1` of a checkout of C2SP/wycheproof, or `src/data` of the crate `wycheproof`, which lacks the
JSON Web Signatures. The vectors are Apache-2.0, some 24 MB, and not part of this project.

Deviations. Every JSON Web Signature is refused, those that Wycheproof calls valid too: their headers lack our `typ`,
and a header that is not in the table of the ring's is not interpreted (docs/architecture.md). That it is the header
which they are refused for is seen by giving their signatures to the key itself. "Acceptable" is refused: a PKCS #1
padding without the NULL of its algorithm (RFC 8017, section 9.2, note 2, lets a verifier choose).
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from service.errors import InvalidToken
from service.keys import keyring, signer
from service.keys.material import Algorithm
from service.keys.signer import Signer
from tests.security.forge import base64url

FOLDER: Final = Path(os.environ.get("WYCHEPROOF") or "testvectors_v1")
SIGNATURES: Final = {
    "ecdsa_secp256r1_sha256_p1363_test.json": ("ES256", "publicKeyJwk"),
    "rsa_signature_2048_sha256_test.json": ("RS256", "keyJwk"),
    "rsa_signature_3072_sha256_test.json": ("RS256", "keyJwk"),
    "rsa_signature_4096_sha256_test.json": ("RS256", "keyJwk"),
}
OURS: Final = ("ES256", "RS256")


def groups(name: str) -> list[dict[str, Any]]:
    path = FOLDER / name
    return list(json.loads(path.read_text("utf-8"))["testGroups"]) if path.exists() else []


def signatures() -> Iterator[Any]:
    for name, (algorithm, key) in SIGNATURES.items():
        for group in groups(name):
            for test in group["tests"] if key in group else []:
                yield pytest.param(algorithm, group[key], test, id=f"{name.removesuffix('_test.json')}-{test['tcId']}")


def tokens() -> Iterator[Any]:
    for group in groups("json_web_signature_test.json"):
        for test in group["tests"]:
            yield pytest.param(group["private"], test, id=f"{group['comment']}-{test['tcId']}-{test['comment']}")


def is_good(algorithm: str, jwk: dict[str, Any], signed: bytes, signature: bytes) -> bool:
    key = signer._key_class("ES256" if algorithm == "ES256" else "RS256")(jwk, algorithm)
    return bool(key.public_key().verify(signed, signature))


@pytest.mark.parametrize(("algorithm", "jwk", "vector"), list(signatures()))
def test_a_signature_is_taken_where_wycheproof_takes_it(algorithm: str, jwk: dict[str, Any], vector: Any) -> None:
    good = is_good(algorithm, jwk, bytes.fromhex(vector["msg"]), bytes.fromhex(vector["sig"]))

    assert good == (vector["result"] == "valid")


@pytest.mark.parametrize(("jwk", "vector"), list(tokens()))
def test_no_token_is_taken_and_a_good_one_only_for_its_header(jwk: dict[str, Any], vector: Any) -> None:
    raw_token = vector["jws"] if isinstance(vector["jws"], str) else json.dumps(vector["jws"])
    algorithm: Algorithm = "RS256" if jwk.get("alg") == "RS256" else "ES256"
    private = jwk if jwk.get("alg") in OURS else signer.make_key(algorithm)

    with pytest.raises(InvalidToken) as refused:
        codec(private, algorithm).verify(raw_token)

    if vector["result"] == "valid" and jwk.get("alg") in OURS:
        signed, _, signature = raw_token.rpartition(".")
        raw_signature = signer._decode(signature.encode())
        assert refused.value.reason == "unknown_key"
        assert is_good(algorithm, private, signed.encode(), raw_signature)
        assert not is_good(algorithm, private, signed.encode() + b"x", raw_signature)


def codec(private: dict[str, Any], algorithm: Algorithm) -> Signer:
    key = keyring.new_key(
        {name: value for name, value in private.items() if name not in ("kid", "use", "alg")},
        kid=base64url(b"wycheproof"),
        algorithm=algorithm,
        max_lifetime_s=1,
        now_s=0,
    )
    return Signer(keyring.create(key, ring_id="d", derivation_secret=b"s" * 32))


def test_there_are_vectors() -> None:
    assert [*signatures(), *tokens()], f"{FOLDER} holds none of {[*SIGNATURES, 'json_web_signature_test.json']}"
