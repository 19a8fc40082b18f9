import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import CacheUnavailable
from service.keys.ports import KeyCache
from service.keys.redis_store import CHANNEL, CLAIM_KEY, MOST_WORDS, NO_BYTES, RING_KEY, RedisCache
from service.keys.redis_url import parse_redis_url
from tests.doubles import MemoryCache
from tests.redis_servers import TOPOLOGIES, Server, running, sentinel_lines, until

CacheMaker = Callable[[], KeyCache]


@pytest.fixture(scope="module", params=["in memory", *TOPOLOGIES])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    """One real server or set of servers after the other, for all tests of a worker process."""
    if request.param == "in memory":
        yield None
        return
    with TOPOLOGIES[request.param](tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
async def caches(address: str | None) -> AsyncIterator[CacheMaker]:
    """Makes caches that all look at the same place, which is empty at first."""
    made: list[KeyCache] = []
    memory = MemoryCache()

    def make() -> KeyCache:
        made.append(memory if address is None else RedisCache(parse_redis_url(address), timeout_s=5))
        return made[-1]

    cache = make()
    if isinstance(cache, RedisCache) and "guests:" not in str(address):
        await cache._redis.delete(RING_KEY)
        await cache._redis.delete(CLAIM_KEY)
    yield make
    for each in made:
        await each.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(Server(tmp_path / "redis")) as (server,):
        yield server


@pytest.fixture
async def cache(server: Server) -> AsyncIterator[RedisCache]:
    cache = RedisCache(parse_redis_url(f"redis://127.0.0.1:{server.port}"), timeout_s=1)
    yield cache
    await cache.close()


async def put_once_possible(cache: RedisCache, content: bytes) -> None:
    while True:
        try:
            await cache.put(content)
        except CacheUnavailable:
            await asyncio.sleep(0.05)
        else:
            return


# --- what every cache does, whatever stands behind it ---


async def test_what_one_process_puts_the_others_get(caches: CacheMaker) -> None:
    one, other = caches(), caches()

    await one.put(b"sealed \x00\xff bytes")
    assert await other.get() == b"sealed \x00\xff bytes"
    await other.put(b"newer")
    assert await one.get() == b"newer"


async def test_a_ring_of_a_hundred_rsa_keys_fits(caches: CacheMaker) -> None:
    cache = caches()
    ring = b"x" * 500_000

    await cache.put(ring)
    assert await cache.get() == ring


async def test_each_subscriber_hears_of_a_subscription_and_of_each_change(caches: CacheMaker) -> None:
    writer, listener = caches(), caches()
    async with contextlib.aclosing(listener.changes()) as words:
        async with asyncio.timeout(20):
            await anext(words)
            for content in (b"one", b"two"):
                heard = asyncio.ensure_future(anext(words))
                await asyncio.sleep(0)
                await writer.put(content)
                await heard
                assert await listener.get() == content


async def test_an_empty_place_is_none_and_one_caller_alone_may_found(caches: CacheMaker, address: str | None) -> None:
    if "guests:" in str(address):
        pytest.skip("a user with the least rights cannot empty the place first")
    cache, other = caches(), caches()

    assert await cache.get() is None
    assert [await cache.claim(b"1"), await other.claim(b"2"), await cache.claim(b"1")] == [True, False, True]

    await other.release(b"2")
    assert not await other.claim(b"2")
    await cache.release(b"1")
    async with asyncio.timeout(10):
        while not await other.claim(b"2"):  # noqa: ASYNC110 - the claim ends by itself, within a millisecond
            await asyncio.sleep(0)


async def test_a_process_can_be_ended_at_any_moment(server: Server) -> None:
    async def follow(cache: RedisCache) -> None:
        while True:
            await cache.get()

    for number in range(100):
        cache = RedisCache(parse_redis_url(f"redis://127.0.0.1:{server.port}"))
        following = asyncio.create_task(follow(cache))
        for _ in range(number % 25):
            await asyncio.sleep(0)
        following.cancel()
        _, pending = await asyncio.wait([following], timeout=5)
        assert not pending
        await cache.close()


# --- faults ---


async def test_no_server_is_told_at_once_and_without_a_password() -> None:
    cache = RedisCache(parse_redis_url("redis://user:hunter2@127.0.0.1:1"), timeout_s=5)

    for call in (cache.get(), cache.put(b"x"), cache.claim(b"1")):
        with pytest.raises(CacheUnavailable, match=r"Redis \(single 127\.0\.0\.1:1\) cannot be used") as caught:
            await call
        assert "hunter2" not in str(caught.value)
        assert caught.value.code == "cache_unavailable"
    await cache.close()


async def test_a_wrong_password_is_told_without_it(tmp_path: Path) -> None:
    with running(Server(tmp_path, lines=("requirepass right",))) as (server,):
        cache = RedisCache(parse_redis_url(f"redis://:hunter2@127.0.0.1:{server.port}"))
        with pytest.raises(CacheUnavailable, match=r"(?i)password|auth") as caught:
            await cache.get()
        assert "hunter2" not in str(caught.value)
        await cache.close()


async def test_a_server_that_stops_answering_costs_no_more_than_the_timeout(server: Server) -> None:
    cache = RedisCache(parse_redis_url(f"redis://127.0.0.1:{server.port}"), timeout_s=0.1)
    await cache.put(b"x")
    server.pause()
    try:
        with pytest.raises(CacheUnavailable, match=r"did not answer in time|Timeout"):
            await cache.get()
    finally:
        server.resume()
    assert server.client().get(RING_KEY) == b"x"
    await cache.close()


async def test_a_server_that_came_back_is_used_again(server: Server, cache: RedisCache) -> None:
    await cache.put(b"x")
    server.kill()
    with pytest.raises(CacheUnavailable):
        await cache.get()
    server.start()

    assert await cache.get() is None
    await cache.put(b"y")
    assert await cache.get() == b"y"


async def test_a_subscription_comes_back_after_the_server_did(server: Server, cache: RedisCache) -> None:
    async with contextlib.aclosing(cache.changes()) as words, asyncio.timeout(30):
        await anext(words)
        server.kill()
        server.start()
        await anext(words)
        await cache.put(b"x")
        await anext(words)


async def test_a_subscription_that_fell_silent_is_given_up_and_made_anew(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def pings() -> int:
        statistics: Any = client.info("commandstats")
        return int(statistics.get("cmdstat_ping", {}).get("calls", 0))

    cache = RedisCache(parse_redis_url(f"redis://127.0.0.1:{server.port}"), timeout_s=0.3, ping_every_s=0.1)
    with server.client() as client, caplog.at_level(logging.DEBUG, "guest_sessions.redis"):
        async with contextlib.aclosing(cache.changes()) as words, asyncio.timeout(30):
            await anext(words)
            waiting = asyncio.ensure_future(anext(words))
            while pings() < 3:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
            assert not waiting.done()
            server.pause()
            while "the subscription ended" not in caplog.text:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
            server.resume()
            await waiting
    await cache.close()


async def test_a_flood_of_words_is_heeded_now_and_then(server: Server) -> None:
    cache = RedisCache(parse_redis_url(f"redis://127.0.0.1:{server.port}"), timeout_s=5, heed_every_s=0.01)
    heard = 0
    async with contextlib.aclosing(cache.changes()) as words:
        await anext(words)
        with server.client() as client:
            for _ in range(2 * MOST_WORDS):
                client.publish(CHANNEL, "changed")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):  # until no more comes
                while True:
                    await anext(words)
                    heard += 1
    await cache.close()

    assert 1 <= heard <= 4


async def test_another_type_under_the_name_is_content_that_is_no_ring(server: Server, cache: RedisCache) -> None:
    with server.client() as client:
        client.lpush(RING_KEY, "a", "list")

    assert await cache.get() == NO_BYTES
    await cache.put(b"x")
    assert await cache.get() == b"x"


async def test_a_subscription_that_is_refused_is_tried_again(server: Server) -> None:
    with server.client() as client:
        client.acl_setuser("deaf", enabled=True, passwords="+pw", keys="*", channels=[], commands=["+@all"])
        cache = RedisCache(parse_redis_url(f"redis://deaf:pw@127.0.0.1:{server.port}"), timeout_s=1)
        async with contextlib.aclosing(cache.changes()) as words, asyncio.timeout(30):
            waiting = asyncio.ensure_future(anext(words))
            while not client.acl_log():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
            client.acl_setuser("deaf", enabled=True, channels=["*"])
            await waiting
    await cache.close()


@pytest.mark.parametrize("answer", [b"-WRONGTYPE no\r\n", b"-ERR no\r\n", b":1\r\n", b"*1\r\n:1\r\n"])
async def test_a_server_that_lies_to_a_subscription_ends_none(answer: bytes) -> None:
    asked = asyncio.Semaphore(0)

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(4_096):
                writer.write(answer)
                asked.release()
        writer.close()

    liar = await asyncio.start_server(lie, "127.0.0.1", 0)
    port = liar.sockets[0].getsockname()[1]
    cache = RedisCache(parse_redis_url(f"redis://127.0.0.1:{port}"), timeout_s=0.2)
    hearing = asyncio.create_task(_hear(cache))
    async with asyncio.timeout(30):
        for _ in range(5):
            await asked.acquire()
    assert not hearing.done()

    hearing.cancel()
    await asyncio.wait([hearing])
    await cache.close()
    liar.close()


async def _hear(cache: RedisCache) -> None:
    async for _ in cache.changes():
        pass


async def test_a_user_without_the_right_is_told(server: Server) -> None:
    with server.client() as client:
        client.acl_setuser("reader", enabled=True, passwords="+pw", keys="*", commands=["+getrange"])
    cache = RedisCache(parse_redis_url(f"redis://reader:pw@127.0.0.1:{server.port}"))

    assert await cache.get() is None
    with pytest.raises(CacheUnavailable, match=r"(?i)no permissions"):
        await cache.put(b"x")
    await cache.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$99999999999999999999\r\n",
        b"$abc\r\n",
        b"$-7\r\n",
        b"*3\r\n",
        b"*-1\r\n",
        b"-LOADING not yet\r\n",
        b"-\r\n",
        b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n",
        b":1\r\n:2\r\n:3\r\n:4\r\n:5\r\n",
        b"%1\r\n+a\r\n",
        b"\xff\xfe\x00" * 100,
    ],
)
async def test_a_server_that_lies_is_unavailable_or_its_content_no_ring(answer: bytes) -> None:
    lies = []

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lies.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            while await reader.read(4_096):
                writer.write(answer)
                await writer.drain()
                if not answer:
                    break
            writer.close()

    liar = await asyncio.start_server(lie, "127.0.0.1", 0)
    port = liar.sockets[0].getsockname()[1]
    cache = RedisCache(parse_redis_url(f"redis://127.0.0.1:{port}"), timeout_s=0.2)
    with contextlib.suppress(CacheUnavailable):
        assert len(await cache.get() or b"") < 100
    with contextlib.suppress(CacheUnavailable):
        await cache.claim(b"1")
    await cache.close()
    liar.close()
    await asyncio.gather(*filter(None, lies))


