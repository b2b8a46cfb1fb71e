"""The page at /, in headless Chromium."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
from http_server import Running, running_server
from paths import RECORDINGS
from tiny_vlms import picture

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.why_not() is not None, reason=browser.why_not() or ""),
]

CALL = RECORDINGS / "call.wav"
CALL_TEXT = "call seven nine zero"
MILLISECONDS = 30_000  # for an answer to appear


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with browser.browser_page(microphone=CALL) as page:
        page.set_default_timeout(MILLISECONDS)
        yield page


@pytest.fixture
def opened(page: Any, server: Running) -> Iterator[Any]:
    """The page; afterwards, it has asked nobody else, and nothing failed."""
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(server.url)
    page.wait_for_selector("#sound:not([hidden])")
    assert page.locator("#key").is_hidden()
    yield page
    own = (server.url, f"blob:{server.url}", "data:")
    assert [url for url in asked if not url.startswith(own)] == []
    assert [line for line in wrong if not line.startswith("Failed to load resource")] == []


def shown(page: Any, section: str, text: str) -> None:
    page.wait_for_function(
        "([id, text]) => document.querySelector(`#${id} output`).innerText.includes(text)",
        arg=[section, text],
    )


def test_a_recording_is_written_down_and_followed(opened: Any) -> None:
    opened.set_input_files("#sound-file", CALL)
    opened.wait_for_selector("#sound .word")
    words = opened.locator("#sound .word")
    assert words.all_inner_texts() == CALL_TEXT.split()
    assert opened.locator("#sound time").first.inner_text().startswith("0:00.0 – 0:0")
    assert opened.inner_text("#sound-note") == "2.0 s, english"  # the model's own times of words
    seen = opened.evaluate("""async () => {
      const seen = new Set(), player = document.querySelector("#player");
      await player.play();
      while (!player.ended) {
        for (const word of document.querySelectorAll(".word.now")) seen.add(word.textContent);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      return [...seen];
    }""")
    assert seen == CALL_TEXT.split()
    words.nth(2).click()
    assert opened.evaluate("document.querySelector('#player').currentTime") > 0.3


def test_a_recording_is_dropped_and_translated(opened: Any) -> None:
    opened.select_option("#task", "translations")
    content = base64.b64encode((RECORDINGS / "wecker.wav").read_bytes()).decode()
    opened.evaluate(
        """(content) => {
          const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "dropped.wav"));
          const zone = document.querySelector("#sound .drop");
          zone.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
        }""",
        content,
    )
    shown(opened, "sound", "wake me up tomorrow at four")


def test_what_the_server_refuses_is_told(opened: Any, tmp_path: Path) -> None:
    file = tmp_path / "broken.wav"
    file.write_text("no sound")
    opened.set_input_files("#sound-file", file)
    alert = opened.locator("#sound [role=alert]", has_text="not readable as audio")
    alert.wait_for()
    opened.set_input_files("#sound-file", CALL)
    shown(opened, "sound", CALL_TEXT)
    assert opened.locator("#sound [role=alert]").inner_text() == ""


def test_the_microphone(opened: Any) -> None:
    button = opened.locator("#record")
    button.click()
    opened.wait_for_selector("#record[aria-pressed=true]")
    opened.wait_for_timeout(2500)
    button.click()
    opened.wait_for_selector("#sound .word")
    assert "seven" in opened.inner_text("#sound output")


def test_a_question_about_a_picture(opened: Any, tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    picture(1).save(file)
    opened.set_input_files("#image-file", file)
    assert opened.locator("#image .preview").is_visible()
    opened.fill("#image textarea", "w7 w8 w9")
    opened.click("#image button")
    shown(opened, "image", " w")  # several words of a model with random weights


def test_text_to_text_by_keyboard(opened: Any) -> None:
    opened.focus("#text textarea")
    opened.keyboard.type("in words: 4711")
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.textContent") == "Translate"
    opened.keyboard.press("Enter")
    shown(opened, "text", "four thousand seven hundred eleven")


def test_the_load_of_both_pools(opened: Any) -> None:
    opened.wait_for_function("document.querySelectorAll('#load tbody tr').length === 3")
    row = opened.locator("#load tbody tr", has_text="hears")
    assert "of 1024 requests" in opened.inner_text("#requests").replace("at most ", "")
    assert row.locator("td").nth(0).inner_text() == "1"
    assert " of " in row.locator("td").last.inner_text()


def test_everything_has_a_name_and_can_be_reached_by_keyboard(opened: Any) -> None:
    controls = "input, select, textarea, button"
    nameless = opened.evaluate(f"""[...document.querySelectorAll("{controls}")]
      .filter((it) => !(it.labels && it.labels.length) && !it.textContent.trim())
      .map((it) => it.outerHTML)""")
    assert nameless == []
    visible = opened.locator("input:visible, select:visible, textarea:visible, button:visible")
    opened.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(60):
        opened.keyboard.press("Tab")
        reached.add(
            opened.evaluate("""document.activeElement.outerHTML.slice(0, 200) +
          document.activeElement.closest("section")?.id""")
        )
    assert len(
        [element for element in reached if element[1:4] in ("inp", "sel", "tex", "but")]
    ) == (visible.count())


def test_a_server_with_keys(page: Any, t5_folder: Path) -> None:
    with running_server({"numbers": str(t5_folder)}, api_keys=("secret",)) as server:
        page.goto(server.url)
        page.wait_for_selector("#key:not([hidden])")
        page.fill("#key input", "secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#text:not([hidden])")
        assert page.locator("#sound").is_hidden()
        assert page.locator("#image").is_hidden()
        page.fill("#text textarea", "in words: 7")
        page.click("#text button")
        shown(page, "text", "seven")


@pytest.mark.parametrize(
    ("refusal", "uploads"),
    [
        ({"status": 429, "param": None, "message": "too many"}, ["stream", "words"]),
        (
            {"status": 400, "param": "timestamp_granularities", "message": "turned off"},
            ["stream", "words", "segments"],
        ),
    ],
)
def test_a_recording_is_sent_again_only_without_words(
    opened: Any, refusal: dict[str, Any], uploads: list[str]
) -> None:
    seen: list[str] = []

    def answer(route: Any) -> None:
        body = route.request.post_data_buffer or b""
        kind = "words" if b"timestamp_granularities" in body else "segments"
        seen.append("stream" if b'name="stream"' in body else kind)
        if seen[-1] == "words":
            error = {name: refusal[name] for name in ("message", "param")}
            route.fulfill(status=refusal["status"], json={"error": error})
        else:
            route.continue_()

    opened.route("**/v1/audio/transcriptions", answer)
    try:
        opened.set_input_files("#sound-file", CALL)
        opened.wait_for_function(
            "() => document.querySelector('#sound [role=alert]').innerText"
            " || document.querySelector('#sound .word')"
        )
    finally:
        opened.unroute("**/v1/audio/transcriptions")
    assert seen == uploads
    alert = opened.inner_text("#sound [role=alert]")
    assert alert == ("too many" if refusal["status"] == 429 else "")
    assert ("estimated" in opened.inner_text("#sound-note")) == (refusal["status"] == 400)
