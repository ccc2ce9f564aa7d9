"""What the verdict says of answers that are hard to judge, and that every rendering says it: terminal, JSON, JUnit,
Markdown and HTML."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from mobilekit.pipeline.assemble import report_of
from mobilekit.pipeline.measure import Task, measure
from mobilekit.pipeline.validate import ValidateOptions
from mobilekit.report import console, html, junit, markdown
from mobilekit.report import json as report_json
from mobilekit.report.model import DeviceFacts, ReferenceFacts, ValidationReport
from mobilekit.runners.base import RunOptions, RunResult
from mobilekit.validate.inputs import Sample
from mobilekit.validate.limits import EVERY, Limits, Overrides

Array = Any
Tensors = Mapping[str, Array]
FACTS = DeviceFacts(kind="local", serial="local", model="here", abi="x86_64", runner="ncnn", runner_version="1")


def validated(
    right: Sequence[Tensors],
    given: Sequence[Tensors],
    *,
    doubt: float = 0.0,
    labels: Sequence[str] = (),
    form: str = "fp32",
    **limits: Mapping[str, float],
) -> ValidationReport:
    """A validation of which the reference's and the device's answers are known, under fixed limits."""
    first = right[0]
    outputs = [SimpleNamespace(name=name, dtype=str(a.dtype), shape=a.shape) for name, a in first.items()]
    manifest = SimpleNamespace(
        model=SimpleNamespace(id="hard", sha256="0" * 64, license=""),
        ncnn=SimpleNamespace(precision="fp32", batch=None), tensorrt=None, inputs=(), outputs=outputs,
        preprocess=None, task="",
    )  # fmt: skip
    bundle: Any = SimpleNamespace(manifest=manifest, labels=lambda: tuple(labels))
    samples = [Sample(f"sample {number}", {"x": np.array([number])}) for number in range(len(right))]

    def answer(inputs: Tensors, timeout_s: float) -> Tensors:
        return right[int(inputs["x"][0])]

    def run(inputs: Tensors, options: RunOptions) -> RunResult:
        return RunResult(outputs=dict(given[int(inputs["x"][0])]), latencies_ns=(1_000_000,), load_ns=1)

    def doubts(inputs: Tensors, expected: Tensors, timeout_s: float, errors: object = None) -> dict[str, float]:
        return dict.fromkeys(expected, doubt)

    reference: Any = SimpleNamespace(answer=answer, doubt=doubts)
    runner: Any = SimpleNamespace(run=run)
    judge = Limits([o.name for o in outputs], form, None, overrides=Overrides(**limits), allowance=None)  # type: ignore[arg-type]
    found = measure(bundle, runner, reference, samples, RunOptions(), judge)
    about = ReferenceFacts(name="ONNX Runtime", version="1")
    return report_of(bundle, "ncnn", ValidateOptions(), RunOptions(), FACTS, about, found, "files", Task())


def everywhere(report: ValidationReport) -> dict[str, str]:
    """The report as each rendering has it, as plain text."""
    assert report_json.loads(report_json.dumps(report)) == report
    out = io.StringIO()
    Console(file=out, width=1000).print(console.render(report))
    return {
        "terminal": out.getvalue(),
        "json": report.model_dump_json().replace('\\"', '"'),
        "junit": "".join(f"{e.tag} {e.attrib}" for e in ElementTree.fromstring(junit.dumps(report)).iter()),
        "markdown": markdown.dumps(report),
        "html": text_of(html.page(html.Subject(report=report))),
    }


def text_of(page: str) -> str:
    found: list[str] = []
    parser = HTMLParser()
    parser.handle_data = found.append  # type: ignore[method-assign]
    parser.feed(page[page.index("<body") :])
    return "".join(found)


def vary(seed: int, shape: tuple[int, ...] = (1, 50)) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


BLANK = np.zeros((1, 4), np.float32)
OVERFLOWN = np.where(np.arange(50) == 7, np.inf, vary(2)).astype(np.float32)
HOLES = np.where(np.arange(50) % 10 == 0, np.nan, vary(0)).astype(np.float32)
Case = Callable[[], ValidationReport]

CASES: dict[str, tuple[Case, str, str]] = {
    "one right and one constant": (
        lambda: validated([{"y": vary(0), "z": BLANK}], [{"y": vary(0), "z": BLANK}]),
        "pass",
        "the reference output is zero or constant",
    ),
    "one right and one constant that is off": (
        lambda: validated([{"y": vary(0), "z": BLANK}], [{"y": vary(0), "z": BLANK + 1}]),
        "fail",
        "off by 1 (limit 0.0001) from a reference that is zero or constant",
    ),
    "all zero": (lambda: validated([{"y": BLANK}], [{"y": BLANK}]), "inconclusive", "zero or constant"),
    "small but not zero": (
        lambda: validated([{"y": 1e-9 * vary(0)}], [{"y": 1.1e-9 * vary(0)}]), "fail", "relative L2 0.1",
    ),
    "empty": (
        lambda: validated([{"y": np.zeros((0, 4), np.float32)}], [{"y": np.zeros((0, 4), np.float32)}]),
        "inconclusive",
        "the reference output is empty",
    ),
    "a number": (
        lambda: validated([{"y": np.float32(2.5)[()].reshape(())}], [{"y": np.array(2.0, np.float32)}]),
        "fail",
        "relative L2 0.2",
    ),
    "nothing but NaN": (
        lambda: validated([{"y": BLANK * np.nan}], [{"y": BLANK * np.nan}]), "inconclusive", "infinite throughout",
    ),
    "NaN on both sides": (
        lambda: validated([{"y": HOLES}], [{"y": HOLES}]), "pass", "5 elements are NaN or infinite on both sides",
    ),
    "NaN on one side": (
        lambda: validated([{"y": vary(0)}], [{"y": HOLES}]), "fail", "5 elements are NaN or infinite on one side only",
    ),
    "swapped": (
        lambda: validated([{"y": vary(0), "z": vary(1)}], [{"y": vary(1), "z": vary(0)}]),
        "fail",
        "the two are swapped",
    ),
    "twice the same": (
        lambda: validated([{"y": vary(0), "z": vary(1)}], [{"y": vary(1), "z": vary(1)}]),
        "fail",
        "it holds what the reference gives for the output 'z'",
    ),
    "another class": (
        lambda: validated([{"ids": ints(50000, 3, 17)}], [{"ids": ints(50001, 3, 17)}], form="fp16"),
        "fail",
        "relative L2 0.816",
    ),
    "the same classes": (
        lambda: validated([{"ids": ints(50000, 3, 17)}], [{"ids": ints(50000, 3, 17)}]), "pass", "relative L2 0 is",
    ),
    "one of three samples wrong": (
        lambda: validated([{"y": vary(n)} for n in range(3)], [{"y": vary(0)}, {"y": -vary(1)}, {"y": vary(2)}]),
        "fail",
        "1 of 3 samples fail (sample sample 1)",
    ),
    "one of three samples overflown": (
        lambda: validated([{"y": vary(n)} for n in range(3)], [{"y": vary(0)}, {"y": vary(1)}, {"y": OVERFLOWN}]),
        "fail",
        "1 elements are NaN or infinite on one side only; 1 of 3 samples fail (sample sample 2)",
    ),
    "one box less, and the reference is unsure itself": (
        lambda: validated([{"boxes": vary(0, (6, 4))}], [{"boxes": vary(0, (5, 4))}], doubt=math.inf),
        "inconclusive",
        "5 instead of 6 elements along axis 0; ONNX Runtime itself gives another count",
    ),
    "one box less": (
        lambda: validated([{"boxes": vary(0, (6, 4))}], [{"boxes": vary(0, (5, 4))}]),
        "fail",
        "5 instead of 6 elements along axis 0",
    ),
    "another rank is no matter of data": (
        lambda: validated([{"y": vary(0, (2, 3))}], [{"y": vary(0, (6,))}], doubt=math.inf), "fail", "shape [6]",
    ),
    "ties in another order": (
        lambda: validated([{"top": vary(0)}], [{"top": vary(0)[:, ::-1]}], doubt=0.9),
        "inconclusive",
        "ONNX Runtime itself is off by 0.9",
    ),
    "one row of a batch wrong": (
        lambda: validated([{"y": vary(0, (16, 9))}], [{"y": np.vstack([vary(0, (16, 9))[:15], vary(1, (1, 9))])}]),
        "fail",
        "is above",
    ),
    "a limit for each output": (
        lambda: validated([{"y": vary(0), "z": vary(1)}], [{"y": vary(0) * 1.05, "z": vary(1) * 1.05}],
                          rtol={"y": 0.1, EVERY: 1e-3}),
        "fail",
        "1 of 2 outputs differ",
    ),
    "the same for every sample": (
        lambda: validated([{"y": vary(0)}] * 2, [{"y": vary(0)}] * 2), "inconclusive", "the same for every sample",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_rendering_says_the_same(name: str) -> None:
    case, verdict, said = CASES[name]
    report = case()
    assert report.verdict.value == verdict, report.sentence
    shown = everywhere(report)
    for where, text in shown.items():
        # There the sample is a field of its own.
        said_here = said.partition(" (sample ")[0] if where == "json" else said
        assert said_here in text.replace("\\'", "'"), (where, text)
        assert verdict in text.lower(), where


def test_a_blank_reference_has_no_relative_error_and_does_not_lead() -> None:
    """It is infinite at any error, of 1e-6 as well; the largest absolute one is what counts there."""
    report = validated([{"y": vary(0), "z": BLANK}], [{"y": vary(0) * np.float32(1 + 1e-5), "z": BLANK + 1e-6}])
    assert report.verdict.value == "pass"
    assert report.outputs[1].relative_l2 == math.inf
    shown = everywhere(report)
    assert "1 of 2 outputs is right by ONNX Runtime 1, 'z' says nothing; nearest to its limit is 'y'" in report.sentence
    for where in ("terminal", "markdown", "html"):
        assert "inf" not in shown[where].replace("inference", "").replace("info", ""), where
        assert "max abs 0.0001" in shown[where], where
    (case,) = [e for e in ElementTree.fromstring(junit.dumps(report)).iter("testcase") if e.get("name") == "z"]
    assert case.find("skipped") is not None


def test_labels_that_disagree_are_counted_beside_the_errors() -> None:
    near = np.array([[0.5, 0.5 + 1e-7, 0.0]], np.float32)
    other = np.array([[0.5 + 1e-7, 0.5, 0.0]], np.float32)
    report = validated(
        [{"p": near}, {"p": near[:, ::-1]}], [{"p": other}, {"p": near[:, ::-1]}], labels=("a", "b", "c")
    )
    assert report.verdict.value == "pass"
    shown = everywhere(report)
    assert "DISAGREES" in shown["terminal"]
    assert "The same class in 1 of 2 samples" in shown["markdown"]
    assert "50%" in shown["terminal"]
    assert "50.0%" in shown["html"]
