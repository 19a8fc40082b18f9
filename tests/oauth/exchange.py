"""A guest token exchanged by Authlib, and verified by PyJWT; see test_token_exchange.py for what goes in and out."""

import json
import os
import sys
from typing import Any

import jwt
import requests
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session

ISSUER = os.environ["ISSUER"]
METADATA = requests.get(f"{ISSUER}/.well-known/oauth-authorization-server", timeout=10).json()


def exchange(token: str, secret: str = os.environ["CLIENT_SECRET"], **parameters: str) -> dict[str, Any]:
    [grant_type] = METADATA["grant_types_supported"]
    method = METADATA["token_endpoint_auth_methods_supported"][0]
    with OAuth2Session("shop", secret, token_endpoint_auth_method=method) as session:
        response: dict[str, Any] = session.fetch_token(
            METADATA["token_endpoint"],
            grant_type=grant_type,
            subject_token=token,
            subject_token_type="urn:ietf:params:oauth:token-type:jwt",
            **parameters,
        )
    return response


def error_of(*arguments: str, **parameters: str) -> str:
    try:
        exchange(*arguments, **parameters)
    except OAuthError as error:
        return str(error.error)
    return "none"


response = exchange(os.environ["GUEST_TOKEN"], audience="search", scope="payload")
access_token = response["access_token"]
key = jwt.PyJWKClient(METADATA["jwks_uri"]).get_signing_key_from_jwt(access_token)
claims = jwt.decode(access_token, key, algorithms=["ES256"], issuer=METADATA["issuer"], audience="search", leeway=5)
report = {
    "token_type": response["token_type"].lower(),
    "issued_token_type": response["issued_token_type"],
    "expires_in": response["expires_in"],
    "typ": jwt.get_unverified_header(access_token)["typ"],
    "subject": claims["sub"],
    "payload": claims["payload"],
    "errors": {
        "an access token for a guest token": error_of(access_token, audience="search"),
        "no audience": error_of(os.environ["GUEST_TOKEN"]),
        "another scope": error_of(os.environ["GUEST_TOKEN"], audience="search", scope="openid"),
        "a wrong secret": error_of(os.environ["GUEST_TOKEN"], "w" * 20, audience="search"),
    },
}
json.dump(report, sys.stdout)
