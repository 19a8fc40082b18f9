"""The client of both Django applications."""

from common import SETTINGS
from guest_sessions.django import GuestSessions

sessions = GuestSessions(**SETTINGS)
middleware = sessions.middleware
