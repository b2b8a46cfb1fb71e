"""`make demo`: shipped recordings through the shipped Whisper, numbers through the shipped T5,
drawn pictures through the shipped Qwen2.5-VL and the shipped TrOCR.

Starts Ray on this machine, or joins a running cluster, and prints each result above the expected
text.
"""

import json
import logging
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

print("importing torch and Ray ...", flush=True)

from PIL.Image import Image  # noqa: E402

from antiphon import AntiphonError, Engine, RequestOutput  # noqa: E402
from antiphon.examples.pictures.digits import draw_number  # noqa: E402
from antiphon.examples.pictures.terminal import as_text  # noqa: E402
from antiphon.examples.qwen_shapes.evaluate import held_out  # noqa: E402

HERE = Path(__file__).parent
PICTURE = 1  # number of the held-out one that is shown


def transcribe_recordings() -> None:
    folder = HERE / "whisper_commands" / "recordings"
    expected: dict[str, str] = json.loads((folder / "expected.json").read_text())
    files = [folder / name for name in expected]
    print("\nWhisper: starting Ray, then a worker for each half of the model ...", flush=True)
    began = time.perf_counter()
    with Engine(str(HERE / "whisper_commands" / "model")) as engine:
        ready = time.perf_counter()
        results = engine.transcribe_all(files)
        done = time.perf_counter()
    heard, seconds = [], 0.0
    for file, said, result in zip(files, expected.values(), results, strict=True):
        if isinstance(result, AntiphonError):
            raise result
        heard.append(result.text)
        seconds += result.duration
        print(f"{file.name:28} {result.duration:5.1f} s  {result.language}  {result.text}")
        print(f"{'expected':28} {'':12}  {said}")
    right = sum(text == said for text, said in zip(heard, expected.values(), strict=True))
    print(
        f"\nWhisper: {right} of {len(files)} recordings right to the word, "
        f"{seconds:.1f} s of sound in {done - ready:.2f} s "
        f"(engine ready after {ready - began:.1f} s)"
    )


def show(
    name: str,
    what: str,
    folder: str,
    ask: Callable[[Engine], list[RequestOutput]],
    labels: Sequence[str],
    picture: Image | None = None,
    **options: Any,
) -> None:
    """Runs `ask` on a shipped model and prints what it answers to each of `labels`, with the
    `picture` above where the terminal can show it. `what`: each answer is to one of these."""
    began = time.perf_counter()
    with Engine(str(HERE / folder / "model"), **options) as engine:
        ready = time.perf_counter()
        outputs = ask(engine)
        done = time.perf_counter()
    print(f"\n{as_text(picture)}\n" if picture is not None and sys.stdout.isatty() else "")
    for label, output in zip(labels, outputs, strict=True):
        print(f"{label:>28}  {output.outputs[0].text}")
    print(
        f"\n{name}: {len(labels)} {what} in {done - ready:.2f} s "
        f"(engine ready after {ready - began:.1f} s)"
    )


def write_numbers() -> None:
    print("\nT5: the same for a text model, numbers into words ...", flush=True)
    numbers = [str(number) for number in (7, 42, 300, 1_984, 20_026, 365_250, 999_999)]
    prompts = [f"in words: {number}" for number in numbers]

    def ask(engine: Engine) -> list[RequestOutput]:
        return engine.generate(prompts, use_tqdm=False)

    show("T5", "numbers", "t5_numbers", ask, numbers)


def answer_questions() -> None:
    """In this process alone: so small a model needs no workers."""
    print("\nQwen2.5-VL: a picture and questions about it, without Ray ...", flush=True)
    asked = held_out(PICTURE + 1)[PICTURE]
    questions = ["How many shapes are there?", asked.question, "What is in the picture?"]
    chats = [asked.chat(text) for text in questions]

    def ask(engine: Engine) -> list[RequestOutput]:
        return engine.chat(chats, use_tqdm=False)

    show("Qwen2.5-VL", "answers", "qwen_shapes", ask, questions, asked.picture, ray=False)


def read_numbers() -> None:
    print("\nTrOCR: numbers in pictures, without Ray ...", flush=True)
    rng = random.Random(2026)
    drawings = [draw_number(rng) for _ in range(8)]
    prompts = [{"multi_modal_data": {"image": drawn.picture}} for drawn in drawings]
    labels = [f"drawn {drawn.number}" for drawn in drawings]

    def ask(engine: Engine) -> list[RequestOutput]:
        return engine.generate(prompts, use_tqdm=False)

    show("TrOCR", "pictures", "trocr_digits", ask, labels, drawings[-1].picture, ray=False)


if __name__ == "__main__":
    logging.basicConfig(format="  %(message)s")
    logging.getLogger("antiphon").setLevel(logging.INFO)
    transcribe_recordings()
    write_numbers()
    answer_questions()
    read_numbers()
