"""The shapes of requests and responses, and the one strict decoder of JSON requests.

It refuses what is not UTF-8 or not JSON (RFC 8259), what I-JSON warns of (RFC 7493: duplicate members, lone surrogates,
numbers that not every reader can hold), deep nesting, unknown members and wrong types. Knows nothing of the network.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, ClassVar, Final, TypeVar
from urllib.parse import parse_qs

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.errors import Fault, InvalidRequest, MalformedRequest
from service.http.cookies import GuestCookie
from service.merge.service import Merged
from service.strict_json import MAX_DEPTH, MIN_INTEGER, depth, kind_of, pointer, read_json
from service.tokens.claims import Subject
from service.tokens.payload_patch import JsonPatch, MergePatch, PayloadPatch, Replace
from service.tokens.service import SignedToken, VerifiedToken

T = TypeVar("T", bound="Request")
Form = Mapping[str, Sequence[str]]

Audience = Annotated[str, Meta(min_length=1)] | Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1)]
Ttl = Annotated[int, Meta(ge=1)]
MAX_FORM_MEMBERS: Final = 100
MAX_FAULTS: Final = 100
"""Listed for one request, which may hold a hundred thousand."""
MAX_REPORT_BYTES: Final = 1_048_576
"""For all values in a merge's conflicts: each conflict shows the session's, which may be one long list."""

_TOO_DEEP: Final = f"nests over {MAX_DEPTH} levels"


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request's body.

    `SURROGATES_IN` names a list whose strings may contain lone surrogates; `HOLDS_JSON` is whether a member may be any
    JSON, and so of any depth and with any numbers; of `EXCLUSIVE` at most one member may be given.
    """

    SURROGATES_IN: ClassVar[str | None] = None
    HOLDS_JSON: ClassVar[bool] = True
    EXCLUSIVE: ClassVar[tuple[str, ...]] = ()

    def keeps_exclusive(self) -> bool:
        """Whether at most one member of `EXCLUSIVE` is given."""
        return not self.EXCLUSIVE or sum(getattr(self, name) is not UNSET for name in self.EXCLUSIVE) <= 1


class IssueRequest(Request, frozen=True):
    """`POST /v1/issue`."""

    payload: dict[str, Any] = {}
    claims: dict[str, Any] = {}
    subject: Subject | UnsetType = UNSET
    ttl: Ttl | UnsetType = UNSET
    audience: Audience | UnsetType = UNSET
    first_issued_at: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    cookie: bool = False


class RefreshRequest(Request, frozen=True):
    """`POST /v1/refresh-payload`: at most one of the three ways to change the payload."""

    EXCLUSIVE: ClassVar[tuple[str, ...]] = ("payload", "merge_patch", "json_patch")

    token: str
    payload: dict[str, Any] | UnsetType = UNSET
    merge_patch: dict[str, Any] | UnsetType = UNSET
    json_patch: list[Any] | UnsetType = UNSET
    policy: str | dict[str, Any] | UnsetType = UNSET
    if_current: bool = False
    ttl: Ttl | UnsetType = UNSET
    cookie: bool = False

    def patch(self) -> PayloadPatch | None:
        """The change to make to the payload; None to sign it again unchanged."""
        if self.payload is not UNSET:
            return Replace(self.payload)
        if self.merge_patch is not UNSET:
            return MergePatch(self.merge_patch)
        return None if self.json_patch is UNSET else JsonPatch(self.json_patch)


class VerifyRequest(Request, frozen=True):
    """`POST /v1/verify`."""

    HOLDS_JSON: ClassVar[bool] = False

    token: str
    audience: Audience | UnsetType = UNSET


class MergeRequest(Request, frozen=True):
    """`POST /v1/merge`. A token that is not even Unicode text is a bad token, and a bad token never blocks a login."""

    SURROGATES_IN: ClassVar[str | None] = "tokens"

    tokens: Annotated[list[str | None], Meta(max_length=32)]
    session: dict[str, Any] | None = {}
    policy: str | dict[str, Any] | UnsetType = UNSET
    renew: bool = True
    strict: bool = False
    dry_run: bool = False
    cookie: bool = False


_DECODERS: Final[Mapping[type[Request], msgspec.json.Decoder[Any]]] = {
    shape: msgspec.json.Decoder(shape) for shape in (IssueRequest, RefreshRequest, VerifyRequest, MergeRequest)
}
_TO_ZEROS: Final = bytes.maketrans(b"123456789", b"0" * 9)
_MANY_DIGITS: Final = b"0" * len(str(MIN_INTEGER)[1:])