async def test_a_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    with TOPOLOGIES["with TLS"](tmp_path) as url:
        cache = RedisCache(parse_redis_url(url.partition("?")[0]))
        with pytest.raises(CacheUnavailable, match=r"(?i)certificate"):
            await cache.get()
        await cache.close()


async def test_a_fail_over_of_the_sentinel_is_followed(tmp_path: Path) -> None:
    master = Server(tmp_path / "master")
    with running(master):
        replica = Server(tmp_path / "replica", lines=(f"replicaof 127.0.0.1 {master.port}",))
        sentinel = Server(tmp_path / "sentinel", sentinel=True, lines=sentinel_lines(master))
        with running(replica, sentinel):
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/ring"
            cache = RedisCache(parse_redis_url(url), timeout_s=2)
            await cache.put(b"before")
            until(lambda: replica.client().get(RING_KEY) == b"before")
            until(lambda: _replicas(sentinel) == 1)
            async with contextlib.aclosing(cache.changes()) as words, asyncio.timeout(60):
                await anext(words)
                master.kill()

                await put_once_possible(cache, b"after")
                assert await cache.get() == b"after"
                await anext(words)
            await cache.close()


def _replicas(sentinel: Server) -> int:
    master: Any = sentinel.client().sentinel_master("ring")
    return int(master["num-slaves"])
