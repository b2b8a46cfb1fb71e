"""Takes docs/page-*.png: the page at / with the shipped models, in headless Chromium.

    PYTHONPATH=tests/fakes python docs/take_screenshots.py

Needs Chromium, and playwright (pip install '.[test,browser]').
"""

from pathlib import Path

from browser import browser_page
from http_server import running_server
from paths import RECORDINGS, T5, WHISPER

DOCS = Path(__file__).parent
SIZE = {"width": 900, "height": 760}


def main() -> None:
    models = {"whisper": str(WHISPER), "numbers": str(T5)}
    with running_server(models) as server:
        for theme in ("light", "dark"):
            with browser_page(viewport=SIZE, color_scheme=theme) as page:
                page.goto(server.url)
                page.set_input_files("#sound-file", RECORDINGS / "long.opus")
                page.wait_for_selector("#sound .word")
                page.evaluate("""() => { const player = document.querySelector("#player");
                    player.currentTime = 4.6; }""")
                page.wait_for_selector(".word.now")
                page.fill("#text textarea", "in words: 4711")
                page.click("#text button")
                page.locator("#text output", has_text="eleven").wait_for()
                page.wait_for_selector("#load tbody tr")
                page.screenshot(path=DOCS / f"page-{theme}.png", full_page=True)


if __name__ == "__main__":
    main()
