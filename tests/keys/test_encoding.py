import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidTransition, KeyringDamaged, KeyringNewer
from service.keys import encoding, keyring
from service.keys.encryption import Sealer
from service.keys.file_store import open_ring
from service.keys.keyring import KeyRing
from service.keys.signer import Signer
from tests.doubles import make_test_key, make_test_ring

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_SECRET = "Z29sZGVuLWZpbGVzOiBmb3IgdGhlIHRlc3RzIG9ubHk="
NOW_S = 1_700_500_000


def stored(ring: KeyRing) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(encoding.to_jwk_set(ring))
    return document


def read(document: dict[str, Any]) -> KeyRing:
    return encoding.from_jwk_set(json.dumps(document).encode())


def rotated(ring: KeyRing, kid: str, *, now_s: float) -> KeyRing:
    return keyring.promote(keyring.stage(ring, make_test_key(kid, now_s=now_s)), now_s=now_s)


# --- the form of today ---


def test_a_ring_at_rest_is_a_jwk_set_of_times_with_a_version() -> None:
    document = stored(rotated(make_test_ring("a", now_s=100), "b", now_s=200))

    assert (document["version"], document["purpose"], document["ring"]) == (2, "guest-sessions keyring", "deployment-1")
    key = document["keys"][0]
    assert {name: key[name] for name in key if name not in "xyd"} == {
        "kid": "a",
        "alg": "ES256",
        "use": "sig",
        "max_lifetime": 1_000,
        "created_at": 100,
        "activated_at": 100,
        "kty": "EC",
        "crv": "P-256",
    }


def test_a_ring_of_all_states_and_algorithms_comes_back() -> None:
    ring = rotated(make_test_ring("a", now_s=100), "b", now_s=200)
    ring = keyring.stage(keyring.revoke(ring, "a", now_s=300), make_test_key("c", now_s=300, algorithm="RS256"))
    ring = keyring.import_foreign(ring, make_test_ring("f", now_s=50, ring_id="deployment-2"), now_s=400)
    ring = msgspec.structs.replace(ring, jwks_ages={60: 400, 300: 100})

    assert encoding.from_jwk_set(encoding.to_jwk_set(ring)) == ring


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"{}", b'{"keys":[]}', b"\xff\xfe", b'{"purpose":"another"}', b"not json"]
)
def test_what_is_no_keyring_is_damaged(content: bytes) -> None:
    with pytest.raises(KeyringDamaged, match="no keyring, or a damaged one") as caught:
        encoding.from_jwk_set(content)
    assert caught.value.code == "keyring_damaged"


def test_a_keyring_cut_off_anywhere_is_damaged() -> None:
    whole = encoding.to_jwk_set(make_test_ring("a", now_s=100)).rstrip()

    for length in range(len(whole)):
        with pytest.raises(KeyringDamaged):
            encoding.from_jwk_set(whole[:length])


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("kid", "seventeen-letters"),
        ("created_at", -1),
        ("created_at", True),
        ("created_at", 9_007_199_254_740_992),
        ("activated_at", "never"),
        ("max_lifetime", 0),
        ("alg", 7),
        ("use", "enc"),
    ],
)
def test_a_key_without_legible_times_is_damage(member: str, value: object) -> None:
    document = stored(make_test_ring("a", now_s=100))
    secret = document["keys"][0]["d"]
    document["keys"][0][member] = value

    with pytest.raises(KeyringDamaged, match=rf"at \$(\.keys.*)?\.{member}") as caught:
        read(document)
    assert secret not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_damage_report_repeats_no_value() -> None:
    document = stored(make_test_ring("a", now_s=100))
    document["purpose"] = "hunter2"

    with pytest.raises(KeyringDamaged) as caught:
        read(document)
    assert "hunter2" not in str(caught.value)


def test_the_latest_time_that_every_json_reader_takes() -> None:
    document = stored(make_test_ring("a", now_s=100))
    document["keys"][0]["created_at"] = 9_007_199_254_740_991

    assert read(document).records[0].created_at_s == 9_007_199_254_740_991


def test_two_keys_of_one_name_are_damage() -> None:
    document = stored(make_test_ring("a", now_s=100))
    document["keys"].append(document["keys"][0])

    with pytest.raises(KeyringDamaged, match="two keys have one kid"):
        read(document)


