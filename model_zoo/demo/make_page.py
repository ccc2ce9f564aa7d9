"""Draws page.png, the picture of the demo: a page of our own text, turned 90 degrees clockwise.

    python model_zoo/demo/make_page.py

The font is the one that Pillow carries (Aileron, CC0); text and picture are ours, under the project's licence.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE = (480, 640)
MARGIN = 40
TITLE = "Two machines, one answer"
TEXT = """A model leaves the workshop as a file. On the desk of its maker it has seen clean pictures, a fast machine and
a patient judge. On the telephone it meets other arithmetic, less memory and a hand that turns the page the
wrong way. Nobody notices a small error at first: the answer is still nearly right, and nearly right looks
like right. So we carry both machines to the same table. The same picture goes into each of them, and the two
answers are laid side by side, number by number, until we can say where they part. If they never part, we
write that down with the name of the machine and the size of the largest difference. If they do, we follow the
difference back through the layers to the first one that is wrong."""


def draw() -> Image.Image:
    """The page, turned: 640 x 480, 8-bit grey."""
    page = Image.new("L", SIZE, 250)
    pen = ImageDraw.Draw(page)
    title, body = ImageFont.load_default(28), ImageFont.load_default(20)
    pen.text((MARGIN, 36), TITLE, fill=20, font=title)
    line, y = "", 90
    for word in [*TEXT.split(), ""]:
        longer = f"{line} {word}".strip()
        if word and pen.textlength(longer, font=body) <= SIZE[0] - 2 * MARGIN:
            line = longer
            continue
        pen.text((MARGIN, y), line, fill=30, font=body)
        line, y = word, y + 30
    return page.transpose(Image.Transpose.ROTATE_270)


if __name__ == "__main__":
    draw().save(Path(__file__).with_name("page.png"), optimize=True)
