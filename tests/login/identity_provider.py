"""A double of an OpenID Connect provider: every visitor is Ada, and agrees at once. Started as `python FILE PORT`."""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Provider(BaseHTTPRequestHandler):
    """The code that it gives away is the `nonce` that has to come back in the ID token."""

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if path == "/.well-known/openid-configuration":
            self.respond(
                {
                    "issuer": self.issuer,
                    "authorization_endpoint": f"{self.issuer}/authorize",
                    "token_endpoint": f"{self.issuer}/token",
                    "jwks_uri": f"{self.issuer}/jwks",
                    "id_token_signing_alg_values_supported": ["RS256"],
                }
            )
        elif path == "/jwks":
            self.respond({"keys": [json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key())) | {"kid": "1"}]})
        else:
            assert path == "/authorize"
            back = urlencode({"code": query["nonce"][0], "state": query["state"][0]})
            self.send_response(302)
            self.send_header("Location", f"{query['redirect_uri'][0]}?{back}")
            self.end_headers()

    def do_POST(self) -> None:
        assert self.path == "/token"
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        now_s = int(time.time())
        claims = {"iss": self.issuer, "sub": "ada", "aud": "shop", "iat": now_s, "exp": now_s + 60}
        id_token = jwt.encode(claims | {"nonce": form["code"][0]}, KEY, "RS256", headers={"kid": "1"})
        self.respond({"access_token": "unused", "token_type": "Bearer", "expires_in": 60, "id_token": id_token})

    def respond(self, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Provider).serve_forever()
