"""The parity report: which gap it calls the larger one, and that no name becomes markup."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mobilekit.report.parity import ParityReport, markdown, page, render
from tests.unit.report.reports import HOSTILE, parity


@pytest.mark.parametrize(
    ("gap", "error", "larger", "told"),
    [
        (0.2, 1e-6, "preprocessing", "preprocessing is the larger gap: pixels of ncnn on the device"),
        (1e-6, 0.2, "model", "the model on the device is the larger gap"),
        (0.1, 0.15, "alike", "about the same size"),
        (0.0, 0.0, "none", "neither preprocessing nor the model"),
    ],
)
def test_the_larger_gap_is_named(gap: float, error: float, larger: str, told: str) -> None:
    report = parity(gap=gap, error=error)
    assert report.larger == larger
    assert told in report.sentence
    assert "top1 changes in 1 of 2 pictures, by the model's own error in 0" in report.sentence
    assert report.sentence.endswith("BGR for RGB")


def test_it_survives_json() -> None:
    report = parity(HOSTILE[1:])
    assert ParityReport.model_validate_json(report.model_dump_json()) == report


def test_text_and_markdown_hold_what_was_found() -> None:
    report = parity()
    out = io.StringIO()
    Console(file=out, width=100).print(render(report))
    for written in (out.getvalue(), markdown(report)):
        for word in ("demo", "Pillow / ncnn on the device", "50.00", "2.500", "cat.png", "row 7, column 3"):
            assert word in written
    assert "dog.png" in page(report)


def test_no_name_becomes_markup() -> None:
    for names in (HOSTILE[:3], HOSTILE[1:]):
        report = parity(names)
        assert "<script" not in page(report)
        assert "<img" not in page(report)
        assert "\x1b" not in page(report) + markdown(report)
        for line in markdown(report).splitlines():
            assert "<script" not in line.replace("\\<", "") or line.count("`") >= 2
        rows = [line for line in markdown(report).splitlines() if line.startswith("| ")]
        assert {row.replace("\\|", "").count("|") for row in rows} == {7}