def decode(raw: bytes, shape: type[T], *, header_faults: Sequence[Fault] = ()) -> T:
    """Decodes a body as `shape`; an empty one is `{}`. `header_faults` are those of the request that came with it.

    Raises:
        MalformedRequest: it is not JSON as this service accepts it.
        InvalidRequest: it is, but of another shape; lists every fault, up to `MAX_FAULTS`.
    """
    quickly = _decode_quickly(raw, shape)
    if quickly is not None and not header_faults:
        return quickly
    value = _decode_json(raw or b"{}", surrogates_in=shape.SURROGATES_IN)
    faults = list(header_faults)
    try:
        decoded = msgspec.convert(value, shape)
        if decoded.keeps_exclusive() and not faults:
            return decoded
    except msgspec.ValidationError:
        pass  # it names one fault; here are all
    faults += islice(_faults(value, shape), MAX_FAULTS)
    raise InvalidRequest("The request is not of the right shape.", faults)


# msgspec alone decodes and checks a body in one step, but it lets three things through that the strict decoder refuses.
# Each leaves a trace that is cheaper to look for than the strict decoder is to run; a body with a trace goes to the
# strict decoder, whether it is good or not:
# - A member that occurs twice. msgspec keeps the last one, so encoding the decoded value again yields fewer members.
#   Every member has one colon after its name, and other colons occur in strings alone, which decode and encode as they
#   are unless the body escapes one as \u003a. So where no \u occurs and both texts have as many colons, none is lost.
# - Nesting over 32 levels. It needs more than 32 opening brackets; where there are as many, the depth is measured.
# - A whole number beyond 64 bits. It has at least 19 digits in a row.
# It refuses the rest itself: NaN, numbers beyond a double, lone surrogates, text that is not UTF-8.
# Without this function the service reaches 0.90 (issue), 0.84 (verify, tokens seen before) and 0.82 (merge) of its
# requests a second: `make bench`, both in turn in one run.
def _decode_quickly(raw: bytes, shape: type[T]) -> T | None:
    """The request of a body that is proven good by a quick look; None where the strict decoder has to decide."""
    try:
        value: T = _DECODERS[shape].decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    again = msgspec.json.encode(value)
    if again != raw and (again.count(b":") != raw.count(b":") or b"\\u" in raw):
        return None
    if shape.HOLDS_JSON:
        if _MANY_DIGITS in raw.translate(_TO_ZEROS):
            return None
        brackets = raw.count(b"{") + raw.count(b"[")
        if brackets > MAX_DEPTH and depth(list(msgspec.structs.astuple(value))) > MAX_DEPTH:
            return None
    return value if value.keeps_exclusive() else None


def _faults(value: object, shape: type[Request]) -> Iterator[Fault]:
    """Every fault of a request's body; none where it fits the shape."""
    if not isinstance(value, dict):
        yield Fault("", f"must be an object, not {kind_of(value)}")
        return
    members = {field.name: field for field in msgspec.structs.fields(shape)}
    for name in value:
        if name not in members:
            yield Fault(pointer([name]), f"is none of: {', '.join(members)}")
    exclusive = [name for name in shape.EXCLUSIVE if name in value]
    for name, member in members.items():
        if name in value:
            yield from _member_faults(value[name], member.type, pointer([name]))
        elif member.required:
            yield Fault(pointer([name]), "is missing")
        if name in exclusive and len(exclusive) > 1:
            yield Fault(pointer([name]), f"only one may be given of: {', '.join(exclusive)}")


def _member_faults(value: object, kind: Any, path: str) -> Iterator[Fault]:
    """The faults of one member; of a list that may stand there, those of its elements, too."""
    message, in_element = _fault_in(value, kind)
    if message is None:
        return
    if not in_element:
        yield Fault(path, message)
    if isinstance(value, list) and (in_element or message.startswith("Expected `array`")):
        for index, element in enumerate(value):
            message, in_element = _fault_in([element], kind)
            if message is not None and in_element:
                yield Fault(f"{path}/{index}", message)


