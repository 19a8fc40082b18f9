"""`python -m service` and `guest-sessions`: the command line.

A container's check runs for as long as the container does. So the standard library alone asks a healthy service,
in an eighth of the time that the command line takes to be imported; all else is left to the command line.
"""

import os
import sys
from contextlib import suppress
from http.client import HTTPConnection, HTTPException


def main() -> None:
    """Runs the command that the arguments name."""
    if sys.argv[1:] == ["healthcheck"]:
        host = os.environ.get("GUEST_HOST", "").partition(",")[0].strip() or "127.0.0.1"
        with suppress(OSError, ValueError, HTTPException):
            connection = HTTPConnection(host, int(os.environ.get("GUEST_PORT") or "8080"), timeout=1)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:  # noqa: PLR2004 - RFC 9110, section 15.3.1
                return
    # Imported here, so that a healthy service does not need it.
    from service.cli.main import main as command_line  # noqa: PLC0415

    command_line()


if __name__ == "__main__":
    main()
