"""The API in a browser: Swagger UI with the service's own description, complete, nothing fetched from elsewhere.

Owns the page, its assets and its Content-Security-Policy; knows nothing of routes. Swagger UI's files come from the
`flask-swagger-ui` distribution, which carries the upstream release byte for byte. They are read, not imported: Flask,
which that distribution asks for, never runs. Invariant: whatever the page loads is in `assets`.
"""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; "  # the arrows in Swagger UI's style sheet are data: pictures
    "connect-src 'self'; "  # the description, and what is tried out
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""For the page. No inline script, no inline style, no other host."""

_HTML: Final = b"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>guest-sessions: the API</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="stylesheet" href="docs/page.css">
</head>
<body>
<main id="api"></main>
<noscript>This page needs JavaScript; <a href="openapi.yaml">openapi.yaml</a> says the same.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/page.js"></script>
</body>
</html>
"""

_SWAGGER_UI: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}


def page(*, below: bool) -> bytes:
    """The page as it is served at `/docs` or, where `below`, at `/docs/`. Relative links work below a path prefix."""
    return _HTML.replace(b'"docs/', b'"').replace(b'"openapi', b'"../openapi') if below else _HTML


@cache
def assets() -> Mapping[str, tuple[bytes, str]]:
    """What lies below `/docs/`: name → body and media type. Read when first asked for: it is 2 MB that few need."""
    folder = Path(str(distribution("flask-swagger-ui").locate_file("flask_swagger_ui/dist")))
    own = resources.files("service.http")
    return {
        **{name: ((folder / name).read_bytes(), media_type) for name, media_type in _SWAGGER_UI.items()},
        "page.js": ((own / "swagger_ui.js").read_bytes(), "text/javascript"),
        "page.css": ((own / "swagger_ui.css").read_bytes(), "text/css"),
    }
