"""The parts of the page, in order. Each takes the :class:`~mobilekit.report.html.Subject` and gives an element, or
``None`` where it has nothing to show; ``@section`` puts it into :data:`SECTIONS`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from mobilekit.report import instructions
from mobilekit.report.console import doubts, kernels_off
from mobilekit.report.figures import error_of, limit_of, relative, why
from mobilekit.report.gpu import rows as gpu_rows
from mobilekit.report.html.build import Element, element, figure, legend, prose, table
from mobilekit.report.html.charts import Bar, bars, histogram, series
from mobilekit.report.html.layers import bisection_parts, fusion_parts, profile_parts
from mobilekit.report.html.long import endurance_parts
from mobilekit.report.html.samples import cards
from mobilekit.report.vulkan import fallback
from mobilekit.validate.latency import outliers
from mobilekit.validate.tolerance import Verdict

if TYPE_CHECKING:
    from mobilekit.report.html import Subject
    from mobilekit.report.model import OutputReport, ValidationReport

__all__ = ["SECTIONS", "section"]

_INPUTS = {"seeded": "seeded, from {seed} on", "files": "the user's files", "recorded": "recorded with the reference"}
_MOST_CHARTS = 24
_MOST_NUMBERS = 500
SECTIONS: list[Callable[[Subject], Element | None]] = []


def section(draw: Callable[[Subject], Element | None]) -> Callable[[Subject], Element | None]:
    SECTIONS.append(draw)
    return draw


def _part(title: str, *children: Element | str | None) -> Element:
    return element("section", element("h2", title), *children)


def _word(verdict: Verdict) -> Element:
    return element("span", verdict.value, class_=f"word {verdict.value}")


def _facts(facts: Iterable[tuple[str, str]]) -> Element:
    return element("dl", *(part for name, value in facts for part in (element("dt", name), element("dd", value))))


def _milliseconds(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f} ms"
    return f"{value:.1f} ms" if value >= 10 else f"{value:.3g} ms"


@section
def verdict(subject: Subject) -> Element:
    report = subject.report
    where = report.device.model or report.device.serial
    remark = "" if report.latency is None or report.latency.comparable else ", whose times are not comparable"
    return element(
        "header",
        element("h1", report.model),
        element(
            "div", element("div", report.verdict.value, class_="word"), element("div", *prose(report.sentence)),
            class_=f"verdict {report.verdict.value}",
        ),
        element("p", f"{report.target}, {report.precision}, on {where}{remark}", class_="faint"),
        *([element("p", f"{stopped.error}. {stopped.hint}")] if (stopped := report.stopped) is not None else []),
    )  # fmt: skip


@section
def outputs(subject: Subject) -> Element:
    classifies = any(output.top1_agreement is not None for output in subject.report.outputs)
    rows = [_output_row(output, classifies) for output in subject.report.outputs]
    header = ["output", "verdict", "relative L2", "limit", "cosine", "PSNR", "max abs", *["top-1"] * classifies, "why"]
    return _part("Outputs", table(header, rows, caption="each output's worst sample, against the reference"))


def _output_row(output: OutputReport, classifies: bool) -> list[Element | str]:
    top1 = "-" if output.top1_agreement is None else f"{output.top1_agreement:.1%}"
    return [
        element("span", output.name, element("br"), element("span", _shape(output), class_="faint whole")),
        _word(output.verdict),
        error_of(output, ".3g"),
        limit_of(output),
        relative(output, output.cosine, ".8f"),
        relative(output, output.psnr_db, ".1f") + " dB" * output.evidence,
        f"{output.max_abs:.3g}",
        *[top1] * classifies,
        why(output),
    ]


def _shape(output: OutputReport) -> str:
    return f"{output.dtype} {'x'.join(map(str, output.shape)) or 'scalar'}"


@section
def task(subject: Subject) -> Element | None:
    """How far both sides agree in the terms of the task, and how right each is."""
    report = subject.report
    rows: list[list[Element | str]] = []
    for metric in report.metrics:
        judged = "-" if metric.least is None else _word(Verdict.PASS if metric.passes else Verdict.FAIL)
        least = "-" if metric.least is None else f"{metric.least:g}"
        rows.append([metric.name, judged, f"{metric.mean:.4f}", least, f"{metric.worst:.4f}", metric.worst_sample])
    header = ["metric", "verdict", "mean", "at least", "worst", "of sample"]
    agree = table(header, rows, caption="how far device and reference agree, 0 to 1") if rows else None
    right = None
    if (accuracy := report.accuracy) is not None:
        told = f"right by the given truth: device {accuracy.device:.1%}, reference {accuracy.reference:.1%}"
        right = element("p", f"{told} of {accuracy.samples} samples")
    return _part("Task", agree, right) if agree is not None or right is not None else None


@section
def ladder(subject: Subject) -> Element | None:
    """Every step between the original and the device, and how far each lies from the first."""
    found = subject.report.ladder
    if found is None:
        return None
    taken = [(rung, rung.worst) for rung in found.rungs if rung.worst is not None and not rung.omitted]
    marks = [
        Bar(rung.name, worst.relative_l2, rung.verdict.value if rung.verdict else "", f"{rung.title}: {worst.reason}")
        for rung, worst in taken
    ]
    rows: list[list[Element | str]] = [
        [
            element("span", rung.name, element("br"), element("span", rung.title, class_="faint")),
            _word(rung.verdict) if rung.verdict else "-",
            f"{worst.relative_l2:.3g}",
            "-" if worst.step is None else f"{worst.step:.3g}",
            worst.reason,
        ]
        for rung, worst in taken
    ]
    header = ["step", "verdict", "from the first", "from the one before", "why"]
    chart = bars(marks, "error of each step", unit="relative L2", log=True)
    drawn = figure(chart, "relative L2 of each step from the first") if chart is not None else None
    steps = table(header, rows, caption="worst output of each step") if rows else None
    omitted = [(rung.name, rung.omitted) for rung in found.rungs if rung.omitted]
    more = element("details", element("summary", f"{len(omitted)} left out"), _facts(omitted)) if omitted else None
    return _part("Ladder", element("p", found.sentence), drawn, steps, more)


@section
def errors(subject: Subject) -> Element | None:
    """How the error is spread over the samples, output by output."""
    drawn = []
    for output in subject.report.outputs[:_MOST_CHARTS]:
        found = [(one.name, one.relative_l2.get(output.name, math.nan)) for one in subject.report.sample_errors]
        name = f"errors of {output.name} over {len(found)} samples"
        chart = histogram([error for _, error in found], name, unit="relative L2", limit=output.limits.rtol, log=True)
        if chart is not None and len(found) > 1:
            rows = [[sample, f"{error:.6g}"] for sample, error in found[:_MOST_NUMBERS]]
            caption = f"{output.name}: relative L2 of each sample, and its limit{_undrawn(found)}"
            drawn.append(figure(chart, caption, table(["sample", "relative L2"], rows)))
    return _part("Errors", element("div", *drawn, class_="charts")) if drawn else None


def _undrawn(found: Sequence[tuple[str, float]]) -> str:
    """What a logarithmic axis has no place for."""
    exact = sum(error == 0 for _, error in found)
    broken = sum(not math.isfinite(error) for _, error in found)
    said = [f"{exact} without any error" if exact else "", f"{broken} not finite" if broken else ""]
    return f"; not drawn: {', '.join(filter(None, said))}" if any(said) else ""


@section
def samples(subject: Subject) -> Element | None:
    """The worst samples, with their pictures and both sides' answers."""
    grid = cards(subject)
    if grid is None:
        return None
    key = None
    if any(answer.boxes for answer in subject.report.shown):
        key = legend(("reference, broad", "theirs"), ("device, narrow", "ours"))
    elif any(answer.mask is not None for answer in subject.report.shown):
        key = legend(("on the device another class", "differs"))
    more = len(subject.report.sample_errors) - len(grid)
    note = element("p", f"and {more} more, all nearer to the reference", class_="faint") if more > 0 else None
    return _part("Worst samples", key, grid, note)


