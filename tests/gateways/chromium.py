"""The system's Chromium, headless, driven by Playwright. Every host below .test is here, with any certificate."""

import contextlib
import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--host-resolver-rules=MAP *.test 127.0.0.1", "--ignore-certificate-errors",
]  # fmt: skip


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """One browser with a fresh profile; skips the test where there is none."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium is installed here")
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium's sandbox does not start for root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=[*FLAGS, *sandbox])
        yield browser
        browser.close()
