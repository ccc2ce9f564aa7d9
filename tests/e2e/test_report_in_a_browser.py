"""The HTML report in headless Chromium: charts are drawn, nothing overflows, nothing is requested, all by keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mobilekit.report.html import page
from tests.unit.report.reports import HOSTILE, bisection, large, parity, profile, subject

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (scripts/setup.sh)"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def shown(browser: Chrome, text: str, tmp_path: Path, *, width: int = 1200, dark: bool = False) -> None:
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(path.as_uri())


def measured(browser: Chrome, script: str) -> Any:
    return browser.execute_script(f"return {script}")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("width", [360, 768, 1200])
@pytest.mark.parametrize("which", ["plain", "hostile"])
def test_nothing_overflows_on_any_screen(browser: Chrome, tmp_path: Path, width: int, which: str) -> None:
    shown(browser, page(subject(names=HOSTILE if which == "hostile" else ())), tmp_path, width=width)
    assert measured(browser, "document.documentElement.scrollWidth") <= width
    beyond = measured(
        browser,
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && !e.closest('pre') &&"
        " !e.closest('svg') && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))",
    )
    assert beyond == []


@pytest.mark.parametrize("width", [360, 1200])
def test_charts_are_drawn(browser: Chrome, tmp_path: Path, width: int) -> None:
    shown(browser, page(subject()), tmp_path, width=width)
    sizes = measured(
        browser,
        "[...document.querySelectorAll('figure > svg')].map(s => s.getBBox()).map(b => [b.width, b.height])",
    )
    # The ladder, two outputs' errors, the layers' errors, the latency twice, the layers' times, side by side;
    # the instructions; the sustained run's times, temperatures and frequencies.
    assert len(sizes) == 1 + 2 + 1 + 2 + 3 + 1 + 3 + 2
    assert all(width > 200 and height > 20 for width, height in sizes), sizes
    assert measured(browser, "document.querySelectorAll('svg rect.bar').length") > 8
    assert measured(browser, "document.querySelectorAll('svg polyline').length") == 3 + 3
    assert measured(browser, "document.querySelectorAll('svg circle').length") > 35
    outside = measured(
        browser,
        "[...document.querySelectorAll('figure > svg')].flatMap(s => [...s.querySelectorAll('rect,circle,text,path')]"
        ".filter(m => { const a = m.getBoundingClientRect(), b = s.getBoundingClientRect();"
        " return a.left < b.left - 2 || a.right > b.right + 2 || a.top < b.top - 2 || a.bottom > b.bottom + 2 })"
        ".map(m => s.getAttribute('aria-label') + ': ' + m.outerHTML))",
    )
    assert outside == []
    assert measured(browser, "[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    # One with boxes; one twice, with either side's regions.
    assert measured(browser, "document.images.length") == 3


def test_both_answers_are_drawn_on_the_picture(browser: Chrome, tmp_path: Path) -> None:
    shown(browser, page(subject()), tmp_path)
    # Of three boxes a NaN has no place; one is the device's alone and reaches far beyond the picture.
    assert measured(browser, "document.querySelectorAll('.over rect.theirs').length") == 1
    assert measured(browser, "document.querySelectorAll('.over rect.ours').length") == 2
    # The model's input of 320 x 320 shows the picture from 40 on, 240 high.
    left, top = measured(
        browser,
        "(() => { const p = document.querySelector('.over').parentElement.getBoundingClientRect(),"
        " b = document.querySelector('.over rect.theirs').getBoundingClientRect();"
        " return [(b.left - p.left) / p.width, (b.top - p.top) / p.height] })()",
    )
    assert left == pytest.approx(20 / 320, abs=0.02)
    assert top == pytest.approx((60 - 40) / 240, abs=0.02)
    assert measured(browser, "document.querySelectorAll('.over image').length") == 2
    lines = measured(browser, "[...document.querySelectorAll('.card td')].map(e => e.innerText)")
    assert lines[:3] == ["boxes", "none", "90.0%"]


def test_a_bisection_a_profile_and_a_parity_have_pages_of_their_own(browser: Chrome, tmp_path: Path) -> None:
    from mobilekit.report.html.layers import bisection_page, profile_page
    from mobilekit.report.parity import page as parity_page

    pages = (
        (bisection_page(bisection(HOSTILE)), "fail"),
        (profile_page(profile(HOSTILE)), "profile"),
        (parity_page(parity(HOSTILE[1:])), "parity"),
    )
    for text, word in pages:
        shown(browser, text, tmp_path, width=360, dark=True)
        assert word in measured(browser, "document.body.innerText").lower()
        assert measured(browser, "document.documentElement.scrollWidth") <= 360
        assert measured(browser, "document.querySelectorAll('figure > svg').length") >= 1
        assert browser.get_log("browser") == []
        assert measured(browser, "typeof window.pwned") == "undefined"


def test_no_console_error_and_no_request(browser: Chrome, tmp_path: Path) -> None:
    shown(browser, page(subject(names=HOSTILE)), tmp_path)
    assert browser.get_log("browser") == []
    sent = [
        entry["message"] for entry in browser.get_log("performance") if 'Network.requestWillBeSent"' in entry["message"]
    ]
    assert all('"url":"file:' in message or '"url":"data:' in message for message in sent)
    assert (
        measured(browser, "performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length")
        == 0
    )


def test_hostile_names_stay_text(browser: Chrome, tmp_path: Path) -> None:
    shown(browser, page(subject(names=HOSTILE)), tmp_path)
    assert measured(browser, "document.querySelectorAll('script, iframe, object, [onerror], [onload]').length") == 0
    assert measured(browser, "typeof window.pwned") == "undefined"
    text = measured(browser, "document.body.innerText")
    assert "<script>" in text
    assert "<img src=x onerror=pwned=1>" in text


WEIRD = (
    "</script><script>window.pwned=1</script>",
    "</style><style>body{display:none}",
    "\"quoted\" 'single' <!-- ]]> &lt;b&gt;",
    "x" * 300,
    "\u0436" * 300,
    "\u05e9\u05dc\u05d5\u05dd \u202eevil",
    "\U0001f600" * 150,
    "a/b.c:d_e-" * 30,
)


@pytest.mark.parametrize("width", [320, 1200])
def test_five_hundred_samples_with_weird_names_hold_together(browser: Chrome, tmp_path: Path, width: int) -> None:
    from mobilekit.report.html import Subject
    from mobilekit.report.model import SampleErrors
    from mobilekit.validate.tolerance import Verdict
    from tests.unit.report.reports import output, report

    outputs = tuple(
        output(name, reason=name, worst_sample=name, verdict=Verdict.FAIL, relative_l2=10.0**-number)
        for number, name in enumerate(WEIRD)
    )
    errors = tuple(
        SampleErrors(
            name=f"{WEIRD[number % len(WEIRD)]}{number}",
            verdict=Verdict.FAIL if number % 3 else Verdict.PASS,
            relative_l2={name: float("inf") if number % 11 == 0 else 10.0 ** -(number % 7) for name in WEIRD},
        )
        for number in range(500)
    )
    made = report(
        model=WEIRD[0] + "y" * 300, outputs=outputs, sample_errors=errors, samples=tuple(one.name for one in errors),
        verdict=Verdict.FAIL, sentence="; ".join(WEIRD), command=("mobilekit", "validate", *WEIRD),
    )  # fmt: skip
    text = page(Subject(report=made))
    assert len(text.encode()) < 10_000_000
    shown(browser, text, tmp_path, width=width, dark=width < 400)
    assert measured(browser, "typeof window.pwned") == "undefined"
    assert measured(browser, "document.querySelectorAll('script').length") == 0
    assert measured(browser, "getComputedStyle(document.body).display") != "none"
    assert measured(browser, "document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []


def test_dark_and_light_both_have_contrast(browser: Chrome, tmp_path: Path) -> None:
    text = page(subject())
    seen = set()
    for dark in (False, True):
        shown(browser, text, tmp_path, dark=dark)
        back = measured(browser, "getComputedStyle(document.body).backgroundColor")
        for selector in ("body", ".faint", "dt", ".word", "figure > svg text"):
            part = "fill" if "svg" in selector else "color"
            ink = measured(browser, f"getComputedStyle(document.querySelector('{selector}')).{part}")
            assert _contrast(ink, back) >= 4.5, (dark, selector, ink, back)
        seen.add(back)
    assert len(seen) == 2


def test_all_that_scrolls_or_opens_is_reached_by_keyboard(browser: Chrome, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    shown(browser, page(subject()), tmp_path)
    every = "[...document.querySelectorAll('.scroll, summary, figure > svg, pre')]"
    wanted = measured(browser, f"{every}.length")
    visible = measured(browser, f"{every}.filter(e => e.checkVisibility()).length")
    reached = set()
    for _ in range(3 * wanted):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        place = measured(browser, f"{every}.indexOf(document.activeElement)")
        if place in reached and place >= 0:
            break
        reached.add(place)
    assert len(reached - {-1}) >= visible
    assert measured(browser, "[...document.querySelectorAll('svg')].every(s => s.getAttribute('aria-label'))")


def test_five_hundred_samples_open(browser: Chrome, tmp_path: Path) -> None:
    shown(browser, page(large(500)), tmp_path)
    assert "PASS" in measured(browser, "document.querySelector('.word').innerText")


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two CSS colours ``rgb(r, g, b)``."""

    def luminance(colour: str) -> float:
        parts = [int(float(part)) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
