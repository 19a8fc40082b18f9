"""A double of SuperTokens' core, which is a server of its own in Java: as much as its SDKs ask for at a login.

Any password is right, and the user's id is the name in front of the `@`. Started as `python -m … PORT`.
"""

import json
import sys
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

KEY_ID = "d-1"
LIFE_S = 3600
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def user(email: str) -> dict[str, Any]:
    user_id = email.partition("@")[0]
    method = {
        "recipeId": "emailpassword",
        "recipeUserId": user_id,
        "tenantIds": ["public"],
        "email": email,
        "verified": True,
        "timeJoined": 0,
    }
    return {
        "id": user_id,
        "isPrimaryUser": False,
        "tenantIds": ["public"],
        "timeJoined": 0,
        "emails": [email],
        "phoneNumbers": [],
        "thirdParty": [],
        "webauthn": {"credentialIds": []},
        "loginMethods": [method],
    }


def session(body: dict[str, Any]) -> dict[str, Any]:
    now_s = int(time.time())
    handle = str(uuid.uuid4())
    claims = body["userDataInJWT"] | {
        "sub": body["userId"],
        "rsub": body["userId"],
        "tId": "public",
        "iat": now_s,
        "exp": now_s + LIFE_S,
        "sessionHandle": handle,
        "refreshTokenHash1": "0",
        "parentRefreshTokenHash1": None,
        "antiCsrfToken": None,
    }
    token = jwt.encode(claims, KEY, "RS256", headers={"kid": KEY_ID, "version": "5"})
    times = {"createdTime": now_s * 1000, "expiry": (now_s + LIFE_S) * 1000}
    return {
        "status": "OK",
        "session": {
            "handle": handle,
            "userId": body["userId"],
            "recipeUserId": body["userId"],
            "userDataInJWT": body["userDataInJWT"],
            "tenantId": "public",
        },
        "accessToken": {"token": token, **times},
        "refreshToken": {"token": "refresh", **times},
    }


class Core(BaseHTTPRequestHandler):
    """The operations by method and path, less the tenant."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/apiversion":
            self.respond({"versions": ["5.3", "5.4"]})
        elif path == "/.well-known/jwks.json":
            jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key()))
            self.respond({"keys": [jwk | {"kid": KEY_ID, "alg": "RS256", "use": "sig"}]})
        elif path == "/public/recipe/multitenancy/tenant/v2":
            self.respond({"status": "OK", "tenantId": "public", "thirdParty": {"providers": []}, "coreConfig": {}})
        elif path == "/public/users/by-accountinfo":
            self.respond({"status": "OK", "users": [user("ada@shop.example")]})
        elif path == "/user/id":
            self.respond({"status": "OK", "user": user("ada@shop.example")})
        else:
            self.refuse(query)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if self.path == "/public/recipe/signin":
            found = user(body["email"])
            self.respond({"status": "OK", "user": found, "recipeUserId": found["id"]})
        elif self.path == "/public/recipe/session":
            self.respond(session(body))
        else:
            self.refuse(json.dumps(body))

    def refuse(self, detail: str) -> None:
        sys.stderr.write(f"not doubled: {self.command} {self.path} {detail}\n")
        self.send_error(404)

    def respond(self, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Core).serve_forever()
