"""Bytes to a service through a socket of the test's own, as no well-behaved client would send them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tests.api import Api
from tests.openapi import faults

READ_S = 20.0
"""Far beyond what any answer takes; a test that gets there has found a hang."""


class Reply:
    """One answer as it came over the wire."""

    def __init__(self, head: bytes, body: bytes) -> None:
        status_line, *lines = head.decode("ascii").split("\r\n")
        self.version, status, _ = status_line.split(" ", 2)
        self.status = int(status)
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        self.body = body

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def reply(self) -> Reply:
        async with asyncio.timeout(READ_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            reply = Reply(head, b"")
            reply.body = await self.reader.readexactly(int(reply.headers.get("content-length", 0)))
        return reply

    async def rest(self) -> bytes:
        """What still comes until the service closes the connection."""
        async with asyncio.timeout(READ_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


@asynccontextmanager
async def connected(api: Api) -> AsyncIterator[Wire]:
    host, port = api.base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


async def exchange(api: Api, raw: bytes) -> Reply:
    """The answer to these bytes; it names no version, whatever they are."""
    async with connected(api) as wire:
        wire.writer.write(raw)
        reply = await wire.reply()
    assert reply.headers["server"] == "guest-sessions"
    return reply


def check_problem(reply: Reply, *, status: int, code: str) -> None:
    assert (reply.status, reply.json["code"]) == (status, code)
    assert reply.headers["content-type"] == "application/problem+json"
    assert faults({"$ref": "#/components/schemas/Problem"}, reply.json) == []
