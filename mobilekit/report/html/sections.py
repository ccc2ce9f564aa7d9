"""The parts of the page, in order. Each takes the :class:`~mobilekit.report.html.Subject` and gives an element, or
``None`` where it has nothing to show; ``@section`` puts it into :data:`SECTIONS`."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mobilekit.report.console import doubts
from mobilekit.report.html.build import Element, element, figure, table
from mobilekit.report.html.charts import Bar, bars, histogram, series
from mobilekit.validate.tolerance import Verdict

if TYPE_CHECKING:
    from mobilekit.report.html import Subject
    from mobilekit.report.model import OutputReport, SampleErrors, ValidationReport

__all__ = ["SECTIONS", "section", "worst_samples"]

SECTIONS: list[Callable[[Subject], Element | None]] = []
_MOST_CARDS = 12


def section(draw: Callable[[Subject], Element | None]) -> Callable[[Subject], Element | None]:
    SECTIONS.append(draw)
    return draw


def _part(title: str, *children: Element | str | None) -> Element:
    return element("section", element("h2", title), *children)


def _word(verdict: Verdict) -> Element:
    return element("span", verdict.value, class_=f"word {verdict.value}")


def _milliseconds(value: float) -> str:
    return f"{value:.3g} ms"


@section
def verdict(subject: Subject) -> Element:
    report = subject.report
    where = report.device.model or report.device.serial
    remark = "" if report.latency is None or report.latency.comparable else ", times are an emulator's"
    return element(
        "header",
        element("h1", report.model),
        element(
            "div", element("div", report.verdict.value, class_="word"), element("div", report.sentence),
            class_=f"verdict {report.verdict.value}",
        ),
        element("p", f"{report.target}, {report.precision}, on {where}{remark}", class_="faint"),
    )  # fmt: skip


@section
def outputs(subject: Subject) -> Element:
    rows = [_output_row(output) for output in subject.report.outputs]
    header = ["output", "verdict", "relative L2", "limit", "cosine", "PSNR", "max abs", "top-1", "why"]
    return _part("Outputs", table(header, rows, caption="each output's worst sample, against the reference"))


def _output_row(output: OutputReport) -> list[Element | str]:
    limit = output.limits.rtol
    return [
        element("span", output.name, element("br"), element("span", _shape(output), class_="faint")),
        _word(output.verdict),
        f"{output.relative_l2:.3g}",
        "-" if limit is None else f"{limit:.3g}",
        f"{output.cosine:.9f}",
        f"{output.psnr_db:.1f} dB",
        f"{output.max_abs:.3g}",
        "-" if output.top1_agreement is None else f"{output.top1_agreement:.1%}",
        output.reason,
    ]


def _shape(output: OutputReport) -> str:
    return f"{output.dtype} {'x'.join(map(str, output.shape)) or 'scalar'}"


@section
def ladder(subject: Subject) -> Element | None:
    """Every step between the original and the device, and how far each lies from the first."""
    found = subject.report.ladder
    if found is None:
        return None
    marks = [
        Bar(rung.title or rung.name, rung.worst.relative_l2, rung.verdict.value if rung.verdict else "")
        for rung in found.rungs
        if rung.worst is not None
    ]
    rows: list[list[Element | str]] = []
    for rung in found.rungs:
        worst = rung.worst
        if rung.omitted:
            rows.append([rung.title or rung.name, "-", "-", "-", f"left out: {rung.omitted}"])
        elif worst is not None:
            step = "-" if worst.step is None else f"{worst.step:.3g}"
            judged = _word(rung.verdict) if rung.verdict else "-"
            rows.append([rung.title or rung.name, judged, f"{worst.relative_l2:.3g}", step, worst.reason])
    header = ["step", "verdict", "from the first", "from the one before", "why"]
    chart = bars(marks, "error of each step", unit="relative L2", log=True)
    drawn = figure(chart, "relative L2 of each step from the first") if chart is not None else None
    return _part(
        "Ladder", element("p", found.sentence), drawn, table(header, rows, caption="worst output of each step")
    )


@section
def errors(subject: Subject) -> Element | None:
    """How the error is spread over the samples, output by output."""
    drawn = []
    for output in subject.report.outputs:
        found = [(one.name, one.relative_l2[output.name]) for one in subject.report.sample_errors]
        name = f"errors of {output.name} over {len(found)} samples"
        chart = histogram([error for _, error in found], name, unit="relative L2", limit=output.limits.rtol, log=True)
        if chart is not None and len(found) > 1:
            data = table(["sample", "relative L2"], [[sample, f"{error:.6g}"] for sample, error in found[:500]])
            drawn.append(figure(chart, f"{output.name}: relative L2 of each sample, and its limit", data))
    return _part("Errors", *drawn) if drawn else None


@section
def samples(subject: Subject) -> Element | None:
    """The worst samples, with their pictures and both sides' answers."""
    report = subject.report
    answers = {pair.sample: pair for pair in report.answers}
    ranked = worst_samples(report)[:_MOST_CARDS]
    cards = []
    for one in ranked:
        picture, pair = subject.pictures.get(one.name), answers.get(one.name)
        if picture is None and pair is None and len(report.sample_errors) < 2:
            continue
        shown = None
        if picture is not None:
            source = "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode()
            shown = element("img", alt=f"the sample {one.name}", width=picture.width, height=picture.height)
            shown.set("src", source)
        said = None
        if pair is not None:
            said = element(
                "dl",
                element("dt", "reference"), element("dd", f"{pair.reference_label} {pair.reference_probability:.1%}"),
                element("dt", "device"), element("dd", f"{pair.device_label} {pair.device_probability:.1%}"),
            )  # fmt: skip
        worst = max(one.relative_l2.items(), key=lambda item: item[1], default=("", 0.0))
        line = element("div", _word(one.verdict), f" {one.name}")
        error = element("div", f"relative L2 {worst[1]:.3g} ({worst[0]})", class_="faint")
        cards.append(element("div", shown, line, error, said, class_="card"))
    if not cards:
        return None
    more = len(report.sample_errors) - len(cards)
    note = element("p", f"and {more} more, all nearer to the reference", class_="faint") if more > 0 else None
    return _part("Worst samples", element("div", *cards, class_="grid"), note)


