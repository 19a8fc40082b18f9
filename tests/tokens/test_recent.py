import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.tokens.claims import GuestClaims
from service.tokens.recent import KEPT_S, MAX_KNOWN, RecentTokens

NOW_S = 1_800_000_000.0
FORKING = multiprocessing.get_context("fork")


def guest(token_id: str, *, subject: str = "G-1", version: int = 1) -> GuestClaims:
    return GuestClaims("https://guests.example", subject, (), 1, 2, 1, token_id, version, {})


def remember(memory: RecentTokens, old: GuestClaims, new: GuestClaims, *, now_s: float = NOW_S, raw: str = "") -> bool:
    seen = memory.find(old, now_s=now_s)
    return memory.replace(seen, old, new, raw or f"token {new.token_id}", now_s=now_s)


@pytest.fixture
def memory() -> RecentTokens:
    return RecentTokens(max_guests=64, max_bytes=200_000)


def test_a_guest_that_nothing_was_signed_for_is_unknown(memory: RecentTokens) -> None:
    assert memory.find(guest("a"), now_s=NOW_S) is None


def test_the_newest_token_is_found_under_each_that_it_came_of(memory: RecentTokens) -> None:
    remember(memory, guest("a"), guest("b"))
    remember(memory, guest("b"), guest("c"))

    found = memory.find(guest("a"), now_s=NOW_S)

    assert found is not None
    assert found.raw_token == "token c"
    assert [found.is_newer_than(guest(each)) for each in "abcd"] == [True, True, False, False]
    assert [found.knows(guest(each)) for each in "abcd"] == [True, True, True, False]


def test_a_token_that_the_newest_did_not_come_of_begins_afresh(memory: RecentTokens) -> None:
    remember(memory, guest("a"), guest("b"))
    remember(memory, guest("x"), guest("y"))

    found = memory.find(guest("a"), now_s=NOW_S)

    assert found is not None
    assert [found.knows(guest(each)) for each in "abxy"] == [False, False, True, True]


@pytest.mark.parametrize(("after_s", "known"), [(KEPT_S - 0.1, True), (KEPT_S, False)])
def test_a_successor_is_remembered_for_two_minutes(memory: RecentTokens, after_s: float, *, known: bool) -> None:
    remember(memory, guest("a"), guest("b"))

    assert (memory.find(guest("a"), now_s=NOW_S + after_s) is not None) == known


def test_who_was_overtaken_remembers_nothing(memory: RecentTokens) -> None:
    seen = memory.find(guest("a"), now_s=NOW_S)
    remember(memory, guest("a"), guest("b"))

    assert not memory.replace(seen, guest("a"), guest("c"), "token c", now_s=NOW_S)
    newest = memory.find(guest("a"), now_s=NOW_S)
    assert newest is not None
    assert newest.raw_token == "token b"
    assert memory.replace(newest, guest("a"), guest("c"), "token c", now_s=NOW_S)


def test_a_successor_that_has_ended_or_gone_overtakes_nobody(memory: RecentTokens) -> None:
    remember(memory, guest("a"), guest("b"))

    assert memory.replace(None, guest("b"), guest("c"), "token c", now_s=NOW_S + KEPT_S)


def test_guests_are_distinguished_by_their_lineage(memory: RecentTokens) -> None:
    remember(memory, guest("a"), guest("b"))

    assert memory.find(msgspec.structs.replace(guest("a"), first_issued_at_s=2), now_s=NOW_S) is None
    assert memory.find(guest("a", subject="G-2"), now_s=NOW_S) is None


def test_the_oldest_ancestors_are_forgotten(memory: RecentTokens) -> None:
    for number in range(MAX_KNOWN + 1):
        remember(memory, guest(f"t{number}"), guest(f"t{number + 1}"))

    found = memory.find(guest("t0"), now_s=NOW_S)

    assert found is not None
    assert [found.knows(guest(f"t{number}")) for number in (0, 1, 2, 3, MAX_KNOWN + 1)] == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_the_memory_is_bounded_in_guests(memory: RecentTokens) -> None:
    for number in range(1_000):
        remember(
            memory, guest("a", subject=f"G-{number}"), guest("b", subject=f"G-{number}"), now_s=NOW_S + number / 100
        )

    found = [number for number in range(1_000) if memory.find(guest("a", subject=f"G-{number}"), now_s=NOW_S + 10)]

    assert 32 <= len(found) <= 64
    assert min(found) >= 700


