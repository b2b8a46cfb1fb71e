"""Headless Chromium, where one is installed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")


def why_not() -> str | None:
    """Why no browser can be started here."""
    if not any(shutil.which(name) for name in NAMES):
        return "no Chromium is installed (apt-get install chromium)"
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed (pip install '.[browser]')"
    return None


@contextmanager
def browser_page(microphone: Path | None = None, **options: Any) -> Iterator[Any]:
    """A page of playwright's. `microphone`: a WAV file that it hears. `options`: of the page."""
    from playwright.sync_api import sync_playwright

    arguments = [
        "--no-sandbox",  # root may not have one
        "--autoplay-policy=no-user-gesture-required",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
    ]
    if microphone is not None:
        arguments.append(f"--use-file-for-fake-audio-capture={microphone}")
    path = next(path for name in NAMES if (path := shutil.which(name)))
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=path, args=arguments) as browser,
    ):
        yield browser.new_page(**options)
