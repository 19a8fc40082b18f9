"""The rings that the workers of one host hold, in memory that they share: a new worker starts from what they know.

Each worker writes one row, and a row that was half written when its worker was killed is recognized. So nothing needs a
lock. The memory belongs to the process that forks the workers: a row outlives the worker that wrote it.
"""

import hashlib
import mmap
import struct
from collections.abc import Iterator
from typing import Final

ROW_BYTES: Final = 2 * 2**20
"""For one ring: several times the largest with RSA keys. The kernel provides only what is written to."""
_HEADER: Final = struct.Struct("=Q32s")
"""The length of a ring and its SHA-256 digest."""


class SharedRings:
    """Rings in their form at rest, in the clear, one for each row."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._memory = mmap.mmap(-1, rows * ROW_BYTES)

    def write(self, row: int, content: bytes) -> None:
        """Replaces the ring of one row. A ring that is too long is not kept: new workers look for it at its source."""
        start = row * ROW_BYTES
        if len(content) > ROW_BYTES - _HEADER.size:
            return
        first = start + _HEADER.size
        self._memory[first : first + len(content)] = content
        self._memory[start:first] = _HEADER.pack(len(content), hashlib.sha256(content).digest())

    def __iter__(self) -> Iterator[bytes]:
        """The ring of each row that has one."""
        for start in range(0, self._rows * ROW_BYTES, ROW_BYTES):
            first = start + _HEADER.size
            length, digest = _HEADER.unpack(self._memory[start:first])
            content = self._memory[first : first + min(length, ROW_BYTES)]
            if length and hashlib.sha256(content).digest() == digest:
                yield content
