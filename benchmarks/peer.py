"""The peer: the same operations as a careful team would write them with FastAPI, uvicorn and PyJWT.

Keys are parsed once, models validate, uvloop and httptools serve. `python -m benchmarks.peer PORT KEYRING`
"""

import json
import sys
import time
import uuid
from pathlib import Path
from typing import Annotated, Any

import jwt
import uvicorn
from fastapi import Cookie, FastAPI, Response
from pydantic import BaseModel, ConfigDict

from benchmarks.operations import ISSUER

TEN_YEARS_S = 315_360_000


class Strict(BaseModel):
    """A body that takes no unknown members."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Issue(Strict):
    """`POST /v1/issue`."""

    payload: dict[str, Any] = {}


class Refresh(Strict):
    """`POST /v1/refresh-payload`."""

    token: str
    payload: dict[str, Any] | None = None


class Verify(Strict):
    """`POST /v1/verify`."""

    token: str


def make_app(private_jwk: dict[str, Any]) -> FastAPI:
    """The application, signing with this key."""
    app = FastAPI(openapi_url=None)
    key = jwt.PyJWK(private_jwk, "ES256").key
    public = key.public_key()
    headers = {"kid": private_jwk["kid"], "typ": "guest+jwt"}
    jwks = {"keys": [{name: value for name, value in private_jwk.items() if name in ("kty", "crv", "x", "y", "kid")}]}

    def sign(claims: dict[str, Any]) -> str:
        return jwt.encode(claims, key, algorithm="ES256", headers=headers)

    def verified(token: str) -> dict[str, Any]:
        return jwt.decode(token, public, algorithms=["ES256"], issuer=ISSUER, options={"require": ["exp", "iat"]})

    def answer(claims: dict[str, Any]) -> dict[str, Any]:
        return {"token": sign(claims), **claims}

    @app.post("/v1/issue", status_code=201)
    async def issue(body: Issue) -> dict[str, Any]:
        now = int(time.time())
        return answer(
            {
                "iss": ISSUER,
                "sub": f"G-{uuid.uuid4()}",
                "iat": now,
                "exp": now + TEN_YEARS_S,
                "orig_iat": now,
                "jti": uuid.uuid4().hex,
                "ver": 1,
                "payload": body.payload,
            }
        )

    @app.post("/v1/refresh-payload")
    async def refresh(body: Refresh) -> dict[str, Any]:
        claims = verified(body.token)
        now = int(time.time())
        changes = {"iat": now, "exp": now + TEN_YEARS_S, "jti": uuid.uuid4().hex, "ver": claims["ver"] + 1}
        return answer({**claims, **changes, "payload": body.payload})

    @app.post("/v1/verify")
    async def verify(body: Verify) -> dict[str, Any]:
        try:
            return {"active": True, **verified(body.token)}
        except jwt.InvalidTokenError:
            return {"active": False}

    @app.get("/v1/auth")
    async def auth(guest: Annotated[str, Cookie()]) -> Response:
        claims = verified(guest)
        return Response(headers={"X-Guest-Id": claims["sub"], "X-Guest-Version": str(claims["ver"])})

    @app.get("/.well-known/jwks.json")
    async def well_known() -> dict[str, Any]:
        return jwks

    return app


if __name__ == "__main__":
    ring = json.loads(Path(sys.argv[2]).read_text("utf-8"))
    uvicorn.run(
        make_app(ring["keys"][0]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        timeout_keep_alive=75,
        log_level="warning",
    )
