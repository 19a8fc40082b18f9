import asyncio
import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from service.errors import InvalidTransition, KeyringError, StoreUnavailable
from service.keys import encoding, keyring
from service.keys.encryption import Sealer, make_secret
from service.keys.file_store import Disk, DurableFile, FileStore
from tests.doubles import make_test_key, make_test_ring


@pytest.fixture
def store(tmp_path: Path) -> DurableFile:
    return DurableFile(tmp_path / "keys")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, where one can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(  # noqa: S603
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)],  # noqa: S607
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)  # noqa: S603, S607


def put(store: DurableFile, content: bytes) -> None:
    with store.locked() as (_, replace):
        replace(content)


def test_an_empty_folder_holds_nothing(store: DurableFile) -> None:
    assert store.read() is None
    assert store.stamp() is None


def test_what_was_written_is_read_and_the_stamp_tells_of_it(store: DurableFile) -> None:
    put(store, b"one")
    before = store.stamp()
    assert DurableFile(Path(store.place).parent).read() == b"one"

    put(store, b"two")

    assert store.read() == b"two"
    assert store.stamp() != before


def test_the_file_is_for_its_owner_alone(store: DurableFile) -> None:
    path = Path(store.place)
    put(store, b"one")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700

    path.chmod(0o644)
    put(store, b"two")
    assert path.stat().st_mode & 0o777 == 0o600


def test_under_the_lock_the_bytes_are_seen_and_may_stay(store: DurableFile) -> None:
    put(store, b"one")
    before = store.stamp()

    with store.locked() as (content, _):
        assert content == b"one"
    assert store.stamp() == before


def test_a_leftover_of_a_killed_writer_is_written_over(store: DurableFile) -> None:
    put(store, b"one")
    leftover = Path(store.place).with_name("keyring.json.new")
    leftover.write_bytes(b"torn and much longer than what follows")

    put(store, b"two")

    assert store.read() == b"two"
    assert not leftover.exists()


def test_a_lock_that_is_never_let_go_is_told_and_not_waited_for_for_ever(tmp_path: Path) -> None:
    store = DurableFile(tmp_path, lock_timeout_s=0.05)
    put(store, b"one")
    with (tmp_path / "keyring.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="locked by another process") as caught:
            put(store, b"two")

    assert caught.value.code == "store_unavailable"
    assert store.read() == b"one"
    put(store, b"two")
    assert store.read() == b"two"


def test_replicas_that_write_at_once_lose_no_update(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from service.keys.file_store import DurableFile\n"
        "store = DurableFile(Path(sys.argv[1]))\n"
        "for _ in range(25):\n"
        "    with store.locked() as (content, replace): replace(str(int(content or 0) + 1).encode())"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(4)]  # noqa: S603

    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    assert DurableFile(tmp_path).read() == b"100"


def test_a_full_disk_loses_nothing(tiny_disk: Path) -> None:
    store = DurableFile(tiny_disk)
    put(store, b"one")

    with pytest.raises(StoreUnavailable, match="No space left"):
        put(store, b"x" * 200_000)

    assert store.read() == b"one"
    assert not (tiny_disk / "keyring.json.new").exists()
    put(store, b"two")
    assert store.read() == b"two"


def test_a_read_only_disk_is_read_and_loses_nothing(tiny_disk: Path) -> None:
    store = DurableFile(tiny_disk)
    put(store, b"one")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)  # noqa: S603, S607

    assert store.read() == b"one"
    with pytest.raises(StoreUnavailable, match="Read-only file system"):
        put(store, b"two")
    assert store.read() == b"one"


def test_what_cannot_be_a_folder_or_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="file"):
        put(DurableFile(tmp_path / "file"), b"one")

    (tmp_path / "keyring.json").mkdir()
    with pytest.raises(StoreUnavailable, match=r"keyring\.json: Is a directory"):
        DurableFile(tmp_path).read()


