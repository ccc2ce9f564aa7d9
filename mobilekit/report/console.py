"""A report as a table for the terminal. Every name in it is untrusted: shown as text, control characters escaped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

from mobilekit.report.figures import error_of, limit_of, relative, short_ms, why, worst_of
from mobilekit.report.fit import Fitting
from mobilekit.validate.tolerance import Verdict

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from mobilekit.report.ladder import LadderReport
    from mobilekit.report.model import LatencyReport, OutputReport, RunSettings, ValidationReport

__all__ = ["doubts", "kernels_off", "plain", "render"]

_STYLE = {Verdict.PASS: "bold green", Verdict.FAIL: "bold red", Verdict.INCONCLUSIVE: "bold yellow"}
_MOST_OUTPUTS = 16
_MOST_ANSWERS = 5
_WHOLE_NAMES = "whole names"
_DISPENSABLE = (_WHOLE_NAMES, "max abs", "cosine", "top-1", "limit", "relative L2")
"""Columns of the outputs' table, the first to go first; but before that long names are folded."""
_NAME_WIDTH = 20
_DRIFT = 0.1
_THROTTLED = 0.1


def plain(text: str, limit: int = 100) -> str:
    """The text without anything a terminal would act on, and no longer than ``limit``."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def render(report: ValidationReport) -> RenderableType:
    """The report for ``rich``: what ran where, the errors of each output, the verdict, the latency, the answer."""
    from rich.box import ROUNDED
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    facts = Table(box=ROUNDED, show_header=False, title=Text(f"mobilekit validate: {plain(report.model)}"))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(report):
        facts.add_row(Text(name), value if not isinstance(value, str) else Text(value))
    parts: list[RenderableType] = [facts, Fitting(partial(_outputs, report.outputs), _DISPENSABLE)]
    if len(report.outputs) > 1:
        telling = [output for output in report.outputs if output.verdict is not Verdict.PASS]
        parts += [Text(plain(f"{one.name}: {one.verdict.value}: {why(one)}", 300)) for one in telling[:_MOST_OUTPUTS]]
    if report.ladder is not None:
        parts.append(_ladder(report.ladder))
        parts += [
            Text(plain(f"left out: {rung.name}: {rung.omitted}", 200)) for rung in report.ladder.rungs if rung.omitted
        ]
        # Which GPU, and how much of the model ran there: the name of the rung does not say.
        parts += [
            Text(plain(f"{rung.name}: {rung.title}", 300))
            for rung in report.ladder.rungs
            if rung.name == "device gpu" and not rung.omitted
        ]
        parts.append(Text(plain(f"ladder: {report.ladder.sentence}", 400)))
    parts.append(
        Text.assemble((report.verdict.value.upper(), _STYLE[report.verdict]), f": {plain(report.sentence, 400)}")
    )
    return Group(*parts)


def _facts(report: ValidationReport) -> list[tuple[str, str | Text]]:
    from rich.text import Text

    from mobilekit.report import endurance, instructions, sweep
    from mobilekit.report.gpu import rows as gpu_rows

    device, settings = report.device, report.settings
    named = device.model.startswith(device.manufacturer)
    where = (device.model if named else f"{device.manufacturer} {device.model}") or device.serial
    system = f", Android {device.android}" if device.android else ""
    serial = f" ({device.serial})" if device.serial != where else ""
    virtual = f", virtual{': ' + device.cpu_profile if device.cpu_profile else ''}" if device.virtual else ""
    features = " ".join(device.cpu_features) or "none reported"
    source = {"seeded": f"seed {settings.seed}", "files": "your files", "recorded": "recorded"}[settings.inputs]
    on = f" on {report.reference.gpu}" if report.reference.gpu else ""
    arithmetic = "" if settings.precision == report.precision else f" weights, {settings.precision} arithmetic"
    rows: list[tuple[str, str | Text]] = [
        ("model", plain(report.model)),
        ("target, precision", f"{report.target}, {report.precision}{arithmetic}"),
        ("device", plain(f"{where}{serial}{system}{virtual}", 160)),
        *(
            []
            if device.kind in ("gpu", "prepared")
            else [("ABI, CPU features", plain(f"{device.abi}: {features}", 160))]
        ),
        ("computed by", plain(f"{device.runner} {device.runner_version}")),
        *_vulkan(report),
        ("reference", plain(f"{report.reference.name} {report.reference.version}{on}")),
        ("samples", f"{len(report.samples)} ({source})"),
        ("worst error", _worst(report.outputs)),
        ("verdict", Text(report.verdict.value.upper(), style=_STYLE[report.verdict])),
        ("latency p50 / p90", _latency(report)),
        ("latency spread", _spread(report)),
        ("load, peak memory", _memory(report)),
        *(
            (name, plain(value, 300))
            for name, value in endurance.rows(report.sustained, report.single_stream, report.cool_downs)
        ),
    ]
    rows += [("threads, cores" if index == 0 else "", sweep.line(row)) for index, row in enumerate(report.sweep)]
    if report.instructions is not None:
        rows.append(("instructions", plain(instructions.cost(report.instructions), 200)))
        rows += [("ISA paths", plain(line, 200)) for line in instructions.paths(report.instructions)]
    if (held := report.device_time) is not None:
        share = held.inference_ms / held.wall_ms
        rows.append(("device time", f"{held.wall_ms / 1e3:.1f} s, {share:.0%} of it in inference"))
    if report.gpu is not None:
        rows += [(name, plain(value, 200)) for name, value in gpu_rows(report.gpu)]
    for metric in report.metrics:
        wanted = "" if metric.least is None else f" (at least {metric.least:g} wanted)"
        worst = f"worst {metric.worst:.4f}: {metric.worst_sample}"
        rows.append((plain(metric.name, 30), plain(f"{metric.mean:.4f}{wanted}, {worst}")))
    if report.accuracy is not None:
        told = f"device {report.accuracy.device:.1%}, reference {report.accuracy.reference:.1%}"
        rows.append(("accuracy", f"{told} of {report.accuracy.samples} samples"))
    rows += [("answer", text) for text in _answers(report)]
    return rows


def _vulkan(report: ValidationReport) -> list[tuple[str, str | Text]]:
    from mobilekit.report.vulkan import fallback

    vulkan = report.device.vulkan
    return [] if vulkan is None else [("GPU", plain(f"{vulkan.describe()}; {fallback(report.layers_on_cpu)}", 300))]


def _worst(outputs: Sequence[OutputReport]) -> str:
    output = worst_of(outputs)
    if output is None:
        return "the model has no outputs"
    if not output.evidence:
        return plain(f"max abs {_number(output.max_abs)} in {output.name}")
    where = f" of {output.part.what}" if output.part is not None else ""
    return plain(f"relative L2 {error_of(output, '.2e').removesuffix(' in a part')}{where} in {output.name}")


def _latency(report: ValidationReport) -> str:
    latency = report.latency
    if latency is None:
        return "not measured"
    text = f"{short_ms(latency.p50_ms)} / {short_ms(latency.p90_ms)} ms"
    if latency.batch > 1:
        text += f" for {latency.batch} samples, {short_ms(latency.p50_ms / latency.batch)} ms a sample"
    return text if latency.comparable else f"{text} (not comparable: {plain(latency.remark)})"


def _spread(report: ValidationReport) -> str:
    latency = report.latency
    if latency is None:
        return ""
    count = report.settings.threads
    threads = f", {count} thread{'s' if count > 1 else ''}" if count else ""
    if report.settings.cluster != "all":
        threads += f" on the {report.settings.cluster} cores"
    threads += "".join(f", no {name}" for name in kernels_off(report.settings))
    threads += ", as tuned" if report.settings.tuned else ""
    interval = f"p50 within {short_ms(latency.p50_low_ms)} to {short_ms(latency.p50_high_ms)} ms"
    figures = f"p95 {short_ms(latency.p95_ms)}, p99 {short_ms(latency.p99_ms)} ms, CV {latency.cv:.0%}"
    return "; ".join([interval, figures, f"{latency.iterations} runs{threads}", *doubts(latency)])


def kernels_off(settings: RunSettings) -> list[str]:
    """What ncnn did without."""
    return [name for name, on in (("winograd", settings.winograd), ("packing", settings.packing)) if not on]


def doubts(latency: LatencyReport) -> list[str]:
    """What speaks against taking these times for the model's."""
    found = []
    if latency.warmup_stable is False:
        found.append("the times had NOT settled when timing began")
    if latency.outliers:
        found.append(f"{latency.outliers} outlier{'s' if latency.outliers > 1 else ''}")
    if abs(latency.drift) > _DRIFT and latency.comparable:
        found.append(f"the last third {latency.drift:+.0%} against the first")
    speeds, heat = latency.frequencies_khz, latency.temperatures_celsius
    if speeds is not None and speeds[1] < (1 - _THROTTLED) * speeds[0]:
        warm = f" at {heat[1]:.0f} °C" if heat is not None else ""
        found.append(f"throttled: the cores' frequencies fell by {1 - speeds[1] / speeds[0]:.0%}{warm}")
    return found


