"""Guest sessions for Python web applications: the client of the guest-sessions service.

Each framework has a module with one class, `GuestSessions`: `guest_sessions.asgi` (FastAPI, Starlette, Litestar),
`guest_sessions.django`, `guest_sessions.aiohttp`. The request's guest is an `AsyncGuest`, in Django a `Guest`.
"""

from guest_sessions._errors import GuestError
from guest_sessions._guest import AsyncGuest, Guest
from guest_sessions._visit import HandOver

__all__ = ["AsyncGuest", "Guest", "GuestError", "HandOver"]
