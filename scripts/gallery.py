"""The pictures of docs/gallery.md: real validations of zoo models, their reports photographed in headless Chromium.

    python scripts/gallery.py [--keep FOLDER] [--out docs/gallery] [NAME ...]

Runs on this machine (``local``), with pictures that are drawn here. Needs chromium, chromedriver and selenium
(scripts/setup.sh); the harness is built for the profile where there is none. ``--keep`` leaves pictures, bundles, JSON
and HTML in FOLDER, and takes them from there the next time. NAMEs: only these screenshots.
"""

from __future__ import annotations

import argparse
import base64
import io
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilekit.errors import MissingToolError

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the planted faults are the tests'
LETTERS = "ABCDEFGHKMNPRSTXYZ23456789"
FAST = ("--threads", "1", "--history", "none")
MODELS = {"pp_lcnet_orientation": "orientation", "yolox_ddddocr": "letters", "pp_ocrv5_det": "text"}
MOST_BYTES = 120_000


@dataclass(frozen=True, slots=True)
class Shot:
    """``parts``: the headings of the sections that are shown, the page's top for ``""``; all of them without any."""

    name: str
    page: str
    parts: tuple[str, ...] = ()
    width: int = 860
    dark: bool = False
    most: int = 1150


SHOTS = (
    Shot("pass", "orientation", ("", "Outputs", "Worst samples")),
    Shot("latency", "orientation", ("Latency",)),
    Shot("boxes", "broken", ("", "Worst samples")),
    Shot("regions", "regions", ("", "Worst samples")),
    Shot("bisect", "broken", ("Error by layer",)),
    Shot("ladder", "ladder", ("", "Ladder")),
    Shot("profile", "profile", most=1000),
    Shot("side-by-side", "broken", ("Side by side",)),
    Shot("dark", "broken", ("", "Error by layer"), dark=True),
    Shot("phone", "broken", ("", "Outputs", "Worst samples"), width=390),
)


def mobilekit(folder: Path, *words: str, expect: tuple[int, ...] = (0,)) -> None:
    print("mobilekit", *words, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "mobilekit", *words], cwd=folder, stdout=subprocess.DEVNULL, check=False
    )
    if done.returncode not in expect:
        raise SystemExit(f"mobilekit {' '.join(words)} came back with {done.returncode}")