@section
def first_bad_layer(subject: Subject) -> Element | None:
    found = subject.bisection
    if found is None:
        return None
    said = element("p", _word(found.verdict), f" {found.sentence}")
    return _part("Error by layer", said, *bisection_parts(found))


@section
def latency(subject: Subject) -> Element | None:
    found = subject.report.latency
    if found is None:
        return None
    speeds = found.frequencies_khz
    facts = [
        ("p50", f"{_milliseconds(found.p50_ms)}, 95% within {found.p50_low_ms:,.4g} to {found.p50_high_ms:,.4g}"),
        ("p90, p95, p99", ", ".join(map(_milliseconds, (found.p90_ms, found.p95_ms, found.p99_ms)))),
        ("mean, CV", f"{_milliseconds(found.mean_ms)}, {found.cv:.1%}"),
        ("least, most", f"{_milliseconds(found.min_ms)}, {_milliseconds(found.max_ms)}"),
        *([("doubts", "; ".join(said))] if (said := doubts(found)) else []),
        *([("temperature", "{:.0f} to {:.0f} °C".format(*heat))] if (heat := found.temperatures_celsius) else []),
        *([("cores' clocks", "{:.1f} to {:.1f} GHz in all".format(*(khz / 1e6 for khz in speeds)))] if speeds else []),
    ]
    remark = f"{found.iterations} inferences" + (f" of {found.batch} samples each" if found.batch > 1 else "")
    if not found.comparable:
        remark += f"; not comparable with a real device: {found.remark}"
    far = outliers(found.values_ms)
    over_time = series(found.values_ms, "latency over time", unit="ms", across="inference", marked=far)
    charts = [
        figure(chart, caption)
        for chart, caption in (
            (histogram(found.values_ms, "latency histogram", unit="ms"), "how often which latency"),
            (over_time, "one after another" + (", outliers in red" if far else "")),
        )
        if chart is not None
    ]
    drawn = element("div", *charts, class_="charts")
    return _part("Latency", element("p", remark, class_="faint"), _facts(facts), drawn)