def _fault_in(value: object, kind: Any) -> tuple[str | None, bool]:
    """What is wrong with the value, and whether that is in an element of it; None where it fits."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        return message, place.startswith("[")
    return None, False


def decode_object(raw: bytes) -> dict[str, Any]:
    """Decodes a JSON object as strictly as a request.

    Raises:
        MalformedRequest: it is not JSON as this service accepts it.
        InvalidRequest: it is not an object.
    """
    value = _decode_json(raw, surrogates_in=None)
    if not isinstance(value, dict):
        raise InvalidRequest("This is JSON, but not an object.")
    return value


def decode_form(raw: bytes) -> Form:
    """The parameters of a form, each with all its values in their order.

    Raises:
        MalformedRequest: it is not in UTF-8, or has over `MAX_FORM_MEMBERS` parameters.
    """
    try:
        return parse_qs(raw.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FORM_MEMBERS)
    except ValueError as error:
        message = "is not UTF-8" if isinstance(error, UnicodeError) else f"has over {MAX_FORM_MEMBERS} parameters"
        raise MalformedRequest("The body is not a form as this service accepts it.", [Fault("", message)]) from error


def introspected_token(form: Form) -> str:
    """The `token` of an introspection (RFC 7662, section 2.1); other parameters are ignored (RFC 6749, section 3.2).

    Raises:
        InvalidRequest: it is missing, or there twice.
    """
    tokens = form.get("token", ())
    if len(tokens) != 1:
        raise InvalidRequest("The form is not of the right shape.", [Fault("/token", "must be given once")])
    return tokens[0]


def audience_list(audience: str | list[str] | UnsetType) -> tuple[str, ...]:
    """The audiences of a request, which may be one string, a list or absent."""
    if audience is UNSET:
        return ()
    return (audience,) if isinstance(audience, str) else tuple(audience)


def token_object(token: SignedToken, cookie: GuestCookie) -> dict[str, Any]:
    """The token object of a new token: the response of `issue` and `refresh-payload`, and a merge's `next`."""
    claims = token.claims
    return {
        "token": token.raw_token,
        "subject": claims.subject,
        "version": claims.version,
        "token_id": claims.token_id,
        "key_id": token.key_id,
        "issued_at": claims.issued_at_s,
        "first_issued_at": claims.first_issued_at_s,
        "expires_at": claims.expires_at_s,
        "expires_in": claims.lifetime_s,
        "payload": claims.payload,
        "bytes": len(token.raw_token),
        "cookie_bytes_left": cookie.bytes_left(len(token.raw_token), max_age_s=claims.lifetime_s),
    }


def verified_object(token: VerifiedToken, cookie: GuestCookie, *, now_s: float) -> dict[str, Any]:
    """The response of `verify` for a good token."""
    claims = token.claims
    expires_in_s = claims.expires_at_s - int(now_s)
    return {
        "active": True,
        "subject": claims.subject,
        "version": claims.version,
        "token_id": claims.token_id,
        "key_id": token.key.kid,
        "issued_at": claims.issued_at_s,
        "first_issued_at": claims.first_issued_at_s,
        "expires_at": claims.expires_at_s,
        "expires_in": expires_in_s,
        "payload": claims.payload,
        "bytes": token.size_bytes,
        "cookie_bytes_left": cookie.bytes_left(token.size_bytes, max_age_s=expires_in_s),
        "claims": claims.extra_claims,
        "refresh_due": token.refresh_due,
    }


def merged_object(merged: Merged, next_object: dict[str, Any] | None) -> dict[str, Any]:
    """The response of `merge`. A conflict whose values exceed what is left of `MAX_REPORT_BYTES` has none."""
    result = merged.result
    bytes_left = MAX_REPORT_BYTES
    encoded: dict[int, bytes] = {}  # by identity: one value of the session may stand in hundreds of conflicts
    conflicts = []
    for each in result.conflicts:
        values = {"session": each.session, "guest": each.guest}
        for value in values.values():
            if id(value) not in encoded:
                encoded[id(value)] = msgspec.json.encode(value)
        size_bytes = sum(len(encoded[id(value)]) for value in values.values())
        shown = {}
        if size_bytes <= bytes_left:
            bytes_left -= size_bytes
            shown = {name: msgspec.Raw(encoded[id(value)]) for name, value in values.items()}
        conflicts.append({"path": each.path, **shown, "kept": each.kept, "rule": each.rule, "subject": each.subject})
    return {
        "payload": result.payload,
        "merged": result.merged,
        "guests": result.guests,
        "skipped": [
            {"index": each.index, "reason": each.reason, **({} if each.subject is None else {"subject": each.subject})}
            for each in merged.skipped
        ],
        "conflicts": conflicts,
        "next": next_object,
    }


def _decode_json(raw: bytes, *, surrogates_in: str | None) -> Any:
    try:
        text = raw.decode("utf-8")
        value, faults = read_json(text)
    except UnicodeDecodeError as error:
        raise _malformed("is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise _malformed(f"is not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise _malformed(_TOO_DEEP) from error
    if depth(value) > MAX_DEPTH:
        faults.append(_TOO_DEEP)
    elif "\\u" in text:
        # UTF-8 cannot encode lone surrogates (RFC 8259, section 8.2); one list may have some.
        checked = value
        if isinstance(value, dict) and isinstance(value.get(surrogates_in), list):
            checked = {name: member for name, member in value.items() if name != surrogates_in}
        try:
            msgspec.json.encode(checked)
        except UnicodeEncodeError:
            faults.append("has a lone surrogate")
    if faults:
        raise _malformed(*faults[:MAX_FAULTS])
    return value


def _malformed(*messages: str) -> MalformedRequest:
    return MalformedRequest("The body is not JSON as this service accepts it.", [Fault("", each) for each in messages])
