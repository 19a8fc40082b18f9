import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import urljoin

import pytest

from service.http import swagger_ui


class Page(HTMLParser):
    def __init__(self, *, below: bool = False) -> None:
        super().__init__()
        self.links: list[str] = []
        self.inline: list[str] = []
        self.script_is_open = False
        self.feed(swagger_ui.page(below=below).decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in {"href", "src"}]
        self.inline += [f"{tag} {name}" for name, _ in attrs if name == "style" or name.startswith("on")]
        self.inline += [tag] if tag == "style" else []
        self.script_is_open = tag == "script"

    def handle_data(self, data: str) -> None:
        self.inline += [data] if self.script_is_open and data.strip() else []


def test_all_that_the_page_loads_is_the_description_or_an_asset() -> None:
    wanted = {urljoin("https://host/prefix/docs", link) for link in Page().links}

    assert wanted == {"https://host/prefix/openapi.yaml"} | {
        f"https://host/prefix/docs/{name}" for name in swagger_ui.assets()
    }


def test_the_page_loads_the_same_behind_a_slash() -> None:
    plain = [urljoin("https://host/prefix/docs", link) for link in Page().links]
    behind_a_slash = [urljoin("https://host/prefix/docs/", link) for link in Page(below=True).links]

    assert behind_a_slash == plain


def test_nothing_stands_inline_that_the_policy_would_refuse() -> None:
    assert Page().inline == []


def test_the_policy_allows_this_host_alone() -> None:
    directives = dict(each.split(" ", 1) for each in swagger_ui.CSP.split("; "))

    assert directives == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


@pytest.mark.parametrize(
    ("name", "media_type", "start"),
    [
        ("swagger-ui-bundle.js", "text/javascript", rb"/\*! For license information"),
        ("swagger-ui.css", "text/css", rb"\.swagger-ui"),
        ("favicon-32x32.png", "image/png", rb"\x89PNG"),
        ("page.js", "text/javascript", rb'"use strict"'),
        ("page.css", "text/css", rb"body"),
    ],
)
def test_each_asset_is_what_its_type_says(name: str, media_type: str, start: bytes) -> None:
    body, found_type = swagger_ui.assets()[name]

    assert found_type == media_type
    assert re.match(start, body)


def test_the_framework_of_the_carrying_package_is_never_imported() -> None:
    probe = "import sys, service.http.swagger_ui; print({'flask', 'werkzeug', 'flask_swagger_ui'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)  # noqa: S603  # our own words

    assert done.stdout == "set()\n"
