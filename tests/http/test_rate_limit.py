import pytest

from service.http.rate_limit import ClientTable, RateLimiter
from tests.doubles import HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock(1_800_000_000.0)


def allowed(limiter: RateLimiter, times: int, client: str = "client") -> int:
    return sum(limiter.allows(client) for _ in range(times))


def test_a_seconds_worth_comes_at_once_and_the_rate_from_then_on(clock: HandClock) -> None:
    limiter = RateLimiter(4, clock=clock)

    at_once = allowed(limiter, 10)
    later = []
    for _ in range(8):
        clock.now_s += 0.25
        later.append(allowed(limiter, 10))

    assert (at_once, later) == (4, [1] * 8)


def test_a_bucket_never_holds_more_than_a_seconds_worth(clock: HandClock) -> None:
    limiter = RateLimiter(2, clock=clock)
    allowed(limiter, 3)

    clock.now_s += 3600

    assert allowed(limiter, 10) == 2


def test_a_rate_below_one_a_second_still_lets_the_first_visit_through(clock: HandClock) -> None:
    limiter = RateLimiter(0.1, clock=clock)

    assert allowed(limiter, 2) == 1
    clock.now_s += 9.5
    assert allowed(limiter, 1) == 0
    clock.now_s += 0.5
    assert allowed(limiter, 1) == 1


def test_asking_in_vain_does_not_put_the_next_one_off(clock: HandClock) -> None:
    limiter = RateLimiter(1, clock=clock)
    allowed(limiter, 1_000)

    clock.now_s += 1

    assert allowed(limiter, 1) == 1


def test_no_limit_is_no_limit(clock: HandClock) -> None:
    assert allowed(RateLimiter(0, clock=clock), 1_000) == 1_000


def test_a_clock_set_back_locks_nobody_out_and_gives_nothing_away(clock: HandClock) -> None:
    limiter = RateLimiter(1, clock=clock)
    assert allowed(limiter, 1) == 1

    clock.now_s -= 3600
    set_back = allowed(limiter, 1)
    clock.now_s += 1
    later = allowed(limiter, 1)

    assert (set_back, later) == (0, 1)


def test_clients_do_not_count_for_each_other(clock: HandClock) -> None:
    limiter = RateLimiter(1, clock=clock)

    first = [limiter.allows(str(client)) for client in range(1_000)]
    second = [limiter.allows(str(client)) for client in range(1_000)]

    assert all(first)
    assert not any(second)


def test_where_the_table_is_full_the_client_whose_bucket_fills_first_is_forgotten(clock: HandClock) -> None:
    limiter = RateLimiter(1, clock=clock, clients=ClientTable(clients=8))
    for client in "abcdefgh":
        assert limiter.allows(client)
        clock.now_s += 0.01

    assert limiter.allows("one more")

    assert [client for client in "hgfedcb" if limiter.allows(client)] == []
    assert limiter.allows("a")


def test_limiters_over_one_table_count_together(clock: HandClock) -> None:
    clients = ClientTable()
    limiters = [RateLimiter(0.001, clock=clock, clients=clients) for _ in range(3)]

    assert [allowed(limiter, 5) for limiter in limiters] == [1, 0, 0]
