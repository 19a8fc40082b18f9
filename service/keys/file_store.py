"""The truth: the ring in one file, replaced whole and durable before anybody signs with it.

A transaction holds an exclusive `flock`, writes a new file beside the old one, syncs it, renames it over the old one
and syncs the folder; whatever fails on the way, the old file stays as it was. A process killed at any point leaves the
old content or the new, never a mix, and the kernel releases its lock. Content that is read is synced as well, as the
process that wrote it may not have done so. Run as root, it leaves all files to the user whose service runs there.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from service.errors import KeyringDamaged, StoreUnavailable, WrongSecret
from service.keys import encoding
from service.keys.encryption import Sealer, is_sealed
from service.keys.generator import prove
from service.keys.keyring import KeyRing

FILE_NAME: Final = "keyring.json"
LOCK_NAME: Final = "keyring.lock"
NEW_NAME: Final = "keyring.json.new"
"""Always the same name: it is written under the lock alone, so that a killed writer's leftover is written over."""
NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
LOCK_TIMEOUT_S: Final = 5.0
"""A holder needs milliseconds; one that is stopped for longer must not stop everybody else for good."""
DISK_TIMEOUT_S: Final = 10.0
"""For one look or one transaction, the lock included; a disk that takes longer counts as unavailable."""
MAX_BYTES: Final = 16 * 2**20
"""Far above the largest ring; a larger file is no keyring, and is not read into memory."""
CANNOT_SYNC: Final = frozenset({errno.EROFS, errno.EINVAL, errno.ENOTSUP, errno.EACCES})
"""A read-only disk needs no sync, some network file systems cannot sync a folder; one that failed (EIO) is neither."""

Sync = Callable[[int], None]
SealedWith = Literal["first", "other", "none"]
"""Which of the secrets: the first of GUEST_KEYS_SECRET, another one of them, or none, in the clear."""
T = TypeVar("T")