def test_a_huge_file_is_not_read_into_memory(store: DurableFile) -> None:
    put(store, b"one")
    os.truncate(store.place, 2**40)

    with pytest.raises(StoreUnavailable, match="larger than any keyring"):
        store.read()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_somebody_else_is_told(store: DurableFile) -> None:
    put(store, b"one")
    Path(store.place).chmod(0)

    with pytest.raises(StoreUnavailable, match="Permission denied"):
        store.read()


# --- what lasts ---


class WatchedDisk:
    """Takes note of what is synced, by name, and fails where a test wants it to."""

    def __init__(self) -> None:
        self.synced: list[str] = []
        self.fails_with: dict[str, int] = {}

    def sync(self, descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        self.synced.append(name)
        if name in self.fails_with:
            raise OSError(self.fails_with[name], os.strerror(self.fails_with[name]))


@pytest.fixture
def disk() -> WatchedDisk:
    return WatchedDisk()


@pytest.fixture
def watched(tmp_path: Path, disk: WatchedDisk) -> DurableFile:
    return DurableFile(tmp_path / "some" / "keys", sync=disk.sync)


def test_a_write_syncs_the_file_and_all_new_folders(watched: DurableFile, disk: WatchedDisk, tmp_path: Path) -> None:
    put(watched, b"one")

    assert disk.synced == ["some", tmp_path.name, "keyring.json.new", "keys"]


def test_what_is_read_lasts_also_where_a_change_leaves_it(watched: DurableFile, disk: WatchedDisk) -> None:
    put(watched, b"one")
    disk.synced.clear()
    watched.read()
    assert disk.synced == ["keyring.json", "keys"]

    disk.synced.clear()
    with watched.locked():
        pass
    assert disk.synced == ["keyring.json", "keys"]


@pytest.mark.parametrize("place", ["keyring.json", "keys"])
def test_what_the_disk_fails_to_keep_is_not_answered(watched: DurableFile, disk: WatchedDisk, place: str) -> None:
    put(watched, b"one")
    disk.fails_with = {place: errno.EIO}

    with pytest.raises(StoreUnavailable, match="Input/output error"):
        watched.read()
    with pytest.raises(StoreUnavailable, match="Input/output error"):
        put(watched, b"two")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EINVAL])
def test_a_disk_that_knows_no_sync_is_read_all_the_same(watched: DurableFile, disk: WatchedDisk, code: int) -> None:
    put(watched, b"one")
    disk.fails_with = {"keyring.json": code, "keys": code}

    assert watched.read() == b"one"


# --- whose it is ---

NOBODY = 65_534
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="root alone gives files away")


def owners(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_uid for path in folder.iterdir()}


