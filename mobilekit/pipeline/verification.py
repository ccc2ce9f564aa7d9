"""Verification of an export: the ncnn model, run on this machine, against ONNX Runtime on the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import REPORT_IT, ModelError, VerificationError

if TYPE_CHECKING:
    from mobilekit.bundle import Manifest
    from mobilekit.child import Child
    from mobilekit.importers.onnx import SourceModel
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.passes.nonfinite import NonFinite
    from mobilekit.pipeline.export import ExportOptions
    from mobilekit.progress import Progress
    from mobilekit.runners.ort import OrtRunner
    from mobilekit.tensors import NamedTensors
    from mobilekit.validate.inputs import Sample
    from mobilekit.validate.tolerance import Judgement, Tolerance

__all__ = ["original", "remark_silence", "verify"]


def original(
    source: SourceModel, manifest: Manifest | None = None, *, optimise: bool = True, jitter: int = 0
) -> OrtRunner:
    """ONNX Runtime on the original. A dynamic model's ``manifest`` says which axes its inputs leave open. ``jitter``:
    as of :class:`~mobilekit.runners.ort.OrtRunner`."""
    from mobilekit.runners.ort import OrtRunner

    inputs = manifest.inputs if manifest is not None else ()
    free = {info.name: [axis.axis for axis in info.free] for info in inputs}
    return OrtRunner(source.path, fixed=source.fixed, free=free, optimise=optimise, jitter=jitter)


def verify(
    root: Path,
    manifest: Manifest,
    source: SourceModel,
    reference: OrtRunner,
    options: ExportOptions,
    progress: Progress,
    process: Child | None = None,
) -> tuple[Mapping[str, TensorError], bool]:
    """Run the built model and the original on the same inputs: the worst error of each output, and whether they
    prove anything (outputs that are zero or constant do not).

    Fixed limits are asked first, since they cost nothing; what half precision must cost on this model only where they
    do not let a sample pass. ``process``: what :func:`~mobilekit.runners.ncnn_host.start_process` gave.
    Raises :class:`VerificationError` naming each output that is out of tolerance.
    """
    from mobilekit.bundle import Bundle
    from mobilekit.metrics.tensors import compare
    from mobilekit.passes.nonfinite import listed
    from mobilekit.pipeline.int8_layers import wrong_int8
    from mobilekit.pipeline.place import LOCAL
    from mobilekit.runners.base import RunOptions
    from mobilekit.runners.batch import sample_by_sample
    from mobilekit.runners.ncnn_host import NcnnHostRunner
    from mobilekit.validate.doubt import Doubt, input_step
    from mobilekit.validate.inputs import samples_of
    from mobilekit.validate.tolerance import FAINT_FLOOR, Verdict, judge, overall, tolerance_for

    run = RunOptions(fp16=options.precision == "fp16", timeout_s=options.timeout_s)
    fixed = replace(tolerance_for(options.precision).at_least(manifest.rtol), picks=manifest.picks)
    tolerance = fixed if manifest.rtol is not None else replace(fixed, faint=FAINT_FLOOR)
    measured: dict[str, list[TensorError]] = {info.name: [] for info in manifest.outputs}
    judged: dict[str, list[Judgement]] = {info.name: [] for info in manifest.outputs}
    names: list[str] = []
    wanted, without = max(options.samples, len(manifest.sizes)), list[str]()
    spare = 0 if manifest.sizes else _SPARE
    ncnn = sample_by_sample(
        manifest, lambda one: NcnnHostRunner(root, one, timed=False, started=process, progress=progress)
    )
    doubts = Doubt(
        lambda: original(source, manifest, optimise=False),
        input_step(manifest.rtol),
        None if manifest.rtol is None else lambda seed: original(source, manifest, jitter=seed),
    )
    with reference, doubts as doubt, ncnn as converted:
        for sample in samples_of(manifest, None, seed=options.seed, count=wanted + spare):
            if len(names) == wanted:
                break
            expected = reference.run(sample.tensors, run).outputs
            if len(without) < spare and _has_no_answer(expected):
                without.append(sample.name)
                continue
            names.append(sample.name)
            actual = converted.run(sample.tensors, run).outputs
            errors = {name: compare(actual[name], expected[name]) for name in measured}
            verdicts = {name: judge(error, tolerance) for name, error in errors.items()}
            failing = {name: errors[name].relative_l2 for name, v in verdicts.items() if v.verdict is Verdict.FAIL}
            if options.precision == "int8" or failing:
                own = doubt.of(sample.tensors, expected, run, failing)
                limits = _derived(root, manifest, options, sample, fixed, errors, progress)
                verdicts = {
                    name: judge(error, limits.get(name, fixed), own.get(name, 0.0)) for name, error in errors.items()
                }
            for name, error in errors.items():
                measured[name].append(error)
                judged[name].append(verdicts[name])
                if error.moved and verdicts[name].verdict is Verdict.PASS:
                    progress.note(f"output {name!r}, {sample.name}: {verdicts[name].reason}")
    if without:
        progress.note(
            f"the original answers NaN or infinity throughout to {', '.join(without)}; other inputs were taken"
        )
    bad: tuple[NonFinite, ...] = ()
    if any(error.nonfinite_expected for errors in measured.values() for error in errors):
        bad = _nonfinite_weights(source)
        if any(weight.nan for weight in bad):
            raise ModelError(
                f"the model's weights hold NaN, and so do its outputs in ONNX Runtime: {listed(bad)}",
                hint="its training diverged, or the file is damaged; --no-verify exports it all the same",
            )
    wrong = [
        f"{name}: {verdict.reason} ({sample})"
        for name, every in judged.items()
        for sample, verdict in zip(names, every, strict=True)
        if verdict.verdict is Verdict.FAIL
    ]
    if wrong_layer := wrong_int8(Bundle(root, manifest), LOCAL, None, options.seed, run, progress=progress):
        wrong.append(wrong_layer)
    if wrong:
        raise VerificationError(
            "the converted model does not compute what the original does; nothing was written\n  " + "\n  ".join(wrong),
            hint=_what_to_do(measured, options, bad, manifest.rtol),
        )
    if bad:
        progress.note(f"the model's weights hold infinities, and so do its outputs: {listed(bad)}")
    if manifest.rtol is not None:
        progress.note(f"{manifest.rtol_reason}; relative L2 up to {manifest.rtol:g} is allowed")
    remark_silence(judged, progress)
    return {name: _worst(every) for name, every in measured.items()}, overall(
        verdict for every in judged.values() for verdict in every
    ) is Verdict.PASS


def remark_silence(judged: Mapping[str, Sequence[Judgement]], progress: Progress) -> None:
    """Tell of each output (``judged`` has its samples) that they prove nothing, and why."""
    from mobilekit.validate.tolerance import Verdict, overall

    for name, every in judged.items():
        silent = [verdict for verdict in every if verdict.verdict is Verdict.INCONCLUSIVE]
        if silent and overall(every) is Verdict.INCONCLUSIVE:
            progress.note(f"verification says little about output {name!r}: {silent[0].reason}")
        elif beyond := [verdict for verdict in silent if verdict.beyond]:
            progress.note(
                f"{len(beyond)} of {len(every)} inputs prove nothing about output {name!r}: {beyond[0].reason}"
            )


_SPARE = 6
"""So many inputs more are drawn where the original has no answer to the first: ids that happen to be all padding."""


def _has_no_answer(outputs: NamedTensors) -> bool:
    import numpy as np

    return any(array.size and array.dtype.kind == "f" and not np.isfinite(array).any() for array in outputs.values())


def _derived(
    root: Path,
    manifest: Manifest,
    options: ExportOptions,
    sample: Sample,
    fixed: Tolerance,
    errors: Mapping[str, TensorError],
    progress: Progress,
) -> Mapping[str, Tolerance]:
    """``fixed``, or wider where half precision by itself costs more on ``sample``, and what the number format leaves of
    faint parts; by output. Those of int8 follow from what it costs and must give there."""
    if options.precision == "int8":
        return _int8_limits(root, manifest, options, sample, errors, progress)
    if options.precision == "fp32" and (manifest.rtol is not None or not any(e.faint for e in errors.values())):
        return {}
    import platform

    from mobilekit.bundle import Bundle
    from mobilekit.validate.rounding import NumberFormat, RoundingCost
    from mobilekit.validate.tolerance import derived

    form = NumberFormat()
    if options.precision == "fp16":
        form = NumberFormat("fp16", "fp16" if platform.machine().startswith(("arm", "aarch64")) else "fp32")
    # The files have no checksums yet, by which a cost could be found again.
    with RoundingCost(Bundle(root, manifest), form, cache=False) as cost:
        costs = cost.of(sample.tensors, options.timeout_s)
    limits = {name: derived(form, one) for name, one in costs.items()}
    return {
        name: replace(
            fixed.at_least(limit.rtol) if options.precision == "fp16" else fixed,
            faint=limit.at_least(manifest.rtol).faint,
        )
        for name, limit in limits.items()
    }


def _int8_limits(
    root: Path,
    manifest: Manifest,
    options: ExportOptions,
    sample: Sample,
    errors: Mapping[str, TensorError],
    progress: Progress,
) -> Mapping[str, Tolerance]:
    from mobilekit.bundle import Bundle
    from mobilekit.pipeline.int8 import cost_of
    from mobilekit.validate.limits import Limits
    from mobilekit.validate.rounding import NumberFormat

    form = NumberFormat("int8")
    with cost_of(Bundle(root, manifest), form) as cost:
        limits = Limits(list(errors), form, cost, allowance=manifest.rtol, picks=manifest.picks)
        found = limits.of(sample.tensors, errors, options.timeout_s)
        if cost.unknown:
            progress.note(f"fixed limits hold: what int8 must give could not be computed ({cost.unknown})")
    return found


def _nonfinite_weights(source: SourceModel) -> tuple[NonFinite, ...]:
    """Those of the model as it is in the file, by the names it has there."""
    from mobilekit.importers.convert import from_proto
    from mobilekit.passes.nonfinite import nonfinite_weights

    return nonfinite_weights(from_proto(source.proto, source.path.parent))


def _what_to_do(
    measured: Mapping[str, Sequence[TensorError]],
    options: ExportOptions,
    bad: Sequence[NonFinite],
    allowance: float | None,
) -> str:
    from mobilekit.passes.nonfinite import listed
    from mobilekit.validate.doubt import rounds_while_running

    if bad:
        return f"the model's weights hold infinities, from which ncnn computes something else: {listed(bad)}"
    if any(error.nonfinite_expected for errors in measured.values() for error in errors):
        return (
            "ONNX Runtime itself gives NaN or infinities on these seeded inputs, which do not suit the model: "
            "export with --no-verify, then validate with --inputs DIR of real ones"
        )
    if options.drop_fake_quant:
        return (
            "the original's roundings matter here (ranges that do not suit the inputs, a softmax that cannot decide): "
            "leave --drop-fake-quant out, export the float original, or validate on real inputs after --no-verify"
        )
    if options.precision == "int8":
        return (
            "int8 is too coarse for this model on these inputs, or the calibration inputs are unlike them: "
            "try --calib-method, more or other inputs, or --precision fp16"
        )
    if options.precision == "fp16":
        return "half precision is too coarse for this model on these inputs: use --precision fp32, or try real inputs"
    if rounds_while_running(allowance):
        return (
            "the original rounds tensors to 8 bits while it runs, which by itself may change its answers to seeded "
            "inputs by as much: export the float original; or use --no-verify, then validate on real ones"
        )
    return REPORT_IT


def _worst(errors: Sequence[TensorError]) -> TensorError:
    """Over the samples that say something, where any does."""
    from mobilekit.metrics.tensors import worst

    return worst([error for error in errors if error.evidence] or errors)
