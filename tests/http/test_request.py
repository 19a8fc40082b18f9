import asyncio
import threading
from typing import Any

import pytest

from service.http import schemas
from tests.api import Api


def offload_threads() -> set[threading.Thread]:
    """Those of other tests' services may end at any time."""
    return {each for each in threading.enumerate() if each.name.startswith("offload")}


@pytest.mark.parametrize("path", ["/v1/issue", "/v1/refresh-payload", "/v1/merge"])
async def test_large_bodies_alone_go_to_the_thread(api: Api, path: str) -> None:
    before = offload_threads()

    await api.post(path, {"no such member": "x" * 1_000})
    small = offload_threads() - before
    await api.post(path, {"no such member": "x" * 17_000})
    large = offload_threads() - before

    assert (len(small), len(large)) == (0, 1)


async def test_of_large_bodies_no_more_than_two_are_decoded_at_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a hundred of them, which wait for each other anyway, would take some 250 MB."""
    decode, merged_object = schemas.decode, schemas.merged_object
    decoded, peak = 0, 0

    def counted_decode(*arguments: Any) -> Any:
        nonlocal decoded, peak
        decoded += 1
        peak = max(peak, decoded)
        return decode(*arguments)

    def counted_merged_object(*arguments: Any) -> Any:
        nonlocal decoded
        decoded -= 1
        return merged_object(*arguments)

    monkeypatch.setattr(schemas, "decode", counted_decode)
    monkeypatch.setattr(schemas, "merged_object", counted_merged_object)
    answers = await asyncio.gather(
        *(api.post("/v1/merge", {"tokens": [], "session": {"note": "x" * 17_000}}) for _ in range(8))
    )

    assert [answer.status for answer in answers] == [200] * 8
    assert (decoded, peak) == (0, 2)
