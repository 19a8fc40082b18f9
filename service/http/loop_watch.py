"""Notices when the event loop stands still: every request of the process waits meanwhile.

Knows nothing of what held it up. The figures go into the metrics, a long stall also into the log.
"""

import asyncio
import logging
from typing import Final

from service.keys import Clock

logger = logging.getLogger("guest_sessions.loop")

EVERY_S: Final = 0.25
"""How often the loop is asked to come round: often enough to meet most stalls that a person would feel."""
TOLD_FROM_S: Final = 1.0
"""From which length a stall is worth a line in the log."""


class LoopWatch:
    """How late the loop comes round, by a clock that never goes back."""

    def __init__(self, *, steady_clock: Clock, every_s: float = EVERY_S) -> None:
        self._clock = steady_clock
        self._every_s = every_s
        self.lag_s = 0.0
        self.longest_s = 0.0

    async def run(self) -> None:
        """Watches until cancelled."""
        while True:
            asked_s = self._clock()
            await asyncio.sleep(self._every_s)
            self._came_round(self._clock() - asked_s - self._every_s)

    def _came_round(self, late_s: float) -> None:
        self.lag_s = max(0.0, late_s)
        self.longest_s = max(self.longest_s, self.lag_s)
        if self.lag_s >= TOLD_FROM_S:
            logger.warning("the event loop was blocked", extra={"seconds": round(self.lag_s, 3)})
