"""The truth: the ring's bytes in one file, replaced whole and durable before anybody signs with them.

Knows nothing of what a ring means. An update holds an exclusive `flock`, writes a new file beside the old one, syncs
it, renames it over the old one and syncs the folder; whatever fails on the way, the old file stays as it was. A
process killed at any point leaves the old content or the new, never a mix, and the kernel lets go of its lock. What is
read is synced as well, as whoever wrote it may not have. Run as root, it leaves all files to their folder's owner.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from service.errors import StoreUnavailable

FILE_NAME: Final = "keyring.json"
LOCK_NAME: Final = "keyring.lock"
NEW_NAME: Final = "keyring.json.new"
"""Always the same name: it is written under the lock alone, so that a killed writer's leftover is written over."""
LOCK_TIMEOUT_S: Final = 10.0
"""A holder needs milliseconds; one that is stopped for longer must not stop everybody else for good."""
MOST_BYTES: Final = 16 * 2**20
"""Far above the largest ring; what is larger is none, and is not read into memory."""
CANNOT_SYNC: Final = frozenset({errno.EROFS, errno.EINVAL, errno.ENOTSUP, errno.EACCES})
"""A read-only disk needs no sync, some network file systems know none of a folder; one that failed (EIO) is neither."""

Sync = Callable[[int], None]


class FileStore:
    """The file in one folder. Blocking; every fault of the disk is `StoreUnavailable`."""

    def __init__(self, directory: Path, *, lock_timeout_s: float = LOCK_TIMEOUT_S, sync: Sync = os.fsync) -> None:
        """`sync` makes what a file descriptor stands for last."""
        self._directory = directory
        self._sync = sync
        self._path = directory / FILE_NAME
        self._lock_timeout_s = lock_timeout_s

    @property
    def place(self) -> str:
        """Where the bytes are, for people."""
        return str(self._path)

    def stamp(self) -> tuple[int, ...] | None:
        """Changes whenever the file does; None where there is none. Cheap."""
        with _disk(self._path):
            try:
                status = self._path.stat()
            except FileNotFoundError:
                return None
            return status.st_ino, status.st_mtime_ns, status.st_size, status.st_dev

    def read(self) -> bytes | None:
        """The bytes, durable by now, or None where there is no file."""
        with _disk(self._path):
            return self._durable_content()

    def update(self, change: Callable[[bytes | None], bytes | None]) -> bytes | None:
        """Decides and writes under the lock; see `KeyStore`."""
        with _disk(self._path):
            self._make_folder()
            with self._locked():
                current = self._durable_content()
                wanted = change(current)
                if wanted is None or wanted == current:
                    return current
                self._replace(wanted)
                return wanted

    def _durable_content(self) -> bytes | None:
        """The bytes, synced with their folder.

        Another process may have renamed the file a moment ago and not yet have synced the folder, or a person may have
        copied a backup there; and what is signed with must last.
        """
        try:
            with self._path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
                self._sync_if_possible(file.fileno())
        except FileNotFoundError:
            return None
        if len(content) > MOST_BYTES:
            raise StoreUnavailable(f"{self._path} is larger than any keyring.")
        self._sync_folder(self._directory)
        return content

    def _replace(self, content: bytes) -> None:
        new = self._directory / NEW_NAME
        try:
            with open(new, "wb", opener=_private) as file:
                os.fchmod(file.fileno(), 0o600)
                self._leave_to_owner(file.fileno())
                file.write(content)
                file.flush()
                self._sync(file.fileno())
            new.rename(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            raise
        self._sync_folder(self._directory)

    def _make_folder(self) -> None:
        """Makes the folder where there is none, and makes each new one last."""
        missing = [folder for folder in (self._directory, *self._directory.parents) if not folder.exists()]
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in missing:
            self._sync_folder(folder.parent)

    def _sync_folder(self, directory: Path) -> None:
        """Makes a rename in the folder last."""
        try:
            folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:
            return  # one that may be passed through but not be read cannot be synced either
        try:
            self._sync_if_possible(folder)
        finally:
            os.close(folder)

    def _sync_if_possible(self, descriptor: int) -> None:
        try:
            self._sync(descriptor)
        except OSError as error:
            if error.errno not in CANNOT_SYNC:
                raise

    def _leave_to_owner(self, descriptor: int) -> None:
        """Gives a file that root makes to the owner of the one before, or of the folder.

        A service of another user could not read it and would go on with the keys it has: it would not follow what an
        operator does as root, a revocation least of all.
        """
        if os.geteuid() != 0:
            return
        try:
            owner = self._path.stat()
        except FileNotFoundError:
            owner = self._directory.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the lock of the folder; the file itself cannot be locked, as it is replaced."""
        lock = os.open(self._directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            self._leave_to_owner(lock)
            self._wait_for(lock)
            yield
        finally:
            os.close(lock)

    def _wait_for(self, lock: int) -> None:
        """Takes the lock, or gives up: `flock` itself would wait for ever."""
        give_up_at_s = time.monotonic() + self._lock_timeout_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= give_up_at_s:
                    raise StoreUnavailable(f"{self._path} is locked by another process.") from None
                time.sleep(0.01)
            else:
                return


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror or error}.") from error
