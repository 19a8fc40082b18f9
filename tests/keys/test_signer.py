import base64
import subprocess
import sys
from typing import Any

import jwt
import msgspec
import pytest
from jose.backends import RSAKey
from jose.backends.ecdsa_backend import ECDSAECKey

from service.errors import InvalidToken, NotReady
from service.keys import keyring, signer
from service.keys.keyring import Key, KeyRing
from service.keys.material import Algorithm
from service.keys.signer import Signer, encoded_header, inspect, make_key
from tests.security.forge import forge, segment

NOW_S = 1_800_000_000


def ring_of(private: dict[str, Any], *, kid: str = "k1", algorithm: Algorithm = "ES256") -> KeyRing:
    key = keyring.new_key(private, kid=kid, algorithm=algorithm, max_lifetime_s=600, now_s=NOW_S)
    return keyring.create(key, ring_id="test-ring", derivation_secret=b"s" * 32)


def active_of(ring: KeyRing) -> Key:
    assert ring.active is not None
    return ring.active


def refusal(codec: Signer, token: str) -> str | None:
    try:
        codec.verify(token)
    except InvalidToken as error:
        return error.reason
    return None


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_what_it_signs_it_verifies_and_so_does_an_off_the_shelf_library(algorithm: Algorithm) -> None:
    ring = ring_of(make_key(algorithm), algorithm=algorithm)
    claims = b'{"sub":"G-1","payload":{"a":"\xc3\xbc"}}'

    token = Signer(ring).sign(claims)
    key, body = Signer(ring).verify(token)

    public = jwt.PyJWK(keyring.public_jwk(active_of(ring)))
    assert (key, body) == (active_of(ring), claims)
    assert jwt.decode(token, public, algorithms=[algorithm]) == msgspec.json.decode(claims)
    assert jwt.get_unverified_header(token) == {"alg": algorithm, "kid": "k1", "typ": "guest+jwt"}


def test_the_header_has_exactly_these_members_in_this_order() -> None:
    assert encoded_header(active_of(ring_of(make_key("ES256")))) == segment(
        {"alg": "ES256", "kid": "k1", "typ": "guest+jwt"}
    )


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_an_access_token_is_good_for_other_libraries_and_a_guest_token_nowhere(algorithm: Algorithm) -> None:
    ring = ring_of(make_key(algorithm), algorithm=algorithm)

    token = Signer(ring).sign_access_token(b'{"sub":"G-1"}')

    public = jwt.PyJWK(keyring.public_jwk(active_of(ring)))
    assert jwt.decode(token, public, algorithms=[algorithm]) == {"sub": "G-1"}
    assert jwt.get_unverified_header(token) == {"alg": algorithm, "kid": "k1", "typ": "at+jwt"}
    assert refusal(Signer(ring), token) == "unknown_key"


def test_a_ring_verifies_what_its_other_keys_signed_and_says_which_key() -> None:
    made = forge()
    codec = Signer(made.ring)

    assert codec.verify(made.token())[0].kid == "active-es"
    assert codec.verify(made.token(key=made.retired))[0].kid == "retired-rs"


def test_a_revoked_key_is_told_before_the_signature_is_looked_at() -> None:
    made = forge()
    header = segment(made.header(made.revoked))

    assert refusal(Signer(made.ring), f"{header}.e30.AAAA") == "revoked"


def test_a_ring_without_an_active_key_verifies_and_signs_nothing() -> None:
    made = forge()
    signer = Signer(keyring.revoke(made.ring, made.active.kid, now_s=NOW_S))

    assert signer.kid == ""
    assert signer.verify(made.token(key=made.retired))[0].kid == "retired-rs"
    for sign in (signer.sign, signer.sign_access_token):
        with pytest.raises(NotReady, match="No key signs") as caught:
            sign(b"{}")
        assert caught.value.code == "not_ready"


def changed(ring: KeyRing, kid: str, **members: str) -> KeyRing:
    """The ring with other numbers in one key."""
    records = (
        msgspec.structs.replace(each, private=each.private | members) if each.kid == kid else each
        for each in ring.records
    )
    return msgspec.structs.replace(ring, records=tuple(records))


def test_the_private_part_of_the_active_key_alone_is_loaded() -> None:
    made = forge()
    signer = Signer(changed(made.ring, made.retired.kid, d="AQ"))

    assert signer.verify(signer.sign(b"{}"))[0].kid == made.active.kid
    assert signer.verify(made.token(key=made.retired))[0].kid == "retired-rs"
    assert signer.faults == {}


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_damaged_private_numbers_verify_and_do_not_sign(algorithm: Algorithm) -> None:
    ring = ring_of(make_key(algorithm), algorithm=algorithm)
    token = Signer(ring).sign(b"{}")

    signer = Signer(changed(ring, "k1", d="AQ"))

    assert signer.faults == {"k1": f"Key k1 is damaged: its numbers make no {algorithm} key."}
    assert signer.verify(token)[0].kid == "k1"
    with pytest.raises(NotReady):
        signer.sign(b"{}")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"x": "A" * 43}, "its numbers make no ES256 key"),
        ({"x": "AAAA"}, "not on the curve P-256"),
        ({"kty": "RSA"}, "no whole ES256 key"),
        ({"y": "!"}, "no whole ES256 key"),
    ],
    ids=["off the curve", "too short", "another type", "no base64url"],
)
def test_a_damaged_key_leaves_the_others_to_verify(members: dict[str, str], reason: str) -> None:
    made = forge()
    token = made.token(key=made.active)

    signer = Signer(changed(made.ring, made.active.kid, **members))

    assert signer.verify(made.token(key=made.retired))[0].kid == "retired-rs"
    assert refusal(signer, token) == "unknown_key"
    assert reason in signer.faults[made.active.kid]