@only_root
def test_what_root_makes_is_left_to_the_folders_owner(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    put(DurableFile(tmp_path), b"one")

    assert owners(tmp_path) == {"keyring.json": NOBODY, "keyring.lock": NOBODY}


@only_root
def test_what_root_replaces_stays_with_its_owner(tmp_path: Path) -> None:
    put(DurableFile(tmp_path), b"one")
    os.chown(tmp_path / "keyring.json", NOBODY, NOBODY)
    put(DurableFile(tmp_path), b"two")

    assert owners(tmp_path) == {"keyring.json": NOBODY, "keyring.lock": NOBODY}
    assert (tmp_path / "keyring.json").stat().st_mode & 0o777 == 0o600


@only_root
def test_root_leaves_the_file_to_the_locks_owner(tmp_path: Path) -> None:
    put(DurableFile(tmp_path), b"one")
    os.chown(tmp_path / "keyring.lock", NOBODY, NOBODY)
    (tmp_path / "keyring.json").unlink()
    put(DurableFile(tmp_path), b"two")

    assert owners(tmp_path) == {"keyring.json": NOBODY, "keyring.lock": NOBODY}


# --- the ring in its file ---

SECRET, OTHER = make_secret(), make_secret()


def made(folder: Path, *secrets: str) -> FileStore:
    store = FileStore(folder, Sealer(secrets) if secrets else None)
    with store.transaction() as tx:
        tx.ring = make_test_ring("a", now_s=100)
    return store


def test_a_transaction_writes_what_was_assigned(tmp_path: Path) -> None:
    store = made(tmp_path)
    with store.transaction() as tx:
        assert tx.ring is not None
        tx.ring = ring = keyring.stage(tx.ring, make_test_key("b", now_s=200))

    assert store.read() == ring


def test_a_transaction_that_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    store = made(tmp_path)
    before = (tmp_path / "keyring.json").stat()
    with store.transaction() as tx:
        tx.ring = encoding.from_jwk_set((tmp_path / "keyring.json").read_bytes())

    assert (tmp_path / "keyring.json").stat().st_ino == before.st_ino
    assert (tmp_path / "keyring.json").stat().st_mtime_ns == before.st_mtime_ns


def test_a_transaction_that_raises_writes_nothing(tmp_path: Path) -> None:
    store = made(tmp_path)
    before = store.read()
    with pytest.raises(InvalidTransition), store.transaction() as tx:  # noqa: PT012 - the block is under test
        assert tx.ring is not None
        tx.ring = keyring.revoke(tx.ring, "a", now_s=200)
        tx.ring = keyring.promote(tx.ring, now_s=300)

    assert store.read() == before


def test_a_key_that_does_not_sign_becomes_no_active_one(tmp_path: Path) -> None:
    store = made(tmp_path)
    before = store.read()
    with pytest.raises(KeyringError, match="make no ES256 key"), store.transaction() as tx:  # noqa: PT012 - likewise
        assert tx.ring is not None
        key = make_test_key("b", now_s=200)
        broken = msgspec.structs.replace(key, private=key.private | {"d": "AQ"})
        tx.ring = keyring.promote(keyring.stage(tx.ring, broken), now_s=200)

    assert store.read() == before


@pytest.mark.parametrize(
    ("secrets", "readers", "sealed_with", "needs"),
    [
        ((), (), "none", False),
        ((), (SECRET,), "none", True),
        ((SECRET,), (SECRET,), "first", False),
        ((OTHER,), (SECRET, OTHER), "other", True),
    ],
    ids=["plain", "not yet sealed", "sealed", "old secret"],
)
def test_a_file_says_what_it_is_sealed_with(
    tmp_path: Path,
    secrets: tuple[str, ...],
    readers: tuple[str, ...],
    sealed_with: str,
    needs: bool,  # noqa: FBT001
) -> None:
    made(tmp_path, *secrets)
    store = FileStore(tmp_path, Sealer(readers) if readers else None)
    store.read()
    assert (store.sealed_with, store.needs_sealing) == (sealed_with, needs)

    with store.transaction():
        pass
    assert (store.sealed_with, store.needs_sealing) == ("first" if readers else "none", False)


async def test_a_disk_that_hangs_costs_its_deadline_once() -> None:
    disk, release = Disk(timeout_s=0.05), threading.Event()
    with pytest.raises(StoreUnavailable, match="does not respond"):
        await disk.run(release.wait)
    with pytest.raises(StoreUnavailable, match="does not respond"):
        await disk.run(lambda: None)

    release.set()
    async with asyncio.timeout(10):
        while True:
            try:
                assert await disk.run(lambda: "again") == "again"
                break
            except StoreUnavailable:
                await asyncio.sleep(0)


def test_a_process_ends_while_its_disk_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keyring.json")
    program = (
        "import asyncio, sys; from pathlib import Path\n"
        "from service.keys.file_store import Disk, FileStore; from service.errors import StoreUnavailable\n"
        "async def main():\n"
        "    try: await Disk(timeout_s=0.1).run(FileStore(Path(sys.argv[1])).read)\n"
        "    except StoreUnavailable as error: print(error.detail)\n"
        "asyncio.run(main())"
    )
    ended = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, timeout=30
    )

    assert ended.stdout == "The disk of the keyring does not respond.\n"
