"""What only a socket of one's own can send: malformed heads, smuggling, stalling, pipelining, leaving midway."""

import asyncio
import gzip
import logging
import socket
import struct

import pytest

from service.http.protocol import MAX_HEAD_BYTES, MAX_LINE_BYTES
from tests.api import Api
from tests.conftest import MakeApi
from tests.security.heads import MALFORMED, SECRET, get, post
from tests.security.wire import check_problem, connected, exchange


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_no_request_is_a_problem_and_the_log_repeats_nothing(
    api: Api, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    reply = await exchange(api, MALFORMED[name])

    check_problem(reply, status=400, code="malformed_request")
    assert SECRET not in reply.body
    assert SECRET.decode() not in caplog.text
    assert [record.levelname for record in caplog.records if record.levelno >= logging.WARNING] == []


RAW = b"/v1/auth/caf\xc3\xa9/\xff\xfe?a=\x80"


@pytest.mark.parametrize("cut", [None, 0, 15, 17, 60], ids=["whole", "method", "target", "byte", "headers"])
async def test_raw_bytes_below_auth_change_nothing(api: Api, cut: int | None) -> None:
    """nginx passes a path on as the visitor sent it, and makes a 500 of a 400."""
    token = (await api.issue())["token"].encode()
    head = get(b"Cookie: guest=" + token, target=RAW)
    async with connected(api) as wire:
        for piece in [head] if cut is None else [head[: cut + 1], head[cut + 1 :]]:
            wire.writer.write(piece)
            await wire.writer.drain()
            await asyncio.sleep(0.01)
        first = await wire.reply()
        wire.writer.write(head)
        second = await wire.reply()

    assert (first.status, second.status) == (200, 200)
    assert first.headers["x-guest-id"] == second.headers["x-guest-id"]


async def test_raw_bytes_in_another_path_are_not_found(api: Api) -> None:
    check_problem(await exchange(api, get(target=b"/\xff\xfe")), status=404, code="not_found")


async def test_raw_bytes_in_a_body_that_comes_with_the_head_stay_as_they_are(api: Api) -> None:
    body = '{"payload": {"drink": "Tee mit Löffel, £2"}}'.encode()

    reply = await exchange(api, post(b"Content-Length: %d" % len(body), body=body))

    assert reply.json["payload"] == {"drink": "Tee mit Löffel, £2"}


@pytest.mark.parametrize(
    "host", [b"guests.example", b"127.0.0.1:8080", b"[::1]:8080", b"a_b.example", b"GUESTS.example.", b"a%20b", b""]
)
async def test_hosts_of_gateways_are_taken(api: Api, host: bytes) -> None:
    reply = await exchange(api, b"GET /healthz HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")

    assert reply.status == 200


async def test_after_what_is_no_request_the_connection_ends(api: Api) -> None:
    async with connected(api) as wire:
        wire.writer.write(b"nonsense\r\n\r\n" + get())

        assert (await wire.reply()).status == 400
        assert await wire.rest() == b""


async def test_a_second_request_hidden_behind_a_refused_one_is_not_run(api: Api) -> None:
    async with connected(api) as wire:
        wire.writer.write(MALFORMED["Content-Length and Transfer-Encoding"] + post(b"Content-Length: 2", body=b"{}"))

        assert (await wire.reply()).status == 400
        assert await wire.rest() == b""


async def test_the_longest_line_that_is_taken_holds_a_full_cookie_jar(api: Api) -> None:
    reply = await exchange(api, get(b"Cookie: " + b"a" * (MAX_LINE_BYTES - 1_024)))

    assert reply.status == 200


async def test_an_expectation_that_nobody_knows_is_a_problem_and_100_continue_is_met(api: Api) -> None:
    unknown = await exchange(api, post(b"Expect: 200-ok", b"Content-Length: 2", body=b"{}"))
    async with connected(api) as wire:
        wire.writer.write(post(b"Expect: 100-continue", b"Content-Length: 2"))
        interim = await wire.reader.readuntil(b"\r\n\r\n")
        wire.writer.write(b"{}")
        final = await wire.reply()

    check_problem(unknown, status=400, code="malformed_request")
    assert (interim, final.status) == (b"HTTP/1.1 100 Continue\r\n\r\n", 201)


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"deflate, chunked", b"identity, chunked"])
async def test_no_transfer_coding_but_chunked_is_taken(api: Api, coding: bytes) -> None:
    reply = await exchange(api, post(b"Transfer-Encoding: " + coding, body=b"2\r\n{}\r\n0\r\n\r\n"))

    check_problem(reply, status=415, code="unsupported_media_type")


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"zstd", b"identity", b"x", b""])
async def test_no_content_encoding_is_taken_and_a_bomb_is_not_inflated(api: Api, encoding: bytes) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    head = post(b"Content-Encoding: " + encoding, b"Content-Length: %d" % len(bomb))

    reply = await exchange(api, head + bomb)

    check_problem(reply, status=415, code="unsupported_media_type")


@pytest.mark.parametrize("length", [b"262145", b"9999999999", b"18446744073709551615"])
async def test_a_length_past_the_limit_is_refused_before_the_body_comes(api: Api, length: bytes) -> None:
    reply = await exchange(api, post(b"Content-Length: " + length))

    check_problem(reply, status=413, code="request_too_large")
    assert reply.json["limit"] == 262_144


async def test_chunks_past_the_limit_are_refused_when_they_pass_it(make_api: MakeApi) -> None:
    api = await make_api(GUEST_MAX_BODY_BYTES="1024")
    chunk = b"400\r\n" + b" " * 1_024 + b"\r\n"

    reply = await exchange(api, post(b"Transfer-Encoding: chunked", body=chunk * 3))

    check_problem(reply, status=413, code="request_too_large")


