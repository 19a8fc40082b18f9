import socket

import pytest

from service.cli.client import CallFailed, request


async def test_a_silent_address_is_reported_with_the_time_waited() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(CallFailed) as failed:
            async with request("GET", url, base=url, timeout_s=0.05):
                pass

    assert (failed.value.code, failed.value.detail) == ("call_failed", f"{url} did not respond within 0.05 s.")
