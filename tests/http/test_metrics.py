import asyncio
import logging
from contextlib import suppress
from itertools import chain, repeat

import pytest

from service.http.metrics import LoopLag
from tests.api import Api
from tests.conftest import MakeApi


async def measured(*times_s: float) -> LoopLag:
    """The lag after as many rounds as the clock has pairs of times to show."""
    times = chain(times_s, repeat(times_s[-1]))
    lag = LoopLag(steady_clock=lambda: next(times), check_every_s=0)
    watching = asyncio.create_task(lag.run())
    for _ in range(len(times_s) // 2 + 1):
        await asyncio.sleep(0)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    return lag


async def test_a_loop_that_comes_round_in_time_has_no_lag(caplog: pytest.LogCaptureFixture) -> None:
    lag = await measured(10.0, 10.0)

    assert (lag.recent_s, lag.longest_s) == (0.0, 0.0)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("times_s", "recent_s"),
    [
        ((10.0, 10.5), 0.5),
        ((10.0, 10.5, 11.0, 11.125), 0.5),
        ((10.0, 10.25, 11.0, 11.5), 0.5),
        ((10.0, 10.5, 70.0, 70.125), 0.5),
        ((10.0, 10.5, 71.0, 71.125), 0.125),
        ((10.0, 10.5, 71.0, 71.125, 80.0, 80.0625), 0.125),
    ],
    ids=["one", "shorter", "longer", "within a minute", "after a minute", "the next longest"],
)
async def test_the_longest_lag_of_the_last_minute_is_reported(times_s: tuple[float, ...], recent_s: float) -> None:
    lag = await measured(*times_s)

    assert lag.recent_s == recent_s
    assert lag.longest_s == 0.5


async def test_a_stall_of_a_second_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    await measured(10.0, 10.999)
    short = [record.message for record in caplog.records]
    await measured(10.0, 11.0)

    assert short == []
    assert [(record.message, record.levelname, vars(record)["seconds"]) for record in caplog.records] == [
        ("the event loop was blocked", "WARNING", 1.0)
    ]


async def test_the_metrics_show_the_lag(api: Api) -> None:
    metrics = (await api.get("/metrics")).body.decode()

    assert "\nguest_sessions_event_loop_lag_seconds " in metrics
    assert "\nguest_sessions_event_loop_longest_lag_seconds " in metrics


@pytest.mark.parametrize(
    ("secrets", "sealed"), [({}, 0), ({"GUEST_KEYS_SECRET": "A" * 43}, 1)], ids=["plain", "sealed"]
)
async def test_the_metrics_say_whether_the_file_is_sealed(
    make_api: MakeApi, secrets: dict[str, str], sealed: int
) -> None:
    api = await make_api(**secrets)

    metrics = (await api.get("/metrics")).body.decode()

    assert f"\nguest_sessions_keyring_file_sealed {sealed}.0\n" in metrics
    assert "\nguest_sessions_redis_copy_age_seconds -1.0\n" in metrics


async def test_changes_that_race_and_exchanges_are_counted(api: Api) -> None:
    token = (await api.issue(payload={"n": 1}))["token"]
    for change in ({"payload": {"a": 1}}, {"payload": {"b": 1}}, {"payload": {"c": 1}, "if_current": True}):
        await api.session.post(f"{api.base_url}/v1/refresh-payload", json={"token": token, **change})
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": token,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "audience": "search",
    }
    await api.session.post(f"{api.base_url}/v1/token", data=form)

    metrics = (await api.get("/metrics")).body.decode()

    for event, number in (("refreshed", 2), ("rebased", 1), ("stale", 1), ("exchanged", 1)):
        assert f'\nguest_sessions_tokens_total{{event="{event}"}} {number}.0\n' in metrics
