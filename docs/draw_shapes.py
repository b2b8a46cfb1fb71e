"""Draw docs/shapes.png: held-out pictures of the shipped vision-language model, with questions.

    python docs/draw_shapes.py

Below each picture stand its question and the right answer; examples/qwen_shapes/evaluate.py says
how often the model gives it.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from antiphon.examples.qwen_shapes.evaluate import Asked, held_out

SHEET = Path(__file__).with_name("shapes.png")
NUMBERS = (1, 3, 12, 13)  # of held-out pictures, of different kinds of questions
WIDTH, HEIGHT, CAPTION, GAP = 250, 200, 44, 10  # pixels


def sheet() -> Image.Image:
    asked = held_out(max(NUMBERS) + 1)
    image = Image.new(
        "RGB", (len(NUMBERS) * (WIDTH + GAP) + GAP, HEIGHT + CAPTION + 2 * GAP), "white"
    )
    for place, number in enumerate(NUMBERS):
        _paste(image, asked[number], GAP + place * (WIDTH + GAP))
    return image


def _paste(sheet: Image.Image, asked: Asked, left: int) -> None:
    picture = asked.picture.copy()
    picture.thumbnail((WIDTH, HEIGHT))
    sheet.paste(
        picture, (left + (WIDTH - picture.width) // 2, GAP + (HEIGHT - picture.height) // 2)
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for line, text in enumerate((asked.question, asked.answer)):
        shown = text if len(text) < 36 else f"{text[:34]} ..."
        pen.text((left, HEIGHT + 2 * GAP + 20 * line), shown, "black", font)


if __name__ == "__main__":
    sheet().quantize(64, dither=Image.Dither.NONE).save(SHEET, optimize=True)
