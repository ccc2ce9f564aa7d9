"""A validation's files: HTML, JUnit and Markdown, which no name in them can take over; tests/e2e opens the HTML."""

from __future__ import annotations

import base64
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mobilekit.errors import UsageError
from mobilekit.pipeline.report import ReportFiles, read_beside, read_report, write_reports
from mobilekit.report import json, junit, markdown
from mobilekit.report.answers import Mask, MaskPair, SampleAnswer
from mobilekit.report.html import Subject, page
from mobilekit.report.html.charts import Bar, Curve, bars, curves, histogram, series
from mobilekit.report.metrics import MetricReport
from mobilekit.report.model import SampleErrors
from mobilekit.report.stopped import StoppedReport
from mobilekit.validate.tolerance import Verdict
from tests.e2e.bench import mobilekit
from tests.unit.report.reports import HOSTILE, bisection, large, output, profile, report, subject


class Page(HTMLParser):
    """Every tag and attribute, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_the_verdict_comes_first() -> None:
    found = Page(page(subject()))
    body = found.text[found.text.index("}\n", found.text.rindex("focus-visible")) :]
    assert re.sub(r"\s+", " ", body).strip(" }").startswith("demo")
    assert (
        body.index("pass") < body.index("Outputs") < body.index("Ladder") < body.index("Errors") < body.index("Latency")
    )


@settings(max_examples=20)
@given(st.lists(st.text(min_size=1, max_size=40), min_size=4, max_size=4, unique=True))
def test_no_name_becomes_markup(names: list[str]) -> None:
    usual, found = Page(page(subject())), Page(page(subject(tuple(names))))
    assert set(found.tags) <= set(usual.tags)
    assert {name for name, _ in found.attributes} <= {name for name, _ in usual.attributes}


def test_nothing_asks_for_the_network() -> None:
    found = Page(page(subject(HOSTILE)))
    assert not {"script", "iframe", "object", "embed", "form"} & set(found.tags)
    for name, value in found.attributes:
        if name in ("src", "href"):
            assert value is not None
            assert value.startswith("data:")


def test_five_hundred_samples_stay_below_ten_megabytes() -> None:
    assert len(page(large(500)).encode()) < 10_000_000


def test_no_samples_and_no_latency_make_a_page_too() -> None:
    bare = report(samples=(), outputs=(), latency=None, load_ms=None, answers=(), verdict=Verdict.INCONCLUSIVE)
    assert "inconclusive" in page(Subject(bare))
    assert "inconclusive" in markdown.dumps(bare)
    assert ElementTree.fromstring(junit.dumps(bare)).tag == "testsuites"


def test_junit_has_a_case_for_each_output() -> None:
    made = report(
        outputs=(
            output("good"),
            output("bad <&>", verdict=Verdict.FAIL, reason="relative L2 0.5 is above 0.001"),
            output("blank\x00", verdict=Verdict.INCONCLUSIVE, reason="constant"),
        ),
        verdict=Verdict.FAIL,
    )
    root = ElementTree.fromstring(junit.dumps(made))
    suite = root.find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    good, bad, blank = suite.findall("testcase")
    assert good.find("failure") is None
    assert "0.5 is above" in str(bad.find("failure").get("message"))
    assert blank.find("skipped") is not None
    assert bad.get("name") == "bad <&>"


def test_junit_fails_for_a_metric_and_for_a_validation_that_was_stopped() -> None:
    def metric(name: str, least: float | None) -> MetricReport:
        return MetricReport(name=name, mean=0.5, worst=0.0, worst_sample="seed 0", least=least)

    made = report(
        metrics=(metric("top1", 0.9), metric("cosine", 0.4), metric("iou", None)),
        stopped=StoppedReport(done=1, error="the device went away", exit_code=4),
        verdict=Verdict.FAIL,
    )
    suite = ElementTree.fromstring(junit.dumps(made)).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "1", "1")
    _, top1, cosine, stopped = suite.findall("testcase")
    assert "0.5 is below 0.9" in str(top1.find("failure").get("message"))
    assert cosine.find("failure") is None
    assert "went away" in str(stopped.find("error").get("message"))


def test_markdown_keeps_names_in_code_spans() -> None:
    text = markdown.dumps(report(model="a`b|c", outputs=(output("x|y <b>"),)))
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == 1
    assert rows[0].count("|") - rows[0].count("\\|") == 7
    assert "``a`b\\|c``" in text


def test_what_is_marked_stands_out() -> None:
    chart = series([1.0, 2.0, 9.0], "x", unit="ms", across="run", marked=[2])
    assert chart is not None
    assert [dot.get("class") for dot in chart.iter("circle")] == ["dot", "dot", "dot fail"]
    long = series([1.0] * 500, "x", unit="ms", across="run", marked=[7, 8])
    assert long is not None
    assert len(list(long.iter("circle"))) == 2


def test_charts_of_nothing_are_none() -> None:
    assert histogram([], "x", unit="ms") is None
    assert histogram([float("nan"), 0.0], "x", unit="", log=True) is None
    assert series([1.0], "x", unit="", across="") is None
    assert bars([], "x", unit="") is None


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=60), st.booleans())
@example([1.1125369292536007e-308, 0.0], False)
def test_charts_stay_inside_their_frame(values: list[float], log: bool) -> None:
    drawn = [
        histogram(values, "h", unit="x", log=log),
        series(values, "s", unit="x", across="y"),
        bars([Bar(str(index), value) for index, value in enumerate(values)], "b", unit="x", log=log),
        curves([Curve("c", values)], [str(index) for index in range(len(values))], "c", unit="x", across="y"),
    ]
    for chart in drawn:
        if chart is None:
            continue
        _, _, width, height = map(float, chart.get("viewBox", "").split())
        for mark in chart.iter("rect"):
            x, y, w, h = (float(mark.get(name, "nan")) for name in ("x", "y", "width", "height"))
            assert x >= 0
            assert y >= 0
            assert w >= 0
            assert h >= 0
            assert x + w <= width + 0.5
            assert y + h <= height + 0.5
        for mark in chart.iter("circle"):
            assert 0 <= float(mark.get("cx", "nan")) <= width
            assert 0 <= float(mark.get("cy", "nan")) <= height


def test_pictures_are_of_the_worst_samples_and_missing_ones_are_left_out(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (900, 700), "red").save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    names = ("a.png", "b.png", "broken.png", "gone.png", "../../etc/passwd")
    made = report(
        samples=names,
        sample_errors=tuple(
            SampleErrors(name=name, verdict=Verdict.PASS, relative_l2={"prob": 1e-6}) for name in names
        ),
    )
    write_reports(made, ReportFiles(html=tmp_path / "r.html"), inputs=tmp_path)
    found = Page((tmp_path / "r.html").read_text("utf-8"))
    assert found.tags.count("img") == 2


def test_reports_are_made_later_and_side_by_side(tmp_path: Path) -> None:
    for name in ("new", "old"):
        json.write(report(sentence=name), tmp_path / f"{name}.json")
    json.write(report(model="another"), tmp_path / "another.json")
    out = tmp_path / "out.html"
    done = mobilekit("report", tmp_path / "new.json", tmp_path / "old.json", "-o", out)
    assert done.returncode == 0, done.stderr
    assert "Side by side" in out.read_text("utf-8")
    done = mobilekit("report", tmp_path / "new.json", tmp_path / "another.json", "-o", tmp_path / "no.html")
    assert done.returncode == 2
    assert "another model" in done.stderr
    assert not (tmp_path / "no.html").exists()
    (tmp_path / "layers.json").write_text(bisection(HOSTILE).model_dump_json())
    (tmp_path / "times.json").write_text(profile().model_dump_json())
    done = mobilekit("report", *(tmp_path / f"{name}.json" for name in ("new", "times", "old")), "-o", out)
    assert done.returncode == 0, done.stderr
    assert "Time by layer" in out.read_text("utf-8")
    assert "Side by side" in out.read_text("utf-8")
    for beside, said in (("layers", "another model"), ("another", "another model")):
        done = mobilekit("report", tmp_path / "new.json", tmp_path / f"{beside}.json", "-o", tmp_path / "no.html")
        assert done.returncode == 2
        assert said in done.stderr
    with pytest.raises(UsageError, match="2 profiles"):
        read_beside([tmp_path / "times.json"] * 2)
    (tmp_path / "short.json").write_text('{"kind": "bisection"}')
    with pytest.raises(UsageError, match="is not valid"):
        read_beside([tmp_path / "short.json"])
    (tmp_path / "x.json").write_text("[]")
    for read in (read_report, lambda path: read_beside([path])):
        with pytest.raises(UsageError):
            read(tmp_path / "x.json")
        with pytest.raises(UsageError):
            read(tmp_path / "none.json")


def test_samples_that_are_not_finite_are_counted_and_come_first(tmp_path: Path) -> None:
    names = ("good", "exact", "nan", "infinite")
    values = (1e-6, 0.0, math.nan, math.inf)
    errors = [
        SampleErrors(name=name, verdict=Verdict.PASS, relative_l2={"prob": value})
        for name, value in zip(names, values, strict=True)
    ]
    made = report(
        samples=names,
        sample_errors=tuple(errors),
        outputs=(output(relative_l2=math.nan, cosine=math.nan, psnr_db=math.nan, max_abs=math.inf),),
    )
    json.write(made, tmp_path / "r.json")
    write_reports(read_report(tmp_path / "r.json"), ReportFiles(html=tmp_path / "r.html"))
    text = Page((tmp_path / "r.html").read_text("utf-8")).text
    assert "not drawn: 1 without any error, 2 not finite" in text
    cards = text[text.index("Worst samples") :]
    assert cards.index("nan") < cards.index("good") < cards.index("exact")
    assert "nan" in markdown.dumps(made)
    assert ElementTree.fromstring(junit.dumps(made)).tag == "testsuites"


def test_a_sample_may_lack_an_output_in_a_report_that_was_edited() -> None:
    errors = (SampleErrors(name="a", verdict=Verdict.PASS, relative_l2={}),) * 2
    assert "demo" in page(Subject(report(sample_errors=errors)))


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(-5, 300), st.integers(-(10**9), 10**9)), max_size=6))
def test_regions_of_an_untrusted_report_are_as_large_as_they_say(runs: list[tuple[int, int]]) -> None:
    mask = Mask(width=6, height=4, runs=tuple(runs))
    pair = MaskPair(reference=mask, device=mask, agreement=1.0)
    shown = (SampleAnswer(sample="a", width=64, height=64, mask=pair),)
    errors = (SampleErrors(name="a", verdict=Verdict.PASS, relative_l2={"prob": 1e-6}),)
    text = page(Subject(report(sample_errors=errors, shown=shown)))
    pictures = [base64.b64decode(found) for found in re.findall(r"data:image/png;base64,([^\"]+)", text)]
    assert len(pictures) == 2
    assert all(Image.open(io.BytesIO(found)).size == (6, 4) for found in pictures)
