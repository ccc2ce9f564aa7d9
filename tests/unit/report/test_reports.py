"""Reports: JSON that survives a round trip, and a table that no name in it can take over."""

from __future__ import annotations

import io
import json as stdlib_json
import math

import pytest
from rich.console import Console

from mobilekit.errors import UsageError
from mobilekit.report import console, json
from mobilekit.report.bisection_text import render as bisection_text
from mobilekit.report.model import AnswerPair
from mobilekit.report.profile import render as profile_text
from mobilekit.validate.tolerance import Verdict
from tests.unit.report.reports import bisection, output, profile, report


def shown(value, width=120):
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=False).print(console.render(value))
    return stream.getvalue()


def test_json_survives_a_round_trip_infinities_included():
    original = report(outputs=(output(), output("b", relative_l2=math.inf, psnr_db=-math.inf)))
    text = json.dumps(original)
    stdlib_json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert json.loads(text) == original


def test_json_is_written_whole(tmp_path):
    json.write(report(), tmp_path / "new" / "r.json")
    assert json.loads((tmp_path / "new" / "r.json").read_text()) == report()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": "3.0"}, "newer than 2.2"),
        ({"schema_version": "1.0"}, "older than 2.2"),
        ({"schema_version": None}, "no validation report"),
        ({"verdict": "splendid"}, "verdict"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_strange_report_is_refused(change, message):
    raw = stdlib_json.loads(json.dumps(report()))
    raw.update(change)
    with pytest.raises(UsageError, match=message):
        json.loads(stdlib_json.dumps(raw))
    for text in ("", "[]", "{}", "nonsense"):
        with pytest.raises(UsageError):
            json.loads(text)


def test_the_table_says_what_ran_where_how_right_and_how_fast():
    text = shown(report())
    for part in (
        "demo",
        "ncnn, fp32",
        "mobilekit virtual arm64 (127.0.0.1:5600), Android 14, virtual: cortex-a76",
        "arm64-v8a: neon asimdhp",
        "ONNX Runtime CPU 1.32.0",
        "relative L2 2.50e-06 in prob",
        "2.00e-05",
        "PASS",
        "12.50 / 13.25 ms",
        "not comparable: the processor is emulated",
        "2.60 MB of blobs",
        "cat.png: tabby 74.9%; the reference agrees: tabby 75.0%",
    ):
        assert part in text


def test_a_real_phone_has_no_remark_on_its_latency():
    value = report()
    assert value.latency is not None
    comparable = value.model_copy(update={"latency": value.latency.model_copy(update={"comparable": True})})
    assert "not comparable" not in shown(comparable)


def test_disagreement_and_failure_are_plain():
    answer = report().answers[0].model_copy(update={"device_label": "dog"})
    text = shown(report(verdict=Verdict.FAIL, answers=(answer,), outputs=(output(verdict=Verdict.FAIL),)))
    assert "FAIL" in text
    assert "DISAGREES" in text


@pytest.mark.parametrize(
    "evil", ["[red]x[/red]", "[link=file:///etc/passwd]x[/link]", "a\x1b[2Jb", "a\rb\x07\x9b31m", "[/]"]
)
def test_names_are_shown_and_never_obeyed(evil):
    device = report().device.model_copy(update={"model": evil, "abi": evil, "cpu_features": (evil,)})
    answer = AnswerPair(
        sample=evil, reference_label=evil, reference_probability=0.5, device_label=evil, device_probability=0.5
    )
    text = shown(
        report(model=evil, device=device, outputs=(output(evil),), sentence=evil, answers=(answer,)), width=300
    )
    assert console.plain(evil) in text
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert "\r" not in text


def test_many_outputs_are_shortened_to_the_worst():
    outputs = tuple(output(f"o{i}", relative_l2=i * 1e-6) for i in range(40))
    text = shown(report(outputs=outputs))
    assert "the 16 worst of 40" in text
    assert "o39" in text
    assert "o3 " not in text


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_narrow_terminal_shows_each_verdict_whole(width):
    outputs = (output("probabilities/of:0", verdict=Verdict.INCONCLUSIVE, top1_agreement=0.5), output("b"))
    text = shown(report(outputs=outputs), width)
    ends = [line.split("│")[-2].strip() for line in text.splitlines() if line.rstrip().endswith("│")]
    assert "inconclusive" in ends
    assert "pass" in ends
    assert ("top-1" in text) is (width >= 80)
    assert ("max abs" in text) is (width == 120)


def test_a_long_name_is_folded_before_figures_give_way():
    text = shown(report(outputs=(output("a_name_that_does_not_end/" * 4),)), 80)
    assert "2.50e-06" in next(line for line in text.splitlines() if line.startswith("│ a_name_that"))


def test_times_below_a_millisecond_keep_their_digits():
    value = report()
    assert value.latency is not None
    quick = value.latency.model_copy(update={"p50_ms": 0.016712, "p90_ms": 0.0211})
    assert "0.0167 / 0.0211 ms" in shown(value.model_copy(update={"latency": quick}))


def test_names_of_layers_give_way_at_their_beginning():
    stream = io.StringIO()
    one = profile().layers[6].model_copy(update={"of_roof": 0.421, "bound": "memory"})
    Console(file=stream, width=80).print(profile_text(profile().model_copy(update={"layers": (one,)})))
    row = next(line for line in stream.getvalue().splitlines() if "42% memory" in line)
    assert "…arameterised_convolution/Conv" in row


def test_a_profile_of_a_quick_model_shows_its_layers_apart():
    stream = io.StringIO()
    quick = profile().layers[0].model_copy(update={"mean_ms": 0.000278})
    value = profile().model_copy(update={"layers": (quick,), "layers_ms": 0.05, "p50_ms": 300.0})
    Console(file=stream, width=120).print(profile_text(value))
    assert "0.00028" in stream.getvalue()
    assert "try --threads 1" in stream.getvalue()


def test_a_bisection_keeps_behind_its_labels():
    found = bisection()
    assert found.first is not None
    layer = found.first.layers[0].model_copy(update={"params": {f"parameter_{n}": "1" for n in range(12)}})
    first = found.first.model_copy(update={"layers": (layer,)})
    lines = bisection_text(found.model_copy(update={"first": first})).splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("  layer"))
    assert all(len(line) <= 80 for line in lines[at : at + 3])
    assert lines[at + 1].startswith(" " * 13 + "parameter_")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_profile_cuts_names_and_no_figures(width):
    stream = io.StringIO()
    one = profile().layers[0]
    slow = one.model_copy(
        update={
            "name": "/a/rather/long/name",
            "mean_ms": 1234.5678,
            "share": 0.873,
            "of_roof": 0.421,
            "bound": "memory",
        }
    )
    value = profile().model_copy(update={"layers": (slow, one)})
    Console(file=stream, width=width).print(profile_text(value))
    row = next(line for line in stream.getvalue().splitlines() if "1234.568" in line)
    assert "87.3%" in row
    assert ("42% memory" in row) is (width >= 80)
    header = next(line for line in stream.getvalue().splitlines() if "share" in line)
    assert ("GB/s" in header) is (width == 120)


def test_a_report_without_latency_outputs_or_answers_still_renders():
    text = shown(report(latency=None, outputs=(), answers=(), peak_blob_bytes=None, samples=()))
    assert "not measured" in text