def _memory(report: ValidationReport) -> str:
    parts = [f"{report.load_ms:.1f} ms"] if report.load_ms is not None else ["not measured"]
    if report.first_ms is not None:
        parts.append(f"first inference {report.first_ms:.1f} ms")
    if report.peak_blob_bytes is not None:
        parts.append(f"{report.peak_blob_bytes / 1e6:.2f} MB of blobs")
    if report.peak_workspace_bytes is not None:
        parts.append(f"{report.peak_workspace_bytes / 1e6:.2f} MB of workspace")
    return ", ".join(parts)


def _answers(report: ValidationReport) -> list[str]:
    lines = []
    for answer in report.answers[:_MOST_ANSWERS]:
        device = f"{plain(answer.device_label)} {answer.device_probability:.1%}"
        reference = f"{plain(answer.reference_label)} {answer.reference_probability:.1%}"
        verb = "agrees" if answer.agrees else "DISAGREES"
        lines.append(f"{plain(answer.sample, 40)}: {device}; the reference {verb}: {reference}")
    if len(report.answers) > _MOST_ANSWERS:
        same = sum(answer.agrees for answer in report.answers)
        lines.append(f"the same class in {same} of {len(report.answers)} samples")
    return lines


def _outputs(outputs: Sequence[OutputReport], without: Collection[str]) -> Table:
    from rich.box import ROUNDED
    from rich.table import Table
    from rich.text import Text

    table = Table(box=ROUNDED)
    folded = _NAME_WIDTH if _WHOLE_NAMES in without else None
    table.add_column("output", overflow="fold", min_width=10, max_width=folded)
    cells: dict[str, Callable[[OutputReport], str]] = {
        "relative L2": lambda output: error_of(output, ".2e"),
        "limit": lambda output: limit_of(output, ".2e"),
        "max abs": lambda output: _number(output.max_abs),
        "cosine": lambda output: relative(output, output.cosine, ".7f"),
    }
    if any(output.top1_agreement is not None for output in outputs):
        cells["top-1"] = lambda output: "" if output.top1_agreement is None else f"{output.top1_agreement:.0%}"
    cells = {name: cell for name, cell in cells.items() if name not in without}
    for name in cells:
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    table.add_column("verdict", no_wrap=True)
    ranked = outputs
    if len(outputs) > _MOST_OUTPUTS:
        ranked = sorted(outputs, key=lambda o: (o.verdict is not Verdict.FAIL, not o.evidence, -o.relative_l2))
        ranked = ranked[:_MOST_OUTPUTS]
    for output in ranked:
        table.add_row(
            Text.assemble(plain(output.name), ("\n" + ("x".join(map(str, output.shape)) or "scalar"), "dim")),
            *(cell(output) for cell in cells.values()),
            Text(output.verdict.value, style=_STYLE[output.verdict]),
        )
    if len(outputs) > len(ranked):
        table.caption = f"the {len(ranked)} worst of {len(outputs)} outputs"
    return table


def _ladder(ladder: LadderReport) -> RenderableType:
    from rich.box import ROUNDED
    from rich.table import Table
    from rich.text import Text

    table = Table(box=ROUNDED, title="ladder")
    table.add_column("rung", no_wrap=True)
    for name in ("from the original", "in this step", "limit"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for rung in ladder.rungs:
        worst = rung.worst
        if worst is None:
            if not rung.omitted:
                table.add_row(Text(rung.name), "", "", "", "")
            continue
        table.add_row(
            Text(rung.name, style="bold red" if rung.name == ladder.lost_at else ""),
            _number(worst.relative_l2),
            "" if worst.step is None else _number(worst.step),
            "" if worst.rtol is None else _number(worst.rtol),
            Text(rung.verdict.value, style=_STYLE[rung.verdict]) if rung.verdict is not None else "",
        )
    return table


def _number(value: float) -> str:
    return f"{value:.2e}"