class Disk:
    """Runs one call after the other in a thread of its own, with a deadline; ending a process never waits for it.

    A thread that hangs in the kernel cannot be ended. While one does, every further call fails at once.
    """

    def __init__(self, *, timeout_s: float = DISK_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._last: Future[Any] | None = None

    async def run(self, call: Callable[[], T]) -> T:
        """The result of the call, or what it raises; raises `StoreUnavailable` past the deadline."""
        if self._last is not None and not self._last.done():
            raise StoreUnavailable("The disk of the keyring does not respond.")
        self._last = result = Future[T]()
        result.set_running_or_notify_cancel()  # past the deadline, the thread may still set its result

        def work() -> None:
            try:
                result.set_result(call())
            except BaseException as error:  # noqa: BLE001 - all of them belong to the caller
                result.set_exception(error)

        threading.Thread(target=work, name="keyring-disk", daemon=True).start()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.wrap_future(result)
        except TimeoutError:
            raise StoreUnavailable("The disk of the keyring does not respond.") from None


class Transaction:
    """The ring in the file, under the lock. What is assigned to `ring` is durable after the `with` block."""

    def __init__(self, ring: KeyRing | None) -> None:
        self.ring = ring


class FileStore:
    """The ring in one folder, sealed where there is a secret. Blocking; any fault of the disk is `StoreUnavailable`."""

    def __init__(self, directory: Path, sealer: Sealer | None = None, *, sync: Sync = os.fsync) -> None:
        """`sync` flushes a file descriptor to the disk."""
        self._file = DurableFile(directory, sync=sync)
        self._sealer = sealer
        self.place = self._file.place
        self.sealed_with: SealedWith | None = None
        """As the file was when it was last looked at; None before, and where there is none."""
        self._was_current = False
        self._last: tuple[tuple[int, ...], KeyRing] | None = None

    @property
    def needs_sealing(self) -> bool:
        """Whether the file is in the clear, or under a secret that is not the first and never was since the start.

        Two processes whose first secrets differ, as during a change of secret, must not seal against each other.
        """
        if self._sealer is None:
            return False
        return self.sealed_with == "none" or (self.sealed_with == "other" and not self._was_current)

    def read(self) -> KeyRing | None:
        """The ring, None where there is no file. One that has not changed since the last time is not read again.

        Raises:
            StoreUnavailable, KeyringDamaged, KeyringNewer, WrongSecret
        """
        stamp = self._file.stamp()
        if stamp is not None and self._last is not None and self._last[0] == stamp:
            return self._last[1]
        ring = self._opened(self._file.read())
        self._last = None if stamp is None or ring is None else (stamp, ring)
        return ring

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """The ring under the lock; writes at the end of the block, unless an exception leaves it.

        A file that is not sealed with the first secret is sealed on this occasion. A key that becomes active is proven
        before anything is written. Raises as `read`, and `KeyringError` where the key does not sign.
        """
        self._last = None  # another process may write right after this one
        with self._file.locked() as (content, replace):
            before = self._opened(content)
            transaction = Transaction(before)
            yield transaction
            after = transaction.ring
            if after is None or (after == before and not self.needs_sealing):
                return
            if before is None or before.active != after.active:
                prove(after)
            plain = encoding.to_jwk_set(after)
            replace(plain if self._sealer is None else self._sealer.seal(plain))
            self.sealed_with = "none" if self._sealer is None else "first"
            self._was_current |= self.sealed_with == "first"

    def _opened(self, content: bytes | None) -> KeyRing | None:
        if content is None:
            self.sealed_with = None
            return None
        ring, self.sealed_with = open_ring(content, self._sealer)
        self._was_current |= self.sealed_with == "first"
        return ring


def open_ring(content: bytes, sealer: Sealer | None) -> tuple[KeyRing, SealedWith]:
    """The ring in a file's content, sealed or plain, and under which secret it was.

    Raises:
        KeyringDamaged, KeyringNewer, WrongSecret
    """
    if content.lstrip().startswith(b"{"):
        return encoding.from_jwk_set(content), "none"
    if sealer is None:
        if is_sealed(content):
            raise WrongSecret("The keyring is sealed, and no secret was given to open it.")
        raise KeyringDamaged("This is no keyring, or a damaged one.")
    sealed = content.strip()
    return encoding.from_jwk_set(sealer.open(sealed)), "first" if sealer.is_current(sealed) else "other"


class DurableFile:
    """Bytes in one file, for its owner alone (0600)."""

    def __init__(self, directory: Path, *, lock_timeout_s: float = LOCK_TIMEOUT_S, sync: Sync = os.fsync) -> None:
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
            return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_dev

    def read(self) -> bytes | None:
        """The bytes, synced with their folder, or None where there is no file.

        Another process may have renamed the file a moment ago and not yet have synced the folder, or a person may have
        copied a backup there; and a key that signs must last.
        """
        with _disk(self._path):
            try:
                with self._path.open("rb") as file:
                    content = file.read(MAX_BYTES + 1)
                    self._sync_if_possible(file.fileno())
            except FileNotFoundError:
                return None
            if len(content) > MAX_BYTES:
                raise StoreUnavailable(f"{self._path} is larger than any keyring.")
            self._sync_folder(self._directory)
            return content

    @contextlib.contextmanager
    def locked(self) -> Iterator[tuple[bytes | None, Callable[[bytes], None]]]:
        """The bytes, under the lock of the folder, and what replaces them; on return from that they are durable.

        The folder is made where there is none, and each new one lasts as well.
        """
        with _disk(self._path):
            missing = [folder for folder in (self._directory, *self._directory.parents) if not folder.exists()]
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in missing:
                self._sync_folder(folder.parent)
            # The file itself cannot be locked, as it is replaced.
            lock = os.open(self._directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                self._leave_to_owner(lock)
                self._wait_for(lock)
                yield self.read(), self._replace
            finally:
                os.close(lock)

    def _replace(self, content: bytes) -> None:
        new = self._directory / NEW_NAME
        try:
            with os.fdopen(os.open(new, NEW_FILE, 0o600), "wb") as file:
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
        """Gives a file that root makes to the user whose service runs here, as far as the folder shows that.

        A service of another user could not read it and would go on with the keys it has: it would not follow what an
        operator does as root, a revocation least of all.
        """
        if os.geteuid() != 0:
            return
        for place in (FILE_NAME, LOCK_NAME, ""):
            with contextlib.suppress(FileNotFoundError):
                status = (self._directory / place).stat()
                if status.st_uid != 0 or not place:
                    os.fchown(descriptor, status.st_uid, status.st_gid)
                    return

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


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror or error}.") from error
