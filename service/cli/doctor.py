"""What is wrong with a deployment, as far as its settings show it."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from service.config import Settings
from service.http.auth import is_loopback


def settings_warnings(settings: Settings) -> Iterator[str]:
    """What settings that are no fault most often get wrong; also logged when the service starts."""
    if settings.unknown:
        yield f"ignoring unknown settings: {', '.join(settings.unknown)}"
    for issuer in settings.tokens.issuers:
        if issuer.endswith("/"):
            yield (
                f"GUEST_ISSUER {issuer} ends with a slash: tokens of the same address without it are refused as "
                "wrong_issuer. Drop the slash, or list both"
            )
    url = urlsplit(settings.tokens.issuers[0])
    if not is_loopback(url.hostname or ""):
        if url.scheme == "http":
            yield "GUEST_ISSUER is not https: the guest cookie goes over the network in the clear, without Secure"
    elif not all(map(is_loopback, settings.hosts)):
        yield f"GUEST_ISSUER is {settings.tokens.issuers[0]}, which verifiers on other machines cannot reach"