def worst_samples(report: ValidationReport) -> list[SampleErrors]:
    """All samples, those that failed first, then by error."""
    return sorted(report.sample_errors, key=_badness, reverse=True)


def _badness(one: SampleErrors) -> tuple[bool, float]:
    errors = list(one.relative_l2.values())
    # A NaN is worse than any number.
    return one.verdict is Verdict.FAIL, max((float("inf") if e != e else e for e in errors), default=0.0)


@section
def latency(subject: Subject) -> Element | None:
    found = subject.report.latency
    if found is None:
        return None
    rows = [
        ["p50", f"{_milliseconds(found.p50_ms)} ({found.p50_low_ms:.4g} to {found.p50_high_ms:.4g}, 95%)"],
        ["p90", _milliseconds(found.p90_ms)],
        ["p95", _milliseconds(found.p95_ms)],
        ["p99", _milliseconds(found.p99_ms)],
        ["mean", _milliseconds(found.mean_ms)],
        ["least, most", f"{_milliseconds(found.min_ms)}, {_milliseconds(found.max_ms)}"],
        ["CV", f"{found.cv:.1%}"],
        *([["doubts", "; ".join(said)]] if (said := doubts(found)) else []),
        *([["temperature", "{:.0f} to {:.0f} °C".format(*heat)]] if (heat := found.temperatures_celsius) else []),
    ]
    remark = f"{found.iterations} inferences" + (f" of {found.batch} samples each" if found.batch > 1 else "")
    if not found.comparable:
        remark += f"; not comparable with a real device: {found.remark}"
    charts = [
        figure(chart, caption)
        for chart, caption in (
            (histogram(found.values_ms, "latency histogram", unit="ms"), "how often which latency"),
            (series(found.values_ms, "latency over time", unit="ms", across="inference"), "one after another"),
        )
        if chart is not None
    ]
    return _part("Latency", element("p", remark, class_="faint"), table(["", "value"], rows), *charts)


@section
def side_by_side(subject: Subject) -> Element | None:
    if not subject.others:
        return None
    columns = [("this run", subject.report), *subject.others]
    rows: list[list[Element | str]] = [
        ["verdict", *(_word(report.verdict) for _, report in columns)],
        ["device", *(report.device.model or report.device.serial for _, report in columns)],
        ["precision", *(f"{report.precision}, {report.settings.precision} arithmetic" for _, report in columns)],
        ["p50", *("-" if r.latency is None else _milliseconds(r.latency.p50_ms) for _, r in columns)],
    ]
    for output in subject.report.outputs:
        rows.append([f"error of {output.name}", *(_error(report, output.name) for _, report in columns)])
    header = ["", *(name for name, _ in columns)]
    return _part("Side by side", table(header, rows, caption="runs of the same model"))


def _error(report: ValidationReport, name: str) -> str:
    return next((f"{output.relative_l2:.3g}" for output in report.outputs if output.name == name), "-")


@section
def fingerprint(subject: Subject) -> Element:
    report, device = subject.report, subject.report.device
    settings = report.settings
    facts: Sequence[tuple[str, str]] = [
        ("model sha256", report.model_sha256),
        ("licence", report.model_license),
        ("device", " ".join(filter(None, (device.manufacturer, device.model)))),
        ("serial", device.serial),
        ("Android", device.android),
        ("ABI", device.abi),
        ("CPU features", " ".join(device.cpu_features)),
        ("virtual", f"yes: {device.cpu_profile}" if device.virtual else ""),
        ("computed by", f"{device.runner} {device.runner_version}"),
        ("reference", f"{report.reference.name} {report.reference.version}"),
        ("arithmetic", settings.precision),
        ("threads", str(settings.threads or "the runner's choice")),
        ("inputs", "seeded" if settings.inputs == "seeded" else "the user's files"),
        ("samples", str(len(report.samples))),
        ("load", "-" if report.load_ms is None else _milliseconds(report.load_ms)),
        ("peak blobs", "" if report.peak_blob_bytes is None else f"{report.peak_blob_bytes / 1e6:.1f} MB"),
        ("mobilekit", report.mobilekit_version),
    ]
    pairs = [part for name, value in facts if value for part in (element("dt", name), element("dd", value))]
    return _part("What ran where", element("dl", *pairs))


@section
def again(subject: Subject) -> Element | None:
    if not subject.command:
        return None
    return _part("Once more", element("pre", element("code", subject.command), tabindex=0))