async def test_chunks_their_extensions_and_trailers_say_nothing(api: Api) -> None:
    body = (
        b'5;key="'
        + SECRET
        + b'"\r\n{"cla\r\n9\r\nims": {}}\r\n0\r\nX-API-Key: trailing\r\nOrigin: https://evil.example\r\n\r\n'
    )

    reply = await exchange(api, post(b"Transfer-Encoding: chunked", body=body))

    assert reply.status == 201


async def test_a_head_that_does_not_end_is_given_up(make_api: MakeApi) -> None:
    api = await make_api(head_timeout_s=0.05)
    async with connected(api) as wire:
        wire.writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-API-Key: " + SECRET)
        reply = await wire.reply()

        check_problem(reply, status=408, code="request_timeout")
        assert (reply.headers["server"], reply.headers["connection"]) == ("guest-sessions", "close")
        assert await wire.rest() == b""


async def test_a_head_that_trickles_is_given_up_all_the_same(make_api: MakeApi) -> None:
    api = await make_api(head_timeout_s=0.2)
    async with connected(api) as wire:
        answered = asyncio.create_task(wire.reply())
        for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 10_000:
            if answered.done():
                break
            wire.writer.write(bytes([byte]))
            await asyncio.sleep(0.01)

        check_problem(await answered, status=408, code="request_timeout")


async def test_a_head_that_comes_in_pieces_is_put_together_and_the_next_has_its_own_time(make_api: MakeApi) -> None:
    api = await make_api(head_timeout_s=5)
    async with connected(api) as wire:
        for _ in range(2):
            for piece in (b"GET /hea", b"lthz HTTP/1.1\r\nHo", b"st: x\r\n", b"\r\n"):
                wire.writer.write(piece)
                await wire.writer.drain()
                await asyncio.sleep(0.005)
            assert (await wire.reply()).status == 200


async def test_a_head_of_many_long_lines_is_refused_before_it_fills_the_memory(api: Api) -> None:
    async with connected(api) as wire:
        wire.writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        line = b"X-A: " + b"a" * (MAX_HEAD_BYTES // 4) + b"\r\n"
        answered = asyncio.create_task(wire.reply())
        for _ in range(100):
            if answered.done():
                break
            wire.writer.write(line)
            await asyncio.sleep(0.005)

        check_problem(await answered, status=400, code="malformed_request")


async def test_a_body_that_trickles_is_given_up(make_api: MakeApi) -> None:
    api = await make_api(body_timeout_s=0.1)
    async with connected(api) as wire:
        wire.writer.write(post(b"Content-Length: 10000"))
        answered = asyncio.create_task(wire.reply())
        while not answered.done():
            wire.writer.write(b" ")
            await asyncio.sleep(0.01)

        check_problem(await answered, status=408, code="request_timeout")


async def test_a_broken_chunk_after_a_good_start_is_refused_and_nothing_behind_it_is_run(make_api: MakeApi) -> None:
    api = await make_api(body_timeout_s=0.1)
    async with connected(api) as wire:
        wire.writer.write(post(b"Transfer-Encoding: chunked", body=b"1\r\n{\r\n"))
        await asyncio.sleep(0.02)
        wire.writer.write(b"zz\r\n}\r\n0\r\n\r\n" + post(b"Content-Length: 2", body=b"{}"))

        assert (await wire.reply()).status in (400, 408)
        assert b"201 Created" not in await wire.rest()


@pytest.mark.parametrize("target", [b"/healthz", b"/v1/auth", b"/v1/nothing", b"/v1/issue"])
async def test_a_length_that_the_parser_reads_as_none_hides_no_second_request(api: Api, target: bytes) -> None:
    async with connected(api) as wire:
        wire.writer.write(
            get(b"Content-Length: 18446744073709551615", target=target) + post(b"Content-Length: 2", body=b"{}")
        )

        await wire.reply()
        assert await wire.rest() == b""


async def test_pipelined_requests_are_answered_in_their_order(api: Api) -> None:
    async with connected(api) as wire:
        wire.writer.write(b"".join(get(target=b"/v1/nothing", *[b"X-Request-Id: n%d" % n]) for n in range(500)))  # noqa: B026 - all by name or in order

        ids = [(await wire.reply()).headers["x-request-id"] for _ in range(500)]

    assert ids == [f"n{n}" for n in range(500)]


@pytest.mark.parametrize("reset", [False, True], ids=["closing", "resetting"])
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/is",
        post(b"Content-Length: 100"),
        post(b"Content-Length: 100", body=b'{"payload"'),
        post(b"Content-Length: 2", body=b"{}"),
        get() * 50,
    ],
    ids=["before all", "in the head", "before the body", "in the body", "before the answer", "before 50 answers"],
)
async def test_a_client_that_leaves_midway_is_no_failure(
    api: Api,
    sent: bytes,
    reset: bool,  # noqa: FBT001
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    for _ in range(3):
        async with connected(api) as wire:
            wire.writer.write(sent)
            await wire.writer.drain()
            if reset:
                linger = struct.pack("ii", 1, 0)
                wire.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    assert (await api.get("/healthz")).status == 200
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_an_upgrade_is_not_made(api: Api) -> None:
    reply = await exchange(api, get(b"Connection: upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: AAAA"))

    assert reply.status == 200


@pytest.mark.parametrize(
    "target", [b"*", b"a:443", b"http://evil.example/healthz", b"//evil.example/healthz", b"/..%2f..%2fetc/passwd"]
)
async def test_odd_targets_lead_nowhere_else(api: Api, target: bytes) -> None:
    reply = await exchange(api, b"OPTIONS " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")

    assert reply.status in (400, 404, 405)