def draw_puzzles(folder: Path) -> None:
    """Three pictures of letters on a blurred ground, as the detector's captchas are."""
    from PIL import Image, ImageDraw, ImageFont

    folder.mkdir(exist_ok=True)
    rng = random.Random(5)  # noqa: S311  # pictures, not secrets
    for number in range(3):
        ground = Image.new("RGB", (6, 6))
        for place in range(36):
            ground.putpixel((place % 6, place // 6), tuple(rng.randint(60, 230) for _ in range(3)))
        picture = ground.resize((344, 344), Image.Resampling.BICUBIC)
        for place in range(4):
            tile, font = Image.new("RGBA", (110, 110)), ImageFont.load_default(rng.randint(62, 78))
            ink = tuple(rng.choice((20, 60, 240)) for _ in range(3))
            ImageDraw.Draw(tile).text(
                (55, 55), rng.choice(LETTERS), ink, font, anchor="mm", stroke_width=2, stroke_fill="white"
            )
            tile = tile.rotate(rng.randint(-35, 35), Image.Resampling.BICUBIC)
            left, top = (20 + half * 160 + rng.randint(0, 40) for half in (place % 2, place // 2))
            picture.paste(tile, (left, top), tile)
        picture.save(folder / f"puzzle-{number + 1}.png")


def draw_pages(folder: Path) -> None:
    """The page of the demo, three ways up."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    page = Image.open(ROOT / "model_zoo" / "demo" / "page.png")
    for name, degrees in (("upright", 90), ("clockwise", 0), ("upside-down", 270)):
        page.rotate(degrees, expand=True).save(folder / f"{name}.png")


def turn_boxes(good: Path, bad: Path) -> None:
    """A copy of the detector whose middle head gives x for y and width for height."""
    from tests.planted.edit import Editor

    editor = Editor(good, bad)
    head = editor.find("Convolution", 1, lambda layer: layer.param(0) == "4")
    order = [1, 0, 3, 2]
    editor.weight(head, 0, lambda weight: weight.reshape(4, -1)[order].reshape(-1), tagged=True)
    editor.weight(head, 1, lambda bias: bias[order], tagged=False)
    editor.save()


def drop_bias(good: Path, bad: Path) -> None:
    """A copy of the bundle with a convolution that has lost its bias."""
    from tests.planted.edit import Editor

    editor = Editor(good, bad)
    layer = editor.find("Convolution", 4, lambda layer: layer.param(5) == "1")
    editor.set(layer, bias_term=0)
    editor.arrays[layer.name].pop(1)
    editor.save()


def make(folder: Path) -> None:
    """Every page that is photographed, as FOLDER/NAME.html."""
    draw_puzzles(folder / "puzzles")
    draw_pages(folder / "pages")
    (folder / "page").mkdir(exist_ok=True)
    shutil.copy(folder / "pages" / "upright.png", folder / "page" / "page.png")
    for model, bundle in (
        ("pp_lcnet_orientation", "orientation"),
        ("yolox_ddddocr", "letters"),
        ("pp_ocrv5_det", "text"),
    ):
        if not (folder / "build" / bundle).exists():
            mobilekit(folder, "export", model, "-o", f"build/{bundle}")
    for bundle, plant in (("letters", turn_boxes), ("text", drop_bias)):
        if not (folder / "build" / f"{bundle}-broken").exists():
            plant(folder / "build" / bundle, folder / "build" / f"{bundle}-broken")
    here = ("--device", "local")
    mobilekit(folder, "validate", "build/orientation", *here, "--inputs", "pages", "--iterations", "200", *FAST,
              "--report", "orientation.html", "--json", "orientation.json")  # fmt: skip
    mobilekit(folder, "validate", "build/orientation", *here, "--inputs", "pages", "--iterations", "10", *FAST,
              "--ladder", "--report", "ladder.html")  # fmt: skip
    for bundle, codes in (("letters", (0,)), ("letters-broken", (1,))):
        mobilekit(folder, "validate", f"build/{bundle}", *here, "--inputs", "puzzles", "--metric", "detect", *FAST,
                  "--json", f"{bundle}.json", expect=codes)  # fmt: skip
    mobilekit(folder, "bisect", "build/letters-broken", *here, "--inputs", "puzzles", "--threads", "1",
              "--json", "bisect.json", expect=(1,))  # fmt: skip
    mobilekit(folder, "report", "letters-broken.json", "letters.json", "bisect.json", "--inputs", "puzzles",
              "-o", "broken.html")  # fmt: skip
    mobilekit(folder, "validate", "build/text-broken", *here, "--inputs", "page", "--iterations", "10", *FAST,
              "--report", "regions.html", expect=(1,))  # fmt: skip
    mobilekit(folder, "profile", "build/orientation", *here, "--threads", "1", "--report", "profile.html")


@contextmanager
def chromium() -> Iterator[Chrome]:
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if program is None or driver is None:
        raise MissingToolError("chromium or chromedriver is missing", hint="sh scripts/setup.sh")
    options = ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    browser = Chrome(options=options, service=Service(driver))
    try:
        yield browser
    finally:
        browser.quit()


def photograph(browser: Chrome, shot: Shot, page: Path) -> bytes:
    """The shot as a PNG of few colours."""
    from PIL import Image

    scheme = [{"name": "prefers-color-scheme", "value": "dark" if shot.dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    size = {"width": shot.width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.resolve().as_uri())
    script = """
        const wanted = arguments[0];
        if (wanted.length) for (const part of document.querySelectorAll('main > *')) {
            const title = part.matches('header') ? '' : part.querySelector('h2')?.innerText;
            if (!wanted.includes(title)) part.remove();
        }
        document.querySelector('main > section:first-child h2')?.style.setProperty('margin-top', '0');
        return document.querySelector('main').getBoundingClientRect().height;
    """
    height: Any = browser.execute_script(script, list(shot.parts))  # type: ignore[no-untyped-call]
    clip = {"x": 0, "y": 0, "width": shot.width, "height": min(height, shot.most), "scale": 1}
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    picture = Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")
    for colours in (224, 96, 48, 24):
        data = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
        if data.tell() < MOST_BYTES:
            break
    return data.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gallery")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder: Path = arguments.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        shots = [shot for shot in SHOTS if not arguments.names or shot.name in arguments.names]
        if not all((folder / f"{shot.page}.html").exists() for shot in shots):
            make(folder)
        arguments.out.mkdir(parents=True, exist_ok=True)
        with chromium() as browser:
            for shot in shots:
                data = photograph(browser, shot, folder / f"{shot.page}.html")
                (arguments.out / f"{shot.name}.png").write_bytes(data)
                print(f"{shot.name}.png: {len(data) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
