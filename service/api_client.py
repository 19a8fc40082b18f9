"""The API as the command line calls it: over HTTP, of a running service or of one made for the call.

A local call goes through the very same server, on a free loopback port for as long as the call takes, so that the
command line can never say anything else than the API.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from service.app import make_app, make_runner
from service.errors import GuestSessionsError
from service.settings import AccessPolicy, Settings


class CallFailed(GuestSessionsError):
    """The API refused a call, or did not answer; `problem` is its problem document, where it gave one."""

    code = "call_failed"

    def __init__(self, detail: str, *, problem: dict[str, Any] | None = None) -> None:
        super().__init__(detail)
        self.problem = problem


class ApiClient:
    """Calls one service."""

    def __init__(self, base_url: str, *, api_key: str | None) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer's document.

        Raises:
            CallFailed: no answer, or a problem.
        """
        timeout = aiohttp.ClientTimeout(total=10)
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session,
                session.post(self._base_url + path, json=body) as response,
            ):
                document = msgspec.json.decode(await response.read())
                if response.status >= 400:  # noqa: PLR2004 - RFC 9110, section 15
                    raise CallFailed(str(document.get("detail", "The call failed.")), problem=document)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, OSError) as error:
            raise CallFailed(f"{self._base_url} does not answer as a guest-sessions service.") from error
        result: dict[str, Any] = document
        return result


@asynccontextmanager
async def local_api(settings: Settings) -> AsyncIterator[ApiClient]:
    """A service over the local keyring, for the call alone."""
    access = AccessPolicy(api_keys=(), api_keys_file=None, allowed_origins=frozenset())
    runner = make_runner(make_app(msgspec.structs.replace(settings, access=access)))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield ApiClient(f"http://127.0.0.1:{runner.addresses[0][1]}", api_key=None)
    finally:
        await runner.cleanup()


async def is_ready(url: str) -> bool:
    """Whether `url` answers 200 within two seconds."""
    try:
        async with (
            asyncio.timeout(2),
            aiohttp.ClientSession() as session,
            session.get(url, allow_redirects=False) as response,
        ):
            return response.status == 200  # noqa: PLR2004 - RFC 9110, section 15.3.1
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return False
