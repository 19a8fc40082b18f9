"""The signing keys: the ring as a value, its form at rest, its places, and what moves it on."""

from collections.abc import Callable

Clock = Callable[[], float]
"""Unix time in seconds, or any steady count of seconds."""

RandomBytes = Callable[[int], bytes]
"""As many bytes as asked for, of cryptographic strength."""
