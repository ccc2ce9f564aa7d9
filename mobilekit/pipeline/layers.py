"""A validated bundle layer by layer: where the time goes, and where it failed, the first bad layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mobilekit.errors import MobilekitError, UsageError
from mobilekit.pipeline.report import Beside
from mobilekit.progress import SILENT, Progress
from mobilekit.validate.tolerance import Verdict

if TYPE_CHECKING:
    from mobilekit.pipeline.validate import ValidateOptions
    from mobilekit.report.model import ValidationReport

__all__ = ["look_into_layers", "plan_drawn"]

_Found = TypeVar("_Found")


def look_into_layers(
    bundle: str | Path,
    device: str | None,
    options: ValidateOptions,
    report: ValidationReport,
    progress: Progress = SILENT,
) -> Beside:
    """A profile, and where ``report`` says fail a bisection, at the same device with the same inputs and settings.

    What cannot be had (no harness, a device that went away) is told as a note: the validation is worth its report
    without it. Raises :class:`UsageError` for a TensorRT plan, whose layers nobody sees.
    """
    from mobilekit.pipeline.bisect import BisectOptions, bisect_bundle
    from mobilekit.pipeline.profile import ProfileOptions, profile_bundle

    if report.target != "ncnn":
        raise UsageError("a plan's layers cannot be looked into", hint="leave --layers out, or add --target ncnn")

    def tried(what: str, work: Callable[[], _Found]) -> _Found | None:
        try:
            return work()
        except MobilekitError as error:
            progress.note(f"no {what}: {error.message}")
            return None

    inputs, seed, threads, precision = options.inputs, options.seed, options.threads, options.precision
    timing = ProfileOptions(inputs=inputs, seed=seed, threads=threads, precision=precision, timeout_s=options.timeout_s)
    profile = tried("profile", lambda: profile_bundle(bundle, device, timing, progress))
    if report.verdict is not Verdict.FAIL or report.settings.inputs == "recorded":
        return Beside(profile=profile)
    search = BisectOptions(
        inputs=inputs,
        samples=options.samples,
        seed=seed,
        threads=threads,
        precision=precision,
        timeout_s=options.timeout_s,
        quota_bytes=options.quota_bytes,
    )
    bisection = tried("bisection", lambda: bisect_bundle(bundle, device, search, progress))
    return Beside(profile=profile, bisection=bisection)


def plan_drawn(bundle: str | Path, report: ValidationReport, progress: Progress = SILENT) -> Beside | None:
    """What TensorRT fused, of a validated plan; a sidecar that cannot be drawn is told as a note."""
    from mobilekit.pipeline.inspect_plan import inspect_plan
    from mobilekit.report.fusion_graph import svg

    if report.target != "tensorrt":
        return None
    try:
        layers = inspect_plan(Path(bundle)).layers
        svg(layers)
    except MobilekitError as error:
        progress.note(f"no drawing of the plan: {error.message}")
        return None
    return Beside(plan=layers)
