"""HAProxy's keys: as many as there are, found by the token's kid."""

import subprocess
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.gateways.echo import echo
from tests.gateways.gateways import EXAMPLES, Site, haproxy
from tests.gateways.guest_service import ISSUER, GuestService
from tests.gateways.processes import send, wait_until
from tests.gateways.test_guarding import cookie, identity, named

PEM = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"


class Keyring(GuestService):
    """Five keys for ES256 and one for RS256, exported as the command line does it."""

    def __init__(self) -> None:
        super().__init__(port=0, environment={})
        self.keys: dict[str, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey] = {
            **{f"key-{n}": ec.generate_private_key(ec.SECP256R1()) for n in range(5)},
            "rsa-key": rsa.generate_private_key(65537, 2048),
        }

    def command(self, *arguments: str) -> str:
        assert arguments == ("keys", "export", "--public", "--pem")
        pems = {
            kid: key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            for kid, key in self.keys.items()
        }
        return "".join(f"{kid}\n{pem.decode()}" for kid, pem in pems.items())

    def token(self, kid: str, *, signed_by: str | None = None) -> str:
        claims = {"iss": ISSUER, "sub": f"G-{kid}", "exp": int(time.time()) + 600, "ver": 1}
        key = self.keys[signed_by or kid]
        algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        return jwt.encode(claims, key, algorithm, headers={"kid": kid, "typ": "guest+jwt"})


def test_each_of_six_keys_verifies_its_own_tokens_until_it_is_removed(tmp_path: Path) -> None:
    keyring = Keyring()
    tokens = {kid: keyring.token(kid) for kid in keyring.keys}
    confused = [keyring.token("key-0", signed_by=other) for other in ("key-1", "rsa-key")]
    confused += [keyring.token("rsa-key", signed_by="key-0"), keyring.token("unknown", signed_by="key-0")]
    with echo() as app, haproxy(Site(keyring, app.port, tmp_path)) as running:
        for kid, token in tokens.items():
            for headers in (cookie(token), [("Authorization", f"Bearer {token}"), *cookie(confused[0])]):
                answer = send(running.port, "/account", headers=headers)
                assert named("x-guest-id", identity(answer)) == [f"G-{kid}"]
        assert {send(running.port, "/account", headers=cookie(each)).status for each in confused} == {401}

        del keyring.keys["key-0"]
        removed = tokens.pop("key-0")
        running.take_new_keys()
        wait_until(
            lambda: send(running.port, "/account", headers=cookie(removed)).status == 401,
            what="HAProxy refuses the removed key",
        )
        assert {send(running.port, "/account", headers=cookie(each)).status for each in tokens.values()} == {200}


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        pytest.param("", "no complete public key", id="nothing"),
        pytest.param("k1\n-----BEGIN PUBLIC KEY-----\nMFkw\n", "no complete public key", id="half a key"),
        pytest.param(PEM, "kid", id="a key without a kid"),
        pytest.param(f"../k\n{PEM}", "kid", id="a path as a kid"),
    ],
)
def test_bad_keys_change_nothing(keys: str, why: str, tmp_path: Path) -> None:
    assert install(f"k1\n{PEM}k2\n{PEM}", tmp_path).returncode == 0
    before = contents(tmp_path)
    assert set(before) == {"k1.pem", "k2.pem", "keys.map", "keys.cfg"}

    done = install(keys, tmp_path)

    assert done.returncode == 1
    assert why in done.stderr
    assert "NOTHING WAS CHANGED" in done.stderr
    assert contents(tmp_path) == before


def install(keys: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = EXAMPLES / "haproxy/install-keys.sh"
    return subprocess.run([script, folder], input=keys, text=True, capture_output=True, check=False)  # noqa: S603


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
