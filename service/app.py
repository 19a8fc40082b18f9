"""The root: puts adapters into use cases into routes. No other module knows which adapter stands behind a port."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from service.config import Settings
from service.errors import GuestSessionsError
from service.http.auth import ApiKeyAuth
from service.http.cookies import GuestCookie
from service.http.forward_auth import ForwardAuth
from service.http.handlers import ApiHandlers
from service.http.metrics import LoopLag, Metrics, SharedCounters
from service.http.ops import OpsHandlers
from service.http.rate_limit import ClientTable, RateLimiter
from service.http.request import BODY_TIMEOUT_S, BodyReader
from service.http.routing import Routing
from service.keys import Clock
from service.keys.admin import KeyAdmin
from service.keys.encryption import Sealer
from service.keys.file_store import FileStore
from service.keys.generator import KeyGenerator
from service.keys.held import REFUSALS, KeySource
from service.keys.manager import FIRST_RING_PATIENCE_S, KeyManager, KeysStatus, Pace
from service.keys.material import Algorithm
from service.keys.shared_memory import SharedRings
from service.keys.signer import require_cryptography_backend
from service.merge.service import MergeService
from service.tokens.recent import RecentTokens
from service.tokens.service import Observer, TokenService

if TYPE_CHECKING:
    from service.keys.redis_store import RedisStore

logger = logging.getLogger("guest_sessions.app")

KEYS: web.AppKey[KeyManager] = web.AppKey("keys", KeyManager)


class Shared(msgspec.Struct, frozen=True):
    """Memory of all the workers that are forked from the process that made it."""

    board: SharedCounters
    clients: ClientTable
    recent: RecentTokens
    rings: SharedRings

    @classmethod
    def by(cls, workers: int) -> "Shared":
        """For so many workers at a time."""
        return cls(SharedCounters(workers), ClientTable(), RecentTokens(), SharedRings(workers))


def make_keys(
    settings: Settings,
    *,
    clock: Clock = time.time,
    on_change: Callable[[bytes], None] = lambda _ring: None,
) -> KeyManager:
    """The keys use case over the places that the settings name; `on_change` is as for `KeyManager`."""
    patience_s = None if settings.keys_required else FIRST_RING_PATIENCE_S
    return KeyManager(
        settings.keys,
        generator=_make_generator(settings, clock),
        file=_make_file(settings),
        copy=make_redis_store(settings),
        clock=clock,
        steady_clock=time.monotonic,
        pace=Pace(first_ring_patience_s=patience_s),
        on_change=on_change,
    )


def make_tokens(
    settings: Settings, keys: KeySource, *, clock: Clock = time.time, observe: Observer = lambda _event: None
) -> TokenService:
    """The use cases of guest tokens over these keys."""
    return TokenService(settings.tokens, keys=keys, clock=clock, random_bytes=os.urandom, observe=observe)


def make_key_operations(
    settings: Settings, *, algorithm: Algorithm | None = None, clock: Clock = time.time
) -> KeyAdmin:
    """What an operator does to the keys in the places that the settings name; new keys are of `algorithm`."""
    return KeyAdmin(
        generator=_make_generator(settings, clock),
        file=_make_file(settings),
        copy=make_redis_store(settings),
        sealer=make_sealer(settings),
        clock=clock,
        algorithm=algorithm,
    )


def _make_generator(settings: Settings, clock: Clock) -> KeyGenerator:
    require_cryptography_backend()
    return KeyGenerator(settings.keys, clock=clock, random_bytes=os.urandom)


def make_sealer(settings: Settings) -> Sealer | None:
    """Seals and opens keyrings; None where the settings have no secret."""
    return Sealer(settings.keys_secrets) if settings.keys_secrets else None


def _make_file(settings: Settings) -> FileStore | None:
    return None if settings.keys_dir is None else FileStore(settings.keys_dir, make_sealer(settings))


def make_redis_store(settings: Settings) -> "RedisStore | None":
    """The settings refuse Redis without a secret: what goes there is always sealed."""
    sealer = make_sealer(settings)
    if settings.redis_url is None or sealer is None:
        return None
    # Imported here: a process without Redis need not carry its client, 7 MiB and a third of the time to start.
    from service.keys.redis_store import RedisStore, parse_redis_url  # noqa: PLC0415

    return RedisStore(parse_redis_url(settings.redis_url), sealer, prefix=settings.redis_prefix)


def make_app(
    settings: Settings,
    *,
    clock: Clock = time.time,
    body_timeout_s: float = BODY_TIMEOUT_S,
    shared: Shared | None = None,
    row: int = 0,
) -> web.Application:
    """The whole service as an aiohttp application; its keys are loaded and followed while it runs.

    Where several workers serve together, `shared` is what all of them have, and `row` this one's own in it.
    """
    shared = shared or Shared.by(1)
    keys = make_keys(settings, clock=clock, on_change=partial(shared.rings.write, row))
    loop_lag = LoopLag(steady_clock=time.monotonic)
    metrics = Metrics(lambda: _gauges(keys.status(), loop_lag), board=shared.board, row=row)
    warned: list[str] = []

    def observe(event: str) -> None:
        metrics.token(event)
        if event == "wrong_issuer" and not warned:  # once: such tokens come by the thousand
            warned.append(event)
            logger.warning(
                "a token that this keyring signed names another issuer than GUEST_ISSUER (%s): "
                "if the address has changed, list the old one behind the new one",
                ", ".join(settings.tokens.issuers),
            )

    tokens = make_tokens(settings, keys, clock=clock, observe=observe)
    cookie = GuestCookie(settings.cookie)
    access = ApiKeyAuth(settings.access, clock=clock)
    merges = MergeService(tokens, recent=shared.recent)
    limiter = RateLimiter(settings.gateway.rate_limit_per_s, clock=clock, clients=shared.clients)
    api = ApiHandlers(
        tokens=tokens,
        merges=merges,
        merge_policies=settings.merge_policies,
        default_policy=settings.merge_policy,
        forward_auth=ForwardAuth(settings.gateway, tokens=tokens, merges=merges, cookie=cookie, limiter=limiter),
        cookie=cookie,
    )
    ops = OpsHandlers(
        keys=keys,
        metrics=metrics,
        issuer=settings.tokens.issuers[0],
        asks_for_a_key=access.asks_for_a_key,
        jwks_max_age_s=settings.keys.jwks_max_age_s,
    )
    routing = Routing(auth=access, bodies=BodyReader(timeout_s=body_timeout_s), metrics=metrics)
    app = web.Application(client_max_size=settings.max_body_bytes)
    app[KEYS] = keys
    app.add_routes([*api.routes(routing), *ops.routes(routing)])
    app.cleanup_ctx.append(partial(_background_tasks, keys, shared.rings, loop_lag))
    return app


async def _background_tasks(
    keys: KeyManager, rings: SharedRings, loop_lag: LoopLag, _: web.Application
) -> AsyncIterator[None]:
    """Follows the keys and measures the event loop until the application ends."""

    def report_early_end(task: asyncio.Task[None]) -> None:
        # These tasks end by being cancelled; any other end is a bug that must not pass in silence.
        if not task.cancelled():
            logger.critical("work beside the requests has ended: restart this process", exc_info=task.exception())

    # A worker that replaces another has the keys before it accepts connections, whatever the disk and Redis do.
    for content in rings:
        try:
            await keys.hold(content)
        except GuestSessionsError as error:
            logger.warning("a ring of this host's other workers is not taken: %s", error.detail)
    await keys.start()
    tasks = [asyncio.create_task(work) for work in (keys.run(), loop_lag.run())]
    for task in tasks:
        task.add_done_callback(report_early_end)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await keys.stop()


def _gauges(status: KeysStatus, loop_lag: LoopLag) -> dict[str, float]:
    return {
        "ready": status.ready,
        "keyring_revision": status.revision,
        "keyring_age_seconds": -1 if status.ring_age_s is None else status.ring_age_s,
        "keyring_file_ok": status.file == "ok",
        "keyring_refused": sum(status.counts.get(refusal.code, 0) for refusal in REFUSALS),
        "keyring_file_sealed": status.sealed_with == "first",
        "keyring_joined": status.counts.get("joined", 0),
        "keyring_put_back": status.counts.get("put_back", 0),
        "redis_ok": status.redis == "ok",
        "redis_copy_age_seconds": -1 if status.copy_age_s is None else status.copy_age_s,
        "event_loop_lag_seconds": loop_lag.recent_s,
        "event_loop_longest_lag_seconds": loop_lag.longest_s,
        **{f"keys_{state}": number for state, number in status.keys.items()},
    }
