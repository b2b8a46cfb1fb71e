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
from pathlib import Path

print("importing torch and Ray ...", flush=True)

from antiphon import AntiphonError, Engine  # noqa: E402
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
        # A piece of 3 s holds one command; this small model errs more with several in a window.
        results = engine.transcribe_all(files, chunk_seconds=3.0)
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


def write_numbers() -> None:
    numbers = [7, 42, 300, 1_984, 20_026, 365_250, 999_999]
    print("\nT5: the same for a text model, numbers into words ...", flush=True)
    began = time.perf_counter()
    with Engine(str(HERE / "t5_numbers" / "model")) as engine:
        ready = time.perf_counter()
        outputs = engine.generate([f"in words: {number}" for number in numbers], use_tqdm=False)
        done = time.perf_counter()
    print()
    for number, output in zip(numbers, outputs, strict=True):
        print(f"{number:>28}  {output.outputs[0].text}")
    print(
        f"\nT5: {len(numbers)} numbers in {done - ready:.2f} s "
        f"(engine ready after {ready - began:.1f} s)"
    )


def answer_questions() -> None:
    """In this process alone: so small a model needs no workers."""
    print("\nQwen2.5-VL: a picture and questions about it, without Ray ...", flush=True)
    asked = held_out(PICTURE + 1)[PICTURE]
    questions = ["How many shapes are there?", asked.question, "What is in the picture?"]
    began = time.perf_counter()
    with Engine(str(HERE / "qwen_shapes" / "model"), ray=False) as engine:
        ready = time.perf_counter()
        outputs = engine.chat([asked.chat(text) for text in questions], use_tqdm=False)
        done = time.perf_counter()
    print(f"\n{as_text(asked.picture)}\n" if sys.stdout.isatty() else "")
    for question, output in zip(questions, outputs, strict=True):
        print(f"{question:>28}  {output.outputs[0].text}")
    print(
        f"\nQwen2.5-VL: {len(questions)} answers in {done - ready:.2f} s "
        f"(engine ready after {ready - began:.1f} s)"
    )


def read_numbers() -> None:
    rng = random.Random(2026)
    drawings = [draw_number(rng) for _ in range(8)]
    prompts = [{"multi_modal_data": {"image": drawn.picture}} for drawn in drawings]
    print("\nTrOCR: numbers in pictures, without Ray ...", flush=True)
    began = time.perf_counter()
    with Engine(str(HERE / "trocr_digits" / "model"), ray=False) as engine:
        ready = time.perf_counter()
        outputs = engine.generate(prompts, use_tqdm=False)
        done = time.perf_counter()
    print(f"\n{as_text(drawings[-1].picture)}\n" if sys.stdout.isatty() else "")
    for drawn, output in zip(drawings, outputs, strict=True):
        print(f"{'drawn ' + drawn.number:>28}  {output.outputs[0].text}")
    print(
        f"\nTrOCR: {len(drawings)} pictures in {done - ready:.2f} s "
        f"(engine ready after {ready - began:.1f} s)"
    )


if __name__ == "__main__":
    logging.basicConfig(format="  %(message)s")
    logging.getLogger("antiphon").setLevel(logging.INFO)
    transcribe_recordings()
    write_numbers()
    answer_questions()
    read_numbers()