@pytest.mark.parametrize("secret", ["", "AAAA", "A" * 200, "!" * 44])
def test_a_derivation_secret_of_another_length_is_damage(secret: str) -> None:
    with pytest.raises(KeyringDamaged):
        read(stored(make_test_ring("a", now_s=100)) | {"derivation_secret": secret})


# --- versions ---


@pytest.mark.parametrize("version", [3, 99])
def test_a_newer_form_is_refused_as_such(version: int) -> None:
    with pytest.raises(KeyringNewer, match=f"newer version.*form {version}") as caught:
        read({"purpose": "guest-sessions keyring", "version": version, "wholly": "different"})
    assert caught.value.code == "keyring_newer"


@pytest.mark.parametrize("version", [0, -1, "2", True, 1.5, None])
def test_a_version_that_is_none_is_damage(version: object) -> None:
    with pytest.raises(KeyringDamaged):
        read(stored(make_test_ring("a", now_s=100)) | {"version": version})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(ring_member=json_values, key_member=json_values)
def test_members_of_a_later_release_are_kept(ring_member: Any, key_member: Any) -> None:
    document = stored(make_test_ring("a", now_s=100)) | {"hints": ring_member}
    document["keys"][0]["note"] = key_member

    again = stored(rotated(read(document), "b", now_s=200))

    assert again["hints"] == ring_member
    assert again["keys"][0]["note"] == key_member


def test_an_unknown_algorithm_keeps_its_times_and_comes_back() -> None:
    document = stored(rotated(make_test_ring("a", now_s=100), "b", now_s=200))
    document["keys"][1] |= {"alg": "EdDSA", "kty": "OKP", "crv": "Ed25519"}

    ring = read(document)

    assert ring.active is not None
    assert ring.active.kid == "b"
    assert encoding.faults(ring) == {"b": "its algorithm is not known here"}
    assert stored(ring) == document
    assert [key["kid"] for key in json.loads(encoding.public_jwks(ring, lead_s=1, now_s=200))["keys"]] == ["a"]


def test_a_damaged_key_leaves_the_rest_and_stays_in_the_file() -> None:
    document = stored(rotated(make_test_ring("a", now_s=100), "b", now_s=200))
    document["keys"][0]["x"] = "AAAA"

    ring = read(document)

    assert [key.state.value for key in ring.keys] == ["retired", "active"]
    assert list(encoding.faults(ring)) == ["a"]
    assert Signer(ring).sign(b"{}")
    assert stored(ring) == document


# --- release 0.1.0 ---


def golden_tokens() -> dict[str, str]:
    tokens: dict[str, str] = json.loads((GOLDEN / "0.1.0" / "tokens.json").read_bytes())
    return tokens


@pytest.mark.parametrize("name", ["keyring.json", "keyring.sealed"])
def test_a_ring_of_0_1_0_is_read_with_its_states(name: str) -> None:
    ring, _ = open_ring((GOLDEN / "0.1.0" / name).read_bytes(), Sealer([GOLDEN_SECRET]))

    assert {key.kid: key.state.value for key in ring.keys} == {
        "0a00000000000001": "revoked",
        "0a00000000000002": "retired",
        "0a00000000000003": "active",
        "0a00000000000004": "next",
        "0b00000000000001": "retired",
    }
    assert {key.kid: key.retired_at_s for key in ring.keys if key.state.value == "retired"} == {
        "0a00000000000002": 1_700_173_400,
        "0b00000000000001": 1_700_345_600,
    }
    assert ring.revoked_before_s == 1_699_913_600


@pytest.mark.parametrize("of", ["retired", "active", "foreign"])
def test_tokens_of_0_1_0_verify(of: str) -> None:
    ring = encoding.from_jwk_set((GOLDEN / "0.1.0" / "keyring.json").read_bytes())

    key, claims = Signer(ring).verify(golden_tokens()[of])

    assert key.state.value in ("retired", "active")
    assert json.loads(claims)["iss"] == "http://golden.test"


def test_a_ring_of_0_1_0_stays_legible_to_it() -> None:
    content = (GOLDEN / "0.1.0" / "keyring.json").read_bytes()

    assert encoding.to_jwk_set(encoding.from_jwk_set(content)) == content


def test_a_ring_of_0_1_0_with_a_later_member_is_written_in_the_form_of_today() -> None:
    document = json.loads((GOLDEN / "0.1.0" / "keyring.json").read_bytes()) | {"hints": 1}

    again = stored(read(document))

    assert (again["version"], again["hints"]) == (2, 1)


