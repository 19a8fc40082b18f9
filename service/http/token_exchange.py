"""Token exchange at `POST /v1/token` (RFC 8693): the parameters of its form, its response, and OAuth's form of errors.

Knows neither keys nor tokens, only how OAuth clients ask and what they read.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from service.errors import Fault, GuestSessionsError, InvalidRequest
from service.http.problems import PROBLEMS, HttpProblem, problem_response
from service.http.response import Response
from service.tokens.service import AccessToken

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_TYPE: Final = "urn:ietf:params:oauth:token-type:jwt"
ACCESS_TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name
PAYLOAD_SCOPE: Final = "payload"

_ONCE: Final = ("grant_type", "subject_token", "subject_token_type", "scope", "requested_token_type")
_UNSUPPORTED: Final = ("resource", "actor_token")
_ERRORS: Final = {
    "unauthorized": "invalid_client",
    "not_ready": "temporarily_unavailable",
    "internal_error": "server_error",
}
"""`code` → the `error` of RFC 6749, section 5.2, and of the codes for what it does not foresee, of section 4.1.2.1."""


class RefusedExchange(InvalidRequest):
    """A token exchange whose parameters are wrong; `oauth_error` is that of RFC 6749 and RFC 8693, section 2.2.2."""

    def __init__(self, oauth_error: str, faults: Sequence[Fault]) -> None:
        super().__init__("The parameters of the token exchange are wrong.", faults)
        self.oauth_error = oauth_error


class ExchangeRequest(msgspec.Struct, frozen=True):
    """The parameters of a token exchange."""

    subject_token: str
    audience: tuple[str, ...]
    with_payload: bool

    @classmethod
    def from_form(cls, form: Mapping[str, Sequence[str]]) -> "ExchangeRequest":
        """Checks the parameters; one without a value is absent, unknown ones are ignored (RFC 6749, section 3.2).

        Raises:
            RefusedExchange: lists every fault, under the `error` of the first.
        """
        given = {name: [value for value in values if value] for name, values in form.items()}
        first = {name: values[0] for name, values in given.items() if values}
        scopes = set(first.get("scope", "").split())
        wrong: list[tuple[str, Fault]] = [
            ("invalid_request", Fault(f"/{name}", "must be given once"))
            for name in _ONCE
            if len(given.get(name, ())) > 1
        ]
        wrong += [("invalid_request", Fault(f"/{name}", "is not supported")) for name in _UNSUPPORTED if name in first]
        if "grant_type" not in first:
            wrong.append(("invalid_request", Fault("/grant_type", "is missing")))
        elif first["grant_type"] != GRANT_TYPE:
            wrong.append(("unsupported_grant_type", Fault("/grant_type", f"must be {GRANT_TYPE}")))
        if "subject_token" not in first:
            wrong.append(("invalid_request", Fault("/subject_token", "is missing")))
        if first.get("subject_token_type") != JWT_TYPE:
            wrong.append(("invalid_request", Fault("/subject_token_type", f"must be {JWT_TYPE}")))
        if first.get("requested_token_type", ACCESS_TOKEN_TYPE) != ACCESS_TOKEN_TYPE:
            wrong.append(("invalid_request", Fault("/requested_token_type", f"must be {ACCESS_TOKEN_TYPE}")))
        if "audience" not in first:
            wrong.append(("invalid_target", Fault("/audience", "is missing: name the service that gets the token")))
        if not scopes <= {PAYLOAD_SCOPE}:
            wrong.append(("invalid_scope", Fault("/scope", f"must be {PAYLOAD_SCOPE} or absent")))
        if wrong:
            raise RefusedExchange(wrong[0][0], [fault for _, fault in wrong])
        audience = tuple(dict.fromkeys(given["audience"]))
        return cls(subject_token=first["subject_token"], audience=audience, with_payload=bool(scopes))


def exchange_object(token: AccessToken, *, with_payload: bool) -> dict[str, Any]:
    """The successful response (RFC 8693, section 2.2.1)."""
    return {
        "access_token": token.raw_token,
        "issued_token_type": ACCESS_TOKEN_TYPE,
        "token_type": "Bearer",
        "expires_in": token.expires_at_s - token.issued_at_s,
        "scope": PAYLOAD_SCOPE if with_payload else "",
    }


def error_response(error: GuestSessionsError, request_id: str) -> Response:
    """An error as OAuth clients read it (RFC 6749, section 5.2): the problem document's members and `error`."""
    oauth_error = (
        error.oauth_error if isinstance(error, RefusedExchange) else _ERRORS.get(error.code, "invalid_request")
    )
    status, _ = PROBLEMS[error.code]
    headers = {"Content-Type": "application/json", "Pragma": "no-cache"}
    if isinstance(error, HttpProblem) and "WWW-Authenticate" in error.headers:
        # A client that has tried a scheme looks for that one among the challenges.
        headers["WWW-Authenticate"] = f'Basic realm="guest-sessions", {error.headers["WWW-Authenticate"]}'
    return problem_response(
        error,
        request_id,
        status=HTTPStatus.BAD_REQUEST if status == HTTPStatus.UNPROCESSABLE_ENTITY else status,
        headers=headers,
        members={"error": oauth_error},
    )
