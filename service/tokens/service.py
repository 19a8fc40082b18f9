"""Issuing, refreshing and verifying guest tokens: fixed pipelines that no caller can shorten.

Only verification makes a `VerifiedToken`, and only a `VerifiedToken` can be renewed or merged. Knows nothing of HTTP,
files or Redis.

Each request yields to the event loop right before its signature and right after. So the signatures of all requests
under way are computed one after the other, and the curve's table of 150 KB stays in the processor's cache: 20 µs less
for each (docs/performance.md). Those of RSA keys take milliseconds, and are made in a thread.
"""

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from service.errors import Fault, InvalidRequest, InvalidToken, NotReady, ReservedClaim, TokenTooLarge
from service.keys import Clock, RandomBytes
from service.keys.held import KeySource, LoadedRing
from service.keys.keyring import Key, KeyState
from service.strict_json import MAX_DEPTH, depth, pointer
from service.tokens import claims
from service.tokens.cache import TokenCache
from service.tokens.claims import GuestClaims
from service.tokens.compute import NEXT_TURN, OffloadThread

Observer = Callable[[str], None]
"""Called with what was done with a token: `issued`, `refreshed`, `verified`, or the reason for its refusal."""

MAX_ACCESS_TOKENS: Final = 4_096
"""Access tokens that are kept to be given again: some 3 MiB."""
TOKEN_ID_BYTES: Final = 12
"""96 bits: among a trillion tokens two are alike with a chance of about 1 in 160,000 (n² / 2^97)."""


_CLAIMS: Final = msgspec.json.Decoder(dict[str, Any])


class TokenPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What tokens of this deployment look like and how long they live."""

    issuers: tuple[str, ...]
    audience: tuple[str, ...]
    ttl_s: int
    max_ttl_s: int
    renew_after_s: int
    max_token_bytes: int
    audience_since_s: float | None = None
    """Tokens without an audience that were issued before then are good in spite of `audience`."""
    access_ttl_s: int = 300
    """The lifetime of the short-lived tokens for other services."""


class SignedToken(msgspec.Struct, frozen=True):
    """A token made here, with the claims that it carries."""

    raw_token: str
    claims: GuestClaims
    key_id: str


class AccessToken(msgspec.Struct, frozen=True):
    """A short-lived token that stands for a guest towards other services."""

    raw_token: str
    issued_at_s: int
    expires_at_s: int


class VerifiedToken(msgspec.Struct, frozen=True):
    """A token whose signature and claims were found good."""

    claims: GuestClaims
    key: Key
    size_bytes: int
    refresh_due: bool


class TokenService:
    """The use cases of guest tokens under one policy."""

    def __init__(
        self, policy: TokenPolicy, *, keys: KeySource, clock: Clock, random_bytes: RandomBytes, observe: Observer
    ) -> None:
        self._policy = policy
        self._keys = keys
        self.clock = clock
        self._random_bytes = random_bytes
        self.observe = observe
        self._signing_thread = OffloadThread()
        self._memory = TokenCache()
        self._remembered_under: LoadedRing | None = None
        self._access_tokens: dict[tuple[str, tuple[str, ...]], AccessToken] = {}

    async def issue(
        self,
        *,
        payload: dict[str, Any],
        extra_claims: dict[str, Any] | None = None,
        subject: str | None = None,
        ttl_s: int | None = None,
        audience: Sequence[str] = (),
        idempotency_key: str | None = None,
        first_issued_at_s: int | None = None,
    ) -> SignedToken:
        """The first token of a guest. `idempotency_key` fixes the default subject: same key, same guest.

        `first_issued_at_s` is for a guest with a `subject` that began earlier, elsewhere.

        Raises:
            ReservedClaim: `extra_claims` names a claim of the token itself.
            InvalidRequest: `ttl_s` or `first_issued_at_s` is beyond what may be signed.
            TokenTooLarge: the token would be too long.
            NotReady: there is no key to sign with.
        """
        keys = self.require_keys()
        now_s = self.clock()
        reserved = sorted(claims.RESERVED.intersection(extra_claims or {}))
        faults = [Fault(pointer(["claims", name]), "is reserved") for name in reserved]
        faults += self._ttl_faults(keys, ttl_s)
        if first_issued_at_s is not None:
            faults += claims.first_time_faults(
                first_issued_at_s, subject=subject, revoked_before_s=keys.ring.revoked_before_s, now_s=now_s
            )
        if reserved:
            raise ReservedClaim("These claims belong to the guest token itself.", faults)
        if faults:
            raise InvalidRequest("No token can be signed with these values.", faults)
        made = claims.first(
            issuer=self._policy.issuers[0],
            subject=subject or self._subject(keys, idempotency_key),
            audience=tuple(dict.fromkeys((*self._policy.audience, *audience))),
            ttl_s=min(self._policy.ttl_s if ttl_s is None else ttl_s, keys.max_lifetime_s),
            token_id=self._token_id(),
            payload=payload,
            extra_claims=extra_claims or {},
            now_s=now_s,
            first_issued_at_s=first_issued_at_s,
        )
        body = msgspec.json.encode(made.to_json())
        await NEXT_TURN
        issued = await self._signed(keys, made, body)
        await NEXT_TURN
        self.observe("issued")
        return issued

    async def access_token(
        self, token: VerifiedToken | SignedToken, *, audience: Sequence[str], with_payload: bool = False
    ) -> AccessToken:
        """A short-lived token for other services (RFC 9068), so that none of them needs the guest token.

        Raises:
            NotReady: there is no key to sign with.
        """
        keys = self.require_keys()
        made = claims.access(
            token.claims,
            issuer=self._policy.issuers[0],
            audience=tuple(dict.fromkeys(audience)),
            ttl_s=self._policy.access_ttl_s,
            token_id=self._token_id(),
            with_payload=with_payload,
            now_s=self.clock(),
        )
        body = msgspec.json.encode(made)
        await NEXT_TURN
        raw_token = await self._sign(keys, keys.signer.sign_access_token, body)
        await NEXT_TURN
        return AccessToken(raw_token=raw_token, issued_at_s=made["iat"], expires_at_s=made["exp"])

    async def reused_access_token(
        self, token: VerifiedToken | SignedToken, *, audience: tuple[str, ...]
    ) -> AccessToken:
        """As `access_token` without payload; for up to half of its life the one that was given before.

        Raises:
            NotReady: there is no key to sign with.
        """
        self._memory_under(self.require_keys())
        name = token.claims.token_id, audience
        given = self._access_tokens.get(name)
        if given is not None and 2 * self.clock() < given.issued_at_s + given.expires_at_s:
            return given
        kept = self._access_tokens  # those of this ring, whichever is held once the token is signed
        made = await self.access_token(token, audience=audience)
        while len(kept) >= MAX_ACCESS_TOKENS:
            del kept[next(iter(kept))]
        kept[name] = made
        return made

    async def sign_next(
        self,
        old: GuestClaims,
        *,
        payload: dict[str, Any] | None = None,
        ttl_s: int | None = None,
        remembered: bool = False,
    ) -> SignedToken:
        """The same guest's next token, signed at once unless `signs_slowly`. `payload` None keeps payload and version.

        The default lifetime is the old token's, counted from now. It is `remembered` as verified where it will be
        checked again soon.

        Raises:
            InvalidRequest: `ttl_s` is beyond what may be signed.
            TokenTooLarge: the token would be too long.
            NotReady: there is no key to sign with.
        """
        keys = self.require_keys()
        faults = self._ttl_faults(keys, ttl_s)
        if faults:
            raise InvalidRequest("The ttl is too long.", faults)
        made = claims.renewed(
            old,
            issuer=self._policy.issuers[0],
            audience=self._policy.audience,
            ttl_s=min(old.lifetime_s if ttl_s is None else ttl_s, keys.max_lifetime_s),
            token_id=self._token_id(),
            payload=payload,
            now_s=self.clock(),
        )
        body = msgspec.json.encode(made.to_json())
        signed = await self._signed(keys, made, body)
        if remembered and keys.ring.active is not None and keys is self._keys.loaded:
            self._memory_under(keys).put(signed.raw_token, (keys.ring.active, made), body=body)
        return signed

    async def verify(
        self, raw_token: str, *, audience: Sequence[str] = (), counted: bool = True, remembered: bool = True
    ) -> VerifiedToken:
        """Check signature and claims, in the contract's order; the first check that fails is the reason.

        A token that is about to be replaced need not be `counted` as verified, nor `remembered`.

        Raises:
            InvalidToken: with the reason.
            NotReady: there is no ring to check with.
        """
        keys = self.require_keys()
        try:
            memory = self._memory_under(keys)
            found = memory.find(raw_token)
            if found is None:
                await NEXT_TURN
                key, body = keys.signer.verify(raw_token)
                await NEXT_TURN
                found = key, claims.parse(decode_claims(body))
                if remembered:
                    memory.put(raw_token, found, body=body)  # of this ring, whichever is held by now
            key, proven = found
            now_s = self.clock()
            claims.check(
                proven,
                issuers=self._policy.issuers,
                audience=self._policy.audience,
                audience_since_s=self._policy.audience_since_s,
                demanded=audience,
                revoked_before_s=max(keys.ring.revoked_before_s, key.revoked_before_s or 0),
                now_s=now_s,
            )
        except InvalidToken as error:
            self.observe(error.reason)
            raise
        if counted:
            self.observe("verified")
        return VerifiedToken(
            claims=proven,
            key=key,
            size_bytes=len(raw_token),
            refresh_due=key.state is KeyState.RETIRED or now_s - proven.issued_at_s > self._policy.renew_after_s,
        )

    def _memory_under(self, keys: LoadedRing) -> TokenCache:
        """What was found good under these keys; dropped whenever they change, as the change may be a revocation."""
        if keys is not self._remembered_under:
            self._memory, self._remembered_under = TokenCache(), keys
            self._access_tokens = {}
        return self._memory

    def require_keys(self) -> LoadedRing:
        """The ring to sign and verify with; raises `NotReady` where there is none."""
        keys = self._keys.loaded
        if keys is None:
            raise NotReady("There is no signing key yet.")
        return keys

    def _ttl_faults(self, keys: LoadedRing, asked_s: int | None) -> list[Fault]:
        """Nothing is signed beyond what the active key is on record for, or its tokens would outlive it."""
        longest_s = keys.max_lifetime_s
        return [] if asked_s is None or asked_s <= longest_s else [Fault("/ttl", f"must be from 1 to {longest_s}")]

    @property
    def signs_slowly(self) -> bool:
        """Whether a signature takes milliseconds, and so is made in a thread while other requests go on."""
        return self._keys.loaded is not None and self._keys.loaded.signer.is_slow

    async def _sign(self, keys: LoadedRing, sign: Callable[[bytes], str], body: bytes) -> str:
        return await self._signing_thread(partial(sign, body)) if keys.signer.is_slow else sign(body)

    async def _signed(self, keys: LoadedRing, made: GuestClaims, body: bytes) -> SignedToken:
        raw_token = await self._sign(keys, keys.signer.sign, body)
        if len(raw_token) > self._policy.max_token_bytes:
            raise TokenTooLarge(size_bytes=len(raw_token), limit_bytes=self._policy.max_token_bytes)
        return SignedToken(raw_token=raw_token, claims=made, key_id=keys.signer.kid)

    def _subject(self, keys: LoadedRing, idempotency_key: str | None) -> str:
        """`G-` and a UUID: a random one of version 4 or a derived one of version 8 (RFC 9562, sections 5.4 and 5.8)."""
        if idempotency_key is None:
            raw, version = self._random_bytes(16), 4
        else:
            # Keyed: a visitor's key does not reveal the guest's id, nor the other way round.
            digest = hmac.digest(keys.ring.derivation_secret, idempotency_key.encode("ascii"), hashlib.sha256)
            raw, version = digest[:16], 8
        number = int.from_bytes(raw) & ~(0xF << 76 | 0b11 << 62) | version << 76 | 0b10 << 62
        digits = f"{number:032x}"
        return f"G-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def _token_id(self) -> str:
        return urlsafe_b64encode(self._random_bytes(TOKEN_ID_BYTES)).decode("ascii")


def decode_claims(body: bytes) -> dict[str, Any]:
    """The claims' JSON of a good signature as an object.

    Raises:
        InvalidToken: `malformed`, where it is anything else, or deeper than anything that is signed here: another
            holder of the key must not crash the code that walks through the payload.
    """
    try:
        decoded = _CLAIMS.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidToken("malformed") from error
    # As many brackets as levels are needed for depth; most tokens have fewer, and their depth need not be measured.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and depth(decoded) > MAX_DEPTH:
        raise InvalidToken("malformed")
    return decoded
