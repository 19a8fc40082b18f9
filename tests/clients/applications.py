"""The applications that the suite runs: one for each framework, as installed on this machine."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

APPS = Path(__file__).parent / "apps"


@dataclass(frozen=True)
class Application:
    """How a framework's application is started, and why it cannot be on this machine."""

    command: tuple[str, ...]
    missing: Callable[[], str | None] = lambda: None


def _python(script: str) -> Application:
    return Application((sys.executable, str(APPS / "python" / script)))


def _node(script: str) -> Application:
    def missing() -> str | None:
        if not shutil.which("node"):
            return "node is not installed"
        if not (APPS / "javascript/node_modules/guest-sessions").exists():
            return "the tarball of clients/javascript is not installed in tests/clients/apps/javascript"
        return None

    return Application(("node", str(APPS / "javascript" / script)), missing)


def _go(*router: str) -> Application:
    path = APPS / "go" / "net-http"
    return Application((str(path), *router), lambda: None if path.exists() else "tests/clients/apps/go is not built")


APPLICATIONS = {
    "asgi": _python("app_asgi.py"),
    "litestar": _python("app_litestar.py"),
    "aiohttp": _python("app_aiohttp.py"),
    "django-wsgi": _python("app_django_wsgi.py"),
    "django-asgi": _python("app_django_asgi.py"),
    "web": _node("web.mjs"),
    "express": _node("express.mjs"),
    "fastify": _node("fastify.mjs"),
    "net-http": _go(),
    "chi": _go("chi"),
    "echo": _go("echo"),
    "gin": _go("gin"),
}
CORES = ("asgi", "django-wsgi", "web", "net-http")
"""One for each implementation: the Python client's awaiting and its blocking one, JavaScript's and Go's."""
ROUTERS = ("chi", "echo", "gin")
"""These differ from net/http in how a handler is called and answers, and so run the tests of that alone."""
OF_ROUTERS = ("test_guests.py", "test_hand_over.py")
