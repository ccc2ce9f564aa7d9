"""A validation as Markdown, for a comment on a pull request. Names are code spans, so that none becomes markup."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mobilekit.report import endurance, instructions
from mobilekit.report.console import plain
from mobilekit.report.figures import error_of, limit_of, why
from mobilekit.validate.tolerance import Verdict

if TYPE_CHECKING:
    from mobilekit.report.model import ValidationReport

__all__ = ["dumps"]

_SIGN = {Verdict.PASS: "✅", Verdict.FAIL: "❌", Verdict.INCONCLUSIVE: "❔"}


def code(text: str, limit: int = 200) -> str:
    """A code span that holds in a table: fenced by more backticks than it holds, pipes escaped."""
    shown = plain(text, limit).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall(r"`+", shown)), default=0) + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") or not shown else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def dumps(report: ValidationReport) -> str:
    where = report.device.model or report.device.serial
    lines = [
        f"### {_SIGN[report.verdict]} {code(report.model)}: {report.verdict.value}",
        "",
        f"{report.target} {report.precision} on {code(where)} against {code(report.reference.name)}, "
        f"{len(report.samples)} samples",
        "",
        code(report.sentence, 400),
        "",
        "| output | verdict | relative L2 | limit | max abs | why |",
        "|---|---|---|---|---|---|",
    ]
    for output in report.outputs:
        lines.append(
            f"| {code(output.name)} | {_SIGN[output.verdict]} {output.verdict.value} | "
            f"{error_of(output, '.3g')} | {limit_of(output)} | {output.max_abs:.3g} | "
            f"{code(why(output))} |"
        )
    for metric in report.metrics:
        least = "" if metric.least is None else f", at least {metric.least:g} wanted"
        sign = "" if metric.least is None else f"{_SIGN[Verdict.PASS if metric.passes else Verdict.FAIL]} "
        worst = f"worst {metric.worst:.4g} in {code(metric.worst_sample)}"
        lines += ["", f"{sign}{code(metric.name)}: {metric.mean:.4g}{least}, {worst}"]
    if (right := report.accuracy) is not None:
        shares = f"device {right.device:.1%}, reference {right.reference:.1%}"
        lines += ["", f"Accuracy: {shares} of {right.samples} samples"]
    if report.answers:
        same = sum(answer.agrees for answer in report.answers)
        lines += ["", f"The same class in {same} of {len(report.answers)} samples"]
    if report.ladder is not None:
        lines += ["", f"Ladder: {code(report.ladder.sentence, 400)}"]
    found = report.latency
    if found is not None:
        remark = "" if found.comparable else f" ({code(found.remark)}: not comparable)"
        lines += ["", f"Latency p50 {found.p50_ms:.3g} ms, p90 {found.p90_ms:.3g} ms, CV {found.cv:.1%}{remark}"]
    for name, said in endurance.rows(report.sustained, report.single_stream, report.cool_downs):
        lines += ["", f"{name.capitalize()}: {code(said)}"]
    if report.instructions is not None:
        told = (instructions.cost(report.instructions), *instructions.paths(report.instructions))
        lines += ["", f"Instructions: {', '.join(map(code, told))}"]
    lines += ["", f"<sub>mobilekit {report.mobilekit_version}, model {code(report.model_sha256[:12])}</sub>"]
    return "\n".join(lines) + "\n"
