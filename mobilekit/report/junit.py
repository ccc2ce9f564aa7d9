"""A validation as JUnit XML: a test case for each output, so that a CI server shows which one failed and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobilekit.report.console import plain
from mobilekit.report.figures import why
from mobilekit.validate.tolerance import Verdict

if TYPE_CHECKING:
    from mobilekit.report.model import ValidationReport

__all__ = ["dumps"]


def dumps(report: ValidationReport) -> str:
    """A *fail* is a failure, an *inconclusive* output a skipped case: it neither passes nor breaks the build. A task
    metric with a least mean is a case too, and so is a validation that was stopped: an error."""
    from junitparser import Error, Failure, JUnitXml, Properties, Property, Skipped, TestCase, TestSuite

    suite = TestSuite(f"mobilekit validate {plain(report.model)}")
    for name, value in (
        ("device", report.device.model or report.device.serial),
        ("runner", f"{report.device.runner} {report.device.runner_version}"),
        *(() if report.device.vulkan is None else (("gpu", report.device.vulkan.describe()),)),
        ("reference", f"{report.reference.name} {report.reference.version}"),
        ("verdict", report.verdict.value),
        ("sentence", report.sentence),
        ("p50_ms", "" if report.latency is None else f"{report.latency.p50_ms:.4g}"),
    ):
        suite.add_property(name, plain(value, 400))
    of = f"{plain(report.model)}.{report.target}.{report.precision}"
    for output in report.outputs:
        case = TestCase(plain(output.name), classname=of)
        if output.verdict is Verdict.FAIL:
            case.result = [Failure(plain(why(output), 1000))]
        elif output.verdict is Verdict.INCONCLUSIVE:
            case.result = [Skipped(plain(output.reason, 1000))]
        measured = Properties()
        for name, number in (
            ("relative_l2", output.relative_l2),
            ("max_abs", output.max_abs),
            ("cosine", output.cosine),
        ):
            measured.add_property(Property(name, f"{number:.9g}"))
        case.append(measured)
        suite.add_testcase(case)
    for metric in report.metrics:
        if metric.least is None:
            continue
        case = TestCase(plain(f"metric {metric.name}"), classname=of)
        if not metric.passes:
            case.result = [Failure(plain(f"{metric.mean:.4g} is below {metric.least:g}"))]
        suite.add_testcase(case)
    if report.stopped is not None:
        case = TestCase("every sample", classname=of)
        case.result = [Error(plain(f"stopped after {report.stopped.done} samples: {report.stopped.error}", 1000))]
        suite.add_testcase(case)
    xml = JUnitXml()
    xml.add_testsuite(suite)
    made: bytes = xml.tostring()
    return made.decode("utf-8")