def test_the_memory_is_bounded_in_bytes() -> None:
    memory = RecentTokens(max_guests=1_024, max_bytes=100_000)
    for number in range(200):
        remember(memory, guest("a", subject=f"G-{number}"), guest("b", subject=f"G-{number}"), raw="x" * 3_000)

    found = [number for number in range(200) if memory.find(guest("a", subject=f"G-{number}"), now_s=NOW_S)]

    assert found == list(range(200 - len(found), 200))
    assert 15 <= len(found) <= 22


def test_a_token_that_no_memory_holds_is_not_remembered() -> None:
    memory = RecentTokens(max_guests=8, max_bytes=4_000)

    assert remember(memory, guest("a"), guest("b"), raw="x" * 16_384)
    assert memory.find(guest("a"), now_s=NOW_S) is None


def test_a_torn_record_is_no_record(memory: RecentTokens) -> None:
    remember(memory, guest("a"), guest("b"))
    start = memory._ring_start
    memory._memory[start + 40 : start + 44] = b"torn"

    assert memory.find(guest("a"), now_s=NOW_S) is None
    assert remember(memory, guest("a"), guest("c"))


def in_workers(number: int, work: Any, *arguments: Any) -> None:
    workers = [FORKING.Process(target=work, args=(*arguments, each)) for each in range(number)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0


def count_up(memory: RecentTokens, times: int, worker: int) -> None:
    """Each round is one look and one replacement; the raw token is a count."""
    for number in range(times):
        done = False
        while not done:
            seen = memory.find(guest("start"), now_s=NOW_S)
            count = 0 if seen is None else int(seen.raw_token)
            new = guest(f"{worker} {number} {count}")
            done = memory.replace(seen, guest("start"), new, str(count + 1), now_s=NOW_S)


def test_workers_share_it_and_looking_and_remembering_is_one_step() -> None:
    memory = RecentTokens()

    in_workers(4, count_up, memory, 300)

    found = memory.find(guest("start"), now_s=NOW_S)
    assert found is not None
    assert found.raw_token == "1200"


def die_within(memory: RecentTokens, worker: int) -> None:
    assert memory._acquire()
    if worker == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_within_leaves_the_others_going(memory: RecentTokens) -> None:
    worker = FORKING.Process(target=die_within, args=(memory, 0))
    worker.start()
    worker.join(60)

    assert worker.exitcode == -signal.SIGKILL
    assert remember(memory, guest("a"), guest("b"))
    assert memory.find(guest("a"), now_s=NOW_S) is not None


def hold(memory: RecentTokens, held: Any, release: Any, _worker: int) -> None:
    assert memory._acquire()
    held.set()
    release.wait(60)


def test_a_worker_that_is_stopped_within_delays_the_others_for_moments_only(memory: RecentTokens) -> None:
    held, release = FORKING.Event(), FORKING.Event()
    worker = FORKING.Process(target=hold, args=(memory, held, release, 0))
    worker.start()
    held.wait(60)

    assert remember(memory, guest("a"), guest("b"))
    assert memory.find(guest("a"), now_s=NOW_S) is None

    release.set()
    worker.join(60)
    assert remember(memory, guest("a"), guest("b"))
    assert memory.find(guest("a"), now_s=NOW_S) is not None


def test_nothing_of_it_is_in_a_file() -> None:
    program = """
import os
from service.tokens.recent import RecentTokens
memory = RecentTokens()
for each in os.listdir("/proc/self/fd"):
    try:
        print(os.readlink(f"/proc/self/fd/{each}"))
    except OSError:
        pass
"""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not list a process's files")
    listed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout  # noqa: S603

    assert "memfd:recent-tokens" in listed
    assert not [each for each in listed.split() if each.startswith(("/tmp", "/var"))]  # noqa: S108