def test_a_ring_of_0_1_0_without_an_active_key_is_written_in_the_form_of_today() -> None:
    ring = encoding.from_jwk_set((GOLDEN / "0.1.0" / "keyring.json").read_bytes())
    assert ring.active is not None

    again = stored(keyring.revoke(ring, ring.active.kid, now_s=NOW_S))

    assert again["version"] == 2
    assert encoding.from_jwk_set(json.dumps(again).encode()).active is None


def test_going_back_to_0_1_0_gives_its_own_file() -> None:
    content = (GOLDEN / "0.1.0" / "keyring.json").read_bytes()

    assert json.loads(encoding.to_jwk_set_0_1_0(encoding.from_jwk_set(content))) == json.loads(content)


def test_a_ring_of_today_goes_back_to_0_1_0_and_returns() -> None:
    start = make_test_ring("a", now_s=100)
    ring = keyring.join(keyring.stage(start, make_test_key("b", now_s=150)), rotated(start, "c", now_s=200))
    ring = msgspec.structs.replace(keyring.stage(ring, make_test_key("d", now_s=300)), extra={"new": 1})

    document = json.loads(encoding.to_jwk_set_0_1_0(ring))
    back = read(document)

    assert {key["kid"]: key["state"] for key in document["keys"]} == {
        "a": "retired",
        "b": "retired",
        "c": "active",
        "d": "next",
    }
    assert document.keys() == {"purpose", "ring", "revision", "revoked_before", "derivation_secret", "keys"}
    assert {key.kid: key.state for key in back.keys} == {key.kid: key.state for key in ring.keys}


def test_without_an_active_key_there_is_no_way_back() -> None:
    with pytest.raises(InvalidTransition, match=r"0\.1\.0 needs one"):
        encoding.to_jwk_set_0_1_0(keyring.revoke(make_test_ring("a", now_s=100), "a", now_s=200))


def form_1(**times: dict[str, Any]) -> dict[str, Any]:
    """A ring of 0.1.0 with one key for each name."""
    keys = []
    for kid, members in times.items():
        key = stored(make_test_ring(kid, now_s=100))["keys"][0]
        keys.append({name: value for name, value in key.items() if not name.endswith("_at")} | members)
    whole = stored(make_test_ring("z", now_s=100)) | {"keys": keys}
    return {name: value for name, value in whole.items() if name not in ("version", "jwks_ages")}


def test_the_active_key_of_0_1_0_stays_active_whatever_its_clock() -> None:
    ring = read(
        form_1(
            a={"state": "retired", "created_at": 1_000, "activated_at": 1_000, "retired_at": 60},
            b={"state": "active", "created_at": 50, "activated_at": 60},
        )
    )

    assert {key.kid: key.state.value for key in ring.keys} == {"a": "retired", "b": "active"}


@pytest.mark.parametrize(
    "members",
    [
        {"state": "next", "created_at": 100},
        {"state": "retired", "created_at": 100},
        {"state": "active", "created_at": 100},
        {"created_at": 100, "activated_at": 100},
    ],
    ids=["none active", "retired since never", "active since never", "no state"],
)
def test_a_ring_of_0_1_0_that_breaks_its_rules_is_damage(members: dict[str, Any]) -> None:
    with pytest.raises(KeyringDamaged):
        read(form_1(a=members))


# --- what others see ---


def test_the_jwks_has_the_public_parts_of_keys_that_verify() -> None:
    ring = rotated(make_test_ring("a", now_s=100), "b", now_s=200)
    ring = keyring.stage(ring, make_test_key("c", now_s=300, algorithm="RS256"))
    ring = keyring.revoke(ring, "a", now_s=300)

    jwks = json.loads(encoding.public_jwks(ring, lead_s=600, now_s=300))

    assert [(key["kid"], key["alg"], key["kty"], key["use"]) for key in jwks["keys"]] == [
        ("b", "ES256", "EC", "sig"),
        ("c", "RS256", "RSA", "sig"),
    ]
    assert list(jwks["keys"][0]) == ["kty", "use", "alg", "kid", "crv", "x", "y"]
    assert list(jwks["keys"][1]) == ["kty", "use", "alg", "kid", "n", "e"]
