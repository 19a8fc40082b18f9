from collections.abc import Sequence
from typing import Generic

from guest_sessions._cookies import CookiePolicy
from guest_sessions._payloads import P, codec_for
from guest_sessions._service import Service
from guest_sessions._tokens import Verifier
from guest_sessions._visit import RequestFacts, Rules, Visit


class BaseSessions(Generic[P]):
    """Settings of one guest-sessions service, shared by all requests; each framework has a subclass.

    `url` is the service's address. `issuer` and `cookie` are its `GUEST_ISSUER` and `GUEST_COOKIE_NAME`, one or a
    list; by default `cookie` is `__Host-guest` with an https issuer and no domain, else `guest`. `cookie_domain` and
    `cookie_partitioned` are its settings too. Tokens older than `renew_after_s` seconds are renewed when a page is
    opened. `payload` is the type of guests' payloads: a pydantic model, a msgspec Struct, a dataclass or a TypedDict,
    with a default for each member; without it payloads are dictionaries.
    """

    def __init__(
        self,
        url: str,
        *,
        issuer: str | Sequence[str],
        payload: type[P] | None = None,
        api_key: str | None = None,
        cookie: str | Sequence[str] | None = None,
        cookie_domain: str | None = None,
        cookie_partitioned: bool = False,
        renew_after_s: int = 86_400,
    ) -> None:
        issuers = [issuer] if isinstance(issuer, str) else list(issuer)
        is_https = issuers[0].startswith("https://")
        derived = "__Host-guest" if is_https and not cookie_domain else "guest"
        names = [cookie or derived] if isinstance(cookie, str | None) else list(cookie)
        verifier = Verifier(issuers)
        self._rules: Rules[P] = Rules(
            service=Service(url, api_key=api_key, verifier=verifier),
            verifier=verifier,
            cookie=CookiePolicy(names, cookie_domain, secure=is_https, partitioned=cookie_partitioned),
            renew_after_s=renew_after_s,
            codec=codec_for(payload),
        )

    async def close(self) -> None:
        """Ends the following of the keys and this event loop's connections, as the framework's shutdown does."""
        await self._rules.service.close()

    def _visit(self, request: RequestFacts) -> Visit[P]:
        return Visit(self._rules, request)