@section
def time_by_layer(subject: Subject) -> Element | None:
    return None if subject.profile is None else _part("Time by layer", *profile_parts(subject.profile))


@section
def fusions(subject: Subject) -> Element | None:
    return _part("What TensorRT fused", *fusion_parts(subject.plan)) if subject.plan else None


@section
def endurance(subject: Subject) -> Element | None:
    """The sustained run, the single stream, the waits before them."""
    parts = endurance_parts(subject.report)
    return _part("Long timings", *parts) if parts else None


@section
def threads_and_cores(subject: Subject) -> Element | None:
    rows = subject.report.sweep
    if not rows:
        return None
    chart = bars([Bar(row.name, row.p50_ms) for row in rows if row.p50_ms is not None], "time by threads", unit="ms")
    caption = "median milliseconds, in turns" + (": the emulator's" if subject.report.device.virtual else "")
    data = [
        [
            row.name,
            row.remark if row.p50_ms is None else f"{row.p50_ms:.3f}",
            "-" if row.p50_ms is None else f"{row.p50_low_ms:.3f} to {row.p50_high_ms:.3f}",
            str(row.runs),
        ]
        for row in rows
    ]
    return _part(
        "Threads and cores",
        figure(chart, caption) if chart is not None else None,
        table(["setting", "p50 ms", "within (95%)", "runs"], data),
    )


@section
def instruction_counts(subject: Subject) -> Element | None:
    """What an inference costs on an emulated CPU, and which of its extensions it used."""
    found = subject.report.instructions
    if found is None:
        return None
    rows: list[list[Element | str]] = [
        [path.name, "yes" if path.offered else "no", "-" if path.instructions is None else f"{path.instructions:,}"]
        for path in found.paths
    ]
    used = [Bar(path.name, path.instructions) for path in found.paths if path.instructions]
    drawn = bars(used, "instructions by extension", unit="instructions") if len(used) > 1 else None
    data = table(["extension", "the CPU has it", "instructions that need it"], rows) if rows else None
    return _part(
        "Instructions",
        element("p", f"{instructions.cost(found)}. {'; '.join(instructions.paths(found))}"),
        figure(drawn, "which extensions an inference used") if drawn is not None else None,
        data,
    )


