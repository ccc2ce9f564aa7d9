"""A validation's files: HTML, JUnit and Markdown, which no name in them can take over; tests/e2e opens the HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mobilekit.errors import UsageError
from mobilekit.pipeline.report import ReportFiles, write_reports
from mobilekit.report import json, junit, markdown
from mobilekit.report.html import page
from mobilekit.report.html.charts import Bar, bars, histogram, series
from mobilekit.report.metrics import MetricReport
from mobilekit.report.model import SampleErrors
from mobilekit.report.stopped import StoppedReport
from mobilekit.validate.tolerance import Verdict
from tests.e2e.bench import mobilekit
from tests.unit.report.reports import HOSTILE, large, output, report, subject


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


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
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
    from mobilekit.report.html import Subject

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


def test_charts_of_nothing_are_none() -> None:
    assert histogram([], "x", unit="ms") is None
    assert histogram([float("nan"), 0.0], "x", unit="", log=True) is None
    assert series([1.0], "x", unit="", across="") is None
    assert bars([], "x", unit="") is None


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=60), st.booleans())
@example([1.1125369292536007e-308, 0.0], False)
def test_charts_stay_inside_their_frame(values: list[float], log: bool) -> None:
    drawn = [
        histogram(values, "h", unit="x", log=log),
        series(values, "s", unit="x", across="y"),
        bars([Bar(str(index), value) for index, value in enumerate(values)], "b", unit="x", log=log),
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
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(UsageError):
        from mobilekit.pipeline.report import read_report

        read_report(tmp_path / "x.json")