def test_the_size_limit_holds_to_the_byte_and_counts_bytes_not_characters() -> None:
    codec = Signer(forge().ring)

    assert refusal(codec, "A" * 16_384) == "malformed"
    assert refusal(codec, "A" * 16_385) == "too_large"
    assert refusal(codec, "ü" * 8_192) == "malformed"
    assert refusal(codec, "ü" * 8_192 + "A") == "too_large"


@pytest.mark.parametrize("tail", [b"", b"a", b"ab"])
def test_base64url_has_one_spelling_whatever_the_length(tail: bytes) -> None:
    made = forge()
    codec = Signer(made.ring)
    body = b'{"x":"\xfb\xff\xfe"}' + tail

    token = codec.sign(body)
    header, claims, signature = token.split(".")

    assert codec.verify(token)[1] == body
    assert "=" not in token
    for other in (claims + "=", claims + "==", claims.replace("_", "/"), claims.replace("-", "+"), claims[:-1] + "!"):
        if other != claims:
            assert refusal(codec, f"{header}.{other}.{signature}") == "malformed"


def test_one_change_anywhere_in_a_token_is_noticed() -> None:
    made = forge()
    codec = Signer(made.ring)
    token = made.token()
    reasons = set()

    for index, character in enumerate(token):
        other = "A" if character != "A" else "B"
        reasons.add(refusal(codec, token[:index] + other + token[index + 1 :]))

    assert reasons == {"unknown_key", "bad_signature", "malformed"}


def test_making_a_key_pads_the_coordinates_and_names_no_kid() -> None:
    made = [make_key("ES256") for _ in range(300)]

    assert {(len(key["x"]), len(key["y"]), len(key["d"])) for key in made} == {(43, 43, 43)}
    assert {tuple(sorted(key)) for key in made} == {("alg", "crv", "d", "kty", "x", "y")}
    assert len({key["d"] for key in made}) == 300


@pytest.mark.parametrize(("options", "bits"), [({}, 3_072), ({"rsa_bits": 2_048}, 2_048)], ids=["default", "2048"])
def test_an_rsa_key_has_its_bits_and_the_usual_exponent(options: dict[str, int], bits: int) -> None:
    made = make_key("RS256", **options)

    assert int.from_bytes(base64.urlsafe_b64decode(made["n"] + "==")).bit_length() == bits
    assert made["e"] == "AQAB"
    assert {"n", "e", "d", "p", "q", "dp", "dq", "qi"} <= set(made)


def test_inspection_shows_what_a_token_states_and_verifies_nothing() -> None:
    assert inspect(f"{segment({'alg': 'none'})}.{segment({'sub': 'anyone'})}.AA") == {
        "header": {"alg": "none"},
        "claims": {"sub": "anyone"},
    }


@pytest.mark.parametrize(
    "token", ["", "a.b", "e30.e30.!", "MQ.MQ.", f"{segment({})}.eyI.AA", "_w.e30.AA", f"{segment({})}.IlxdODAwIg.AA"]
)
def test_inspection_refuses_what_is_no_token(token: str) -> None:
    with pytest.raises(InvalidToken) as caught:
        inspect(token)

    assert caught.value.reason == "malformed"


def test_inspection_refuses_what_is_too_deep_to_read() -> None:
    deep = "W1tb" * 4_000

    with pytest.raises(InvalidToken) as caught:
        inspect(f"{segment({})}.{deep}.AA")

    assert caught.value.reason == "malformed"


def test_the_back_end_is_the_one_of_cryptography() -> None:
    signer.require_cryptography_backend()


def test_any_other_back_end_is_refused() -> None:
    with pytest.raises(RuntimeError, match="without its cryptography back end"):
        signer.require_cryptography_backend((ECDSAECKey, RSAKey))


def test_where_python_jose_fell_back_in_silence_nothing_starts() -> None:
    start = """
import sys
sys.modules["jose.backends.cryptography_backend"] = None
import jose.backends
print(jose.backends.ECKey.__module__)
import service.server
"""

    ended = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=False)  # noqa: S603 - our own words

    assert ended.stdout.strip() == "jose.backends.ecdsa_backend"
    assert ended.returncode == 1
    assert "cryptography_backend" in ended.stderr.splitlines()[-1]


def test_ecdsa_is_installed_with_python_jose_and_never_imported() -> None:
    imported = "import sys, service.cli, service.server\nprint('ecdsa' in sys.modules, 'jose.jwe' in sys.modules)"

    ended = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, check=True)  # noqa: S603 - our own words

    assert ended.stdout.split() == ["False", "False"]