@section
def side_by_side(subject: Subject) -> Element | None:
    if not subject.others:
        return None
    columns = [("this run", subject.report), *subject.others]
    rows: list[list[Element | str]] = [
        ["verdict", *(_word(report.verdict) for _, report in columns)],
        ["target", *(report.target for _, report in columns)],
        ["device", *(report.device.model or report.device.serial for _, report in columns)],
        ["precision", *(f"{report.precision}, {report.settings.precision} arithmetic" for _, report in columns)],
        ["samples", *(str(len(report.samples)) for _, report in columns)],
        ["p50", *("-" if r.latency is None else _milliseconds(r.latency.p50_ms) for _, r in columns)],
        ["p50 within (95%)", *(_interval(report) for _, report in columns)],
    ]
    for output in subject.report.outputs:
        rows.append([f"error of {output.name}", *(_error(report, output.name) for _, report in columns)])
    header = ["", *(name for name, _ in columns)]
    times = [
        Bar(name, report.latency.p50_ms, style="" if report.latency.comparable else "faded")
        for name, report in columns
        if report.latency is not None
    ]
    pale = "; pale: an emulator's, not comparable" * any(bar.style for bar in times)
    errors_ = [
        Bar(f"{name}: {output.name}" if len(report.outputs) > 1 else name, output.relative_l2, output.verdict.value)
        for name, report in columns
        for output in report.outputs[:_MOST_CHARTS]
    ]
    charts = [
        figure(chart, caption)
        for chart, caption in (
            (bars(errors_, "errors side by side", unit="relative L2", log=True), "relative L2 of each output"),
            (bars(times, "latency side by side", unit="ms"), "p50 in ms" + pale),
        )
        if chart is not None
    ]
    drawn = element("div", *charts, class_="charts")
    return _part("Side by side", table(header, rows, caption="runs of the same model"), drawn)


def _interval(report: ValidationReport) -> str:
    found = report.latency
    if found is None:
        return "-"
    text = f"{found.p50_low_ms:,.4g} to {found.p50_high_ms:,.4g}"
    return text if found.comparable else f"{text}, not comparable"


def _error(report: ValidationReport, name: str) -> str:
    return next((f"{output.relative_l2:.3g}" for output in report.outputs if output.name == name), "-")


@section
def fingerprint(subject: Subject) -> Element:
    report, device = subject.report, subject.report.device
    settings = report.settings
    facts: list[tuple[str, str]] = [
        ("model sha256", report.model_sha256),
        ("licence", report.model_license),
        ("device", " ".join(filter(None, (device.manufacturer, device.model)))),
        ("serial", device.serial),
        ("Android", device.android),
        ("ABI", device.abi),
        ("CPU features", " ".join(device.cpu_features)),
        ("virtual", f"yes: {device.cpu_profile}" if device.virtual else ""),
        ("computed by", f"{device.runner} {device.runner_version}"),
        ("GPU", "" if device.vulkan is None else f"{device.vulkan.describe()}; {fallback(report.layers_on_cpu)}"),
        ("reference", " ".join((report.reference.name, report.reference.version, report.reference.gpu)).strip()),
        ("arithmetic", settings.precision),
        ("threads", str(settings.threads or "the runner's choice")),
        ("cores", "" if settings.cluster == "all" else f"the {settings.cluster} ones"),
        ("left out", ", ".join(kernels_off(settings))),
        ("tuned", "as mobilekit tune found fastest for such a device" if settings.tuned else ""),
        ("inputs", _INPUTS[settings.inputs].format(seed=settings.seed)),
        ("samples", str(len(report.samples))),
        ("load", "-" if report.load_ms is None else _milliseconds(report.load_ms)),
        ("first inference", "" if report.first_ms is None else _milliseconds(report.first_ms)),
        ("peak blobs", "" if report.peak_blob_bytes is None else f"{report.peak_blob_bytes / 1e6:.1f} MB"),
        ("peak workspace", "" if not report.peak_workspace_bytes else f"{report.peak_workspace_bytes / 1e6:.1f} MB"),
        ("mobilekit", report.mobilekit_version),
    ]
    if report.gpu is not None:
        facts += gpu_rows(report.gpu)
    return _part("What ran where", _facts((name, value) for name, value in facts if value))


@section
def again(subject: Subject) -> Element | None:
    command = subject.report.command
    if not command:
        return None
    # A word stays whole: "-" and "-samples" on two lines is no option.
    words = [element("span", shlex.quote(word)) for word in command]
    spaced = [part for word in words for part in (word, " ")][:-1]
    return _part("To repeat it", element("pre", element("code", *spaced), tabindex=0))
