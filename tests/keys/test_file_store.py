import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import StoreUnavailable
from service.keys.file_store import FileStore


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "keys")


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


def put(store: FileStore, content: bytes) -> bytes | None:
    return store.update(lambda _: content)


def test_an_empty_folder_holds_nothing(store: FileStore) -> None:
    assert store.read() is None
    assert store.stamp() is None


def test_what_was_written_is_read_and_the_stamp_tells_of_it(store: FileStore) -> None:
    assert put(store, b"one") == b"one"
    before = store.stamp()
    assert FileStore(Path(store.place).parent).read() == b"one"

    put(store, b"two")

    assert store.read() == b"two"
    assert store.stamp() != before


def test_the_file_is_for_its_owner_alone(store: FileStore) -> None:
    path = Path(store.place)
    put(store, b"one")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700

    path.chmod(0o644)
    put(store, b"two")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_change_sees_what_is_there_and_may_leave_it(store: FileStore) -> None:
    put(store, b"one")
    seen: list[bytes | None] = []
    before = store.stamp()

    assert store.update(seen.append) == b"one"
    assert store.update(lambda current: current) == b"one"
    assert (seen, store.stamp()) == ([b"one"], before)


def test_a_change_that_raises_writes_nothing(store: FileStore) -> None:
    put(store, b"one")

    def change(_: bytes | None) -> bytes | None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.update(change)
    assert store.read() == b"one"


def test_a_leftover_of_a_killed_writer_is_written_over(store: FileStore) -> None:
    put(store, b"one")
    leftover = Path(store.place).with_name("keyring.json.new")
    leftover.write_bytes(b"torn and much longer than what follows")

    put(store, b"two")

    assert store.read() == b"two"
    assert not leftover.exists()


def test_a_lock_that_is_never_let_go_is_told_and_not_waited_for_for_ever(tmp_path: Path) -> None:
    store = FileStore(tmp_path, lock_timeout_s=0.05)
    put(store, b"one")
    with (tmp_path / "keyring.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="locked by another process") as caught:
            put(store, b"two")

    assert caught.value.code == "store_unavailable"
    assert store.read() == b"one"
    assert put(store, b"two") == b"two"


def test_replicas_that_write_at_once_lose_no_update(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from service.keys.file_store import FileStore\n"
        "store = FileStore(Path(sys.argv[1]))\n"
        "for _ in range(25): store.update(lambda current: str(int(current or 0) + 1).encode())"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(4)]  # noqa: S603

    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    assert FileStore(tmp_path).read() == b"100"


def test_a_full_disk_loses_nothing(tiny_disk: Path) -> None:
    store = FileStore(tiny_disk)
    put(store, b"one")

    with pytest.raises(StoreUnavailable, match="No space left"):
        put(store, b"x" * 200_000)

    assert store.read() == b"one"
    assert not (tiny_disk / "keyring.json.new").exists()
    assert put(store, b"two") == b"two"


def test_a_read_only_disk_is_read_and_loses_nothing(tiny_disk: Path) -> None:
    store = FileStore(tiny_disk)
    put(store, b"one")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)  # noqa: S603, S607

    assert store.read() == b"one"
    with pytest.raises(StoreUnavailable, match="Read-only file system"):
        put(store, b"two")
    assert store.read() == b"one"


def test_what_cannot_be_a_folder_or_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="file"):
        put(FileStore(tmp_path / "file"), b"one")

    (tmp_path / "keyring.json").mkdir()
    with pytest.raises(StoreUnavailable, match=r"keyring\.json: Is a directory"):
        FileStore(tmp_path).read()


def test_a_huge_file_is_not_read_into_memory(store: FileStore) -> None:
    put(store, b"one")
    os.truncate(store.place, 2**40)

    with pytest.raises(StoreUnavailable, match="larger than any keyring"):
        store.read()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_somebody_else_is_told(store: FileStore) -> None:
    put(store, b"one")
    Path(store.place).chmod(0)

    with pytest.raises(StoreUnavailable, match="Permission denied"):
        store.read()


# --- what lasts ---


class Disk:
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
def disk() -> Disk:
    return Disk()


@pytest.fixture
def watched(tmp_path: Path, disk: Disk) -> FileStore:
    return FileStore(tmp_path / "some" / "keys", sync=disk.sync)


def test_a_write_syncs_the_new_folders_the_file_and_its_folder(watched: FileStore, disk: Disk, tmp_path: Path) -> None:
    put(watched, b"one")

    assert disk.synced == ["some", tmp_path.name, "keyring.json.new", "keys"]


def test_what_is_read_lasts_also_where_a_change_leaves_it(watched: FileStore, disk: Disk) -> None:
    put(watched, b"one")
    disk.synced.clear()
    watched.read()
    assert disk.synced == ["keyring.json", "keys"]

    disk.synced.clear()
    watched.update(lambda _: None)
    assert disk.synced == ["keyring.json", "keys"]


@pytest.mark.parametrize("place", ["keyring.json", "keys"])
def test_what_the_disk_fails_to_keep_is_not_answered(watched: FileStore, disk: Disk, place: str) -> None:
    put(watched, b"one")
    disk.fails_with = {place: errno.EIO}

    with pytest.raises(StoreUnavailable, match="Input/output error"):
        watched.read()
    with pytest.raises(StoreUnavailable, match="Input/output error"):
        watched.update(lambda _: None)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EINVAL])
def test_a_disk_that_knows_no_sync_is_read_all_the_same(watched: FileStore, disk: Disk, code: int) -> None:
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
    put(FileStore(tmp_path), b"one")

    assert owners(tmp_path) == {"keyring.json": NOBODY, "keyring.lock": NOBODY}


@only_root
def test_what_root_replaces_stays_with_its_owner(tmp_path: Path) -> None:
    put(FileStore(tmp_path), b"one")
    os.chown(tmp_path / "keyring.json", NOBODY, NOBODY)
    put(FileStore(tmp_path), b"two")

    assert owners(tmp_path) == {"keyring.json": NOBODY, "keyring.lock": NOBODY}
    assert (tmp_path / "keyring.json").stat().st_mode & 0o777 == 0o600
