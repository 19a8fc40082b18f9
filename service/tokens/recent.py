"""The memory of successors: for two minutes after each signing, a guest's newest token and the tokens that it came of.

So a change that was made to an older token of two tabs is recognised as one that raced. It is a memory, not a store:
it is bounded, lives in anonymous memory alone (never in Redis, never on a disk), and may lose anything at any time;
then the last write wins. A token that is found here is verified before it is used.

All workers of a host share it: it is made before they are forked. It is a table of guests, whose entries point into a
ring of records; a record is written once and stays until the ring comes round. Whatever a killed worker leaves behind,
a torn record is found out by its checksum, and the lock is one of the kernel's, which ends with its process.
"""

import fcntl
import hashlib
import logging
import math
import mmap
import os
import struct
import tempfile
import time
import weakref
import zlib
from typing import Final

import msgspec

from service.tokens.claims import GuestClaims

logger = logging.getLogger("guest_sessions.recent")

KEPT_S: Final = 120.0
"""After the last signing: by then the slowest request that was sent with an older token has come."""
MAX_GUESTS: Final = 16_384
MAX_BYTES: Final = 32 * 1_048_576
"""Of one host, all workers together: 270 changes a second of records of 1 KB, for `KEPT_S`. More, and the oldest go."""
MAX_KNOWN: Final = 256
"""Tokens known of one guest, the newest included; beyond that the oldest are forgotten."""

_WAYS: Final = 8
_LOCK_WAIT_S: Final = 0.25
_LOCK_POLL_S: Final = 0.000_2
_HEAD: Final = struct.Struct("<Q")
_ENTRY: Final = struct.Struct("<16sQId")
"""A guest, the position and the size of its record, and when that ends."""
_RECORD: Final = struct.Struct("<I16sH")
"""A checksum of what follows, the guest, and the number of digests; then these, then the token."""
_DIGEST_BYTES: Final = 8


class Successor(msgspec.Struct, frozen=True):
    """The newest token of a guest, as it was when it was looked up at `position`.

    `known` holds digests: of the tokens that it came of, and last its own.
    """

    raw_token: str
    position: int
    known: bytes

    def is_newer_than(self, token: GuestClaims) -> bool:
        """Whether this token came of the given one."""
        return self.knows(token) and self.known[-_DIGEST_BYTES:] != _digest(token)

    def knows(self, token: GuestClaims) -> bool:
        """Whether this token is the given one, or came of it."""
        wanted = _digest(token)
        start = self.known.find(wanted)
        while start % _DIGEST_BYTES:  # within two others, or -1
            if start < 0:
                return False
            start = self.known.find(wanted, start + 1)
        return True


class RecentTokens:
    """The memory of successors, shared with every process that is forked after it was made."""

    def __init__(self, *, max_guests: int = MAX_GUESTS, max_bytes: int = MAX_BYTES) -> None:
        self._buckets = max(1, max_guests // _WAYS)
        self._ring_start = _HEAD.size + self._buckets * _WAYS * _ENTRY.size
        self._ring_bytes = max_bytes - self._ring_start
        self._memory = mmap.mmap(-1, max_bytes)
        self._lock_file = _anonymous_file()
        weakref.finalize(self, os.close, self._lock_file)

    def find(self, guest: GuestClaims, *, now_s: float) -> Successor | None:
        """The guest's newest token, if it is remembered."""
        return self._look_up(_guest(guest), now_s)[1]

    def replace(
        self, seen: Successor | None, old: GuestClaims, new: GuestClaims, raw_token: str, *, now_s: float
    ) -> bool:
        """Remember `new` as the guest's newest token, which came of `old`, and of all that `seen` came of if that did.

        Looking and remembering are one step for all workers: False, with nothing changed, where the guest's newest
        token is no longer the one `seen`.
        """
        name = _guest(new)
        known = seen.known if seen is not None and seen.knows(old) else _digest(old)
        known = (known + _digest(new))[-MAX_KNOWN * _DIGEST_BYTES :]
        content = name + struct.pack("<H", len(known) // _DIGEST_BYTES) + known + raw_token.encode()
        record = struct.pack("<I", zlib.crc32(content)) + content
        if len(record) > self._ring_bytes:
            return True
        if not self._acquire():
            return True
        try:
            offset, current = self._look_up(name, now_s)
            if current is not None and (seen is None or current.position != seen.position):
                return False
            (position,) = _HEAD.unpack_from(self._memory, 0)
            if position % self._ring_bytes + len(record) > self._ring_bytes:
                position += self._ring_bytes - position % self._ring_bytes  # a record lies in one piece
            start = self._ring_start + position % self._ring_bytes
            # The head first: a reader of the record that is overwritten now has to find it out of reach.
            _HEAD.pack_into(self._memory, 0, position + len(record))
            self._memory[start : start + len(record)] = record
            _ENTRY.pack_into(self._memory, offset, name, position, len(record), now_s + KEPT_S)
        finally:
            fcntl.lockf(self._lock_file, fcntl.LOCK_UN)
        return True

    def _look_up(self, name: bytes, now_s: float) -> tuple[int, Successor | None]:
        """Where the guest's entry is or goes, and the guest's newest token, if it is remembered.

        A new guest's goes in the place of one that has ended, or else of the oldest.
        """
        start = _HEAD.size + int.from_bytes(name[:8]) % self._buckets * _WAYS * _ENTRY.size
        end = start + _WAYS * _ENTRY.size
        free, free_from_s = start, math.inf
        for offset, (guest, position, size_bytes, ends_at_s) in zip(
            range(start, end, _ENTRY.size), _ENTRY.iter_unpack(self._memory[start:end]), strict=True
        ):
            if guest == name:
                (head,) = _HEAD.unpack_from(self._memory, 0)
                alive = now_s < ends_at_s and 0 <= head - position <= self._ring_bytes
                return offset, self._read(name, position, size_bytes) if alive else None
            if ends_at_s < free_from_s:
                free, free_from_s = offset, ends_at_s
        return free, None

    def _read(self, name: bytes, position: int, size_bytes: int) -> Successor | None:
        start = self._ring_start + position % self._ring_bytes
        record = self._memory[start : start + size_bytes]
        if len(record) < _RECORD.size:
            return None
        checksum, guest, number = _RECORD.unpack_from(record)
        if guest != name or checksum != zlib.crc32(record[4:]):
            return None
        known_end = _RECORD.size + number * _DIGEST_BYTES
        return Successor(record[known_end:].decode(), position, record[_RECORD.size : known_end])

    def _acquire(self) -> bool:
        """Take the lock, which is held for microseconds. False where its holder was stopped: nobody waits for that."""
        deadline_s = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.lockf(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() > deadline_s:
                    logger.warning("the memory of recent tokens is locked; a change that races may be lost")
                    return False
                time.sleep(_LOCK_POLL_S)
            else:
                return True


def _guest(claims: GuestClaims) -> bytes:
    return hashlib.blake2b("\n".join(claims.lineage).encode(), digest_size=16).digest()


def _digest(claims: GuestClaims) -> bytes:
    return hashlib.blake2b(claims.token_id.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()


def _anonymous_file() -> int:
    """A file descriptor to lock. A POSIX lock belongs to its process, so that forked workers exclude each other."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("recent-tokens")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
