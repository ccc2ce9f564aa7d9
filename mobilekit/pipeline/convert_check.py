"""``mobilekit convert-check``: our converter and pnnx side by side on one model, both held against ONNX Runtime."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobilekit.errors import MobilekitError, UnsupportedModelError, UsageError, VerificationError
from mobilekit.paths import Scratch
from mobilekit.progress import SILENT, Progress

if TYPE_CHECKING:
    from mobilekit.bundle import Manifest, TensorInfo
    from mobilekit.importers.onnx import SourceModel
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.preprocess import Preprocess
    from mobilekit.runners.base import Runner, RunOptions
    from mobilekit.tensors import FixedValue, NamedTensors

__all__ = ["ConvertCheckOptions", "ConvertCheckReport", "Side", "convert_check"]

_ROUNDS = 5
_WARMUP = 3

Outcome = Literal["right", "wrong", "inconclusive", "does not run", "does not load", "refused", "failed"]


@dataclass(frozen=True, slots=True)
class ConvertCheckOptions:
    """``shapes`` and ``fixed`` as for an export. ``pnnx``: its binary (default: on PATH). ``threads`` and
    ``iterations`` of each timed round; ``timeout_s`` bounds each conversion and each run."""

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fixed: Mapping[str, FixedValue] = field(default_factory=dict)
    pnnx: Path | None = None
    threads: int = 2
    iterations: int = 10
    seed: int = 0
    samples: int = 2
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Side:
    """One converter. ``outcome``: what came of it, with ``reason`` in a sentence; ``errors``: the worst relative L2 of
    each output against ONNX Runtime; ``latency_ms``: the median over rounds in turn with the other side, of one
    inference (all samples of a batch); ``None`` for what was not reached."""

    converter: str
    outcome: Outcome
    reason: str = ""
    seconds: float | None = None
    errors: Mapping[str, float] = field(default_factory=dict)
    layers: int | None = None
    size_bytes: int | None = None
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ConvertCheckReport:
    """``speedup``: pnnx's latency over ours, the median of the rounds' ratios; ``None`` unless both are right."""

    model: str
    shapes: Mapping[str, tuple[int, ...]]
    reference: str
    ours: Side
    theirs: Side
    speedup: float | None
    sentence: str


def convert_check(
    model: str | Path, options: ConvertCheckOptions | None = None, progress: Progress = SILENT
) -> ConvertCheckReport:
    """Convert ``model`` (a path or a zoo id) with both, run both results on the same inputs, and compare.

    What a converter does wrong is a row of the report, whatever it is: refused, crashed, nothing written, not
    loaded, other numbers. Raises :class:`~mobilekit.errors.MissingToolError` where pnnx is not here,
    :class:`UsageError` for open shapes, ``ModelError`` for a file that is no model, and
    :class:`~mobilekit.errors.ChildError` where ONNX Runtime cannot run it.
    """
    from mobilekit import zoo
    from mobilekit.importers.onnx import load
    from mobilekit.pipeline.peers import find_pnnx
    from mobilekit.runners.base import RunOptions
    from mobilekit.runners.ort import OrtRunner

    options = options or ConvertCheckOptions()
    program = find_pnnx(options.pnnx)
    resolved = zoo.resolve(str(model), progress)
    entry = resolved.entry
    fixed = {**(entry.fixed if entry is not None else {}), **options.fixed}
    source = load(resolved.path, fixed)
    shapes = {**(entry.inputs if entry is not None else {}), **options.shapes}
    inputs = _inputs(source, shapes, progress)
    with Scratch("convert-check") as scratch:
        progress.step("converting with mobilekit")
        ours = _ours(model, scratch / "ours", options, shapes)
        if ours.manifest is not None:
            inputs = ours.manifest.inputs
        progress.step("running the original")
        run = RunOptions(threads=options.threads, timeout_s=options.timeout_s)
        samples = _samples(inputs, options, entry.preprocess if entry is not None else None)
        with OrtRunner(source.path, fixed=source.fixed) as reference:
            expected = [reference.run(sample, run).outputs for sample in samples]
            who = reference.info()
        progress.step("converting with pnnx")
        theirs = _pnnx(program, source, scratch / "pnnx", inputs, expected[0], options)
        judged = [_judge(side, samples, expected, run, progress) for side in (ours, theirs)]
        progress.step("measuring in turn")
        judged, speedup = _time(judged, (ours, theirs), samples[0], replace(run, iterations=options.iterations))
    return ConvertCheckReport(
        model=resolved.id,
        shapes={info.name: info.shape for info in inputs},
        reference=f"{who.name} {who.version}",
        ours=judged[0],
        theirs=judged[1],
        speedup=speedup,
        sentence=_sentence(judged[0], judged[1], speedup),
    )


@dataclass(frozen=True, slots=True)
class _Converted:
    """A side so far; ``manifest`` and ``root`` where there is something to run."""

    side: Side
    manifest: Manifest | None = None
    root: Path = Path()


def _inputs(source: SourceModel, shapes: Mapping[str, tuple[int, ...]], progress: Progress) -> tuple[TensorInfo, ...]:
    """The model's inputs with the shapes that both are told."""
    from mobilekit.importers.convert import from_proto
    from mobilekit.passes.shapes import fix_inputs
    from mobilekit.pipeline.infos import tensor_info

    graph = from_proto(source.proto, source.path.parent)
    fix_inputs(graph, shapes, progress)
    return tuple(map(tensor_info, graph.inputs))


def _samples(
    inputs: Sequence[TensorInfo], options: ConvertCheckOptions, preprocess: Preprocess | None
) -> list[NamedTensors]:
    from mobilekit.validate.inputs import seeded_samples

    if options.samples < 1:
        raise UsageError("there is nothing to compare without samples", hint="give 1 or more")
    found = seeded_samples(inputs, seed=options.seed, count=options.samples, preprocess=preprocess)
    return [sample.tensors for sample in found]


def _ours(
    model: str | Path, folder: Path, options: ConvertCheckOptions, shapes: Mapping[str, tuple[int, ...]]
) -> _Converted:
    from mobilekit import __version__
    from mobilekit.pipeline.export import ExportOptions, export_model

    name = f"mobilekit {__version__}"
    export = ExportOptions(shapes=shapes, fixed=options.fixed, verify=False, timeout_s=options.timeout_s)
    started = time.perf_counter()
    try:
        manifest = export_model(model, folder, export).manifest
    except UnsupportedModelError as error:
        first = error.findings[0] if error.findings else None
        reason = f"{first.op} at {first.node}: {first.reason}" if first is not None else error.message
        more = f" (and {len(error.findings) - 1} more)" if len(error.findings) > 1 else ""
        return _Converted(Side(name, "refused", reason + more))
    except MobilekitError as error:
        return _Converted(Side(name, "failed", error.message))
    artifact = manifest.ncnn
    assert artifact is not None
    size = sum(entry.size_bytes for entry in manifest.files if entry.path in (artifact.param, artifact.bin))
    seconds = time.perf_counter() - started
    side = Side(name, "inconclusive", seconds=seconds, layers=artifact.layers, size_bytes=size)
    return _Converted(side, manifest, folder)


def _pnnx(
    program: Path,
    source: SourceModel,
    folder: Path,
    inputs: Sequence[TensorInfo],
    expected: NamedTensors,
    options: ConvertCheckOptions,
) -> _Converted:
    from mobilekit.bundle import TensorInfo
    from mobilekit.pipeline.peers import PeerFailure, run_pnnx

    outputs = tuple(
        TensorInfo(name=spec.name, dtype=str(expected[spec.name].dtype), shape=tuple(expected[spec.name].shape))
        for spec in source.outputs
    )
    copy = folder / "model.onnx"
    _lay_out(source, copy)
    started = time.perf_counter()
    try:
        made = run_pnnx(program, copy, folder, inputs, outputs, timeout_s=options.timeout_s)
    except PeerFailure as failure:
        return _Converted(Side("pnnx", "failed", str(failure)))
    seconds = time.perf_counter() - started
    artifact = made.manifest.ncnn
    assert artifact is not None
    side = Side("pnnx", "inconclusive", seconds=seconds, layers=artifact.layers, size_bytes=made.size_bytes)
    return _Converted(side, made.manifest, made.root)


def _lay_out(source: SourceModel, copy: Path) -> None:
    """A copy of the model in the scratch folder, its external data linked beside it; inputs that are fixed, fixed."""
    copy.parent.mkdir()
    if source.fixed:
        copy.write_bytes(source.whole_proto().SerializeToString())
    else:
        shutil.copyfile(source.path, copy)
    for relative in source.external_files:
        target = copy.parent / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to((source.path.parent / relative).resolve())


def _runner(converted: _Converted) -> Runner:
    from mobilekit.runners.batch import sample_by_sample
    from mobilekit.runners.ncnn_host import NcnnHostRunner

    assert converted.manifest is not None
    make: Callable[[Manifest], Runner] = lambda manifest: NcnnHostRunner(converted.root, manifest)  # noqa: E731
    return sample_by_sample(converted.manifest, make)


def _judge(
    converted: _Converted,
    samples: Sequence[NamedTensors],
    expected: Sequence[NamedTensors],
    run: RunOptions,
    progress: Progress,
) -> Side:
    """Run what was converted, in a process of its own, and hold it against the reference."""
    from mobilekit.errors import BundleError
    from mobilekit.metrics.tensors import compare, worst
    from mobilekit.validate.tolerance import Verdict, judge, overall, tolerance_for

    side = converted.side
    if converted.manifest is None:
        return side
    progress.step(f"running the model of {side.converter}")
    found: dict[str, list[TensorError]] = {}
    try:
        with _runner(converted) as runner:
            for sample, wanted in zip(samples, expected, strict=True):
                outputs = runner.run(_of_its_inputs(sample, converted.manifest), run).outputs
                for name, array in outputs.items():
                    found.setdefault(name, []).append(compare(array, wanted[name]))
    except VerificationError as error:
        return replace(side, outcome="wrong", reason=error.message)
    except BundleError as error:
        return replace(side, outcome="does not load", reason=error.message)
    except MobilekitError as error:
        return replace(side, outcome="does not run", reason=error.message)
    errors = {name: worst(every) for name, every in found.items()}
    # Each sample by itself: the worst of all numbers is no sample's, and one that says nothing excuses no other.
    tolerance = tolerance_for("fp32")
    judgements = [judge(error, tolerance) for every in found.values() for error in every]
    verdict = overall(judgements)
    outcome: Outcome = {Verdict.PASS: "right", Verdict.FAIL: "wrong"}.get(verdict, "inconclusive")  # type: ignore[assignment]
    telling = [j.reason for j in judgements if j.verdict is verdict]
    return replace(
        side,
        outcome=outcome,
        reason=telling[0] if telling else "",
        errors={name: error.relative_l2 for name, error in errors.items()},
    )


def _time(
    sides: Sequence[Side], converted: Sequence[_Converted], sample: NamedTensors, run: RunOptions
) -> tuple[list[Side], float | None]:
    """Median latencies of what is right, over rounds in which both take turns, and the median of the rounds' ratios."""
    medians: list[list[float]] = [[], []]
    warm = replace(run, warmup=_WARMUP)
    with ExitStack() as stack:
        right = [
            (stack.enter_context(_runner(one)), _of_its_inputs(sample, one.manifest), ms)
            for side, one, ms in zip(sides, converted, medians, strict=True)
            if side.outcome == "right" and one.manifest is not None
        ]
        for _ in range(_ROUNDS):
            for runner, inputs, ms in right:
                ms.append(statistics.median(runner.run(inputs, warm).latencies_ns) / 1e6)
    timed = [
        replace(side, latency_ms=statistics.median(ms)) if ms else side for side, ms in zip(sides, medians, strict=True)
    ]
    if not all(medians):
        return timed, None
    return timed, statistics.median(theirs / ours for ours, theirs in zip(*medians, strict=True))


def _of_its_inputs(sample: NamedTensors, manifest: Manifest) -> NamedTensors:
    """A converter may have dropped an input that nothing reads."""
    assert manifest.ncnn is not None
    named = {blob.tensor for blob in manifest.ncnn.inputs}
    return {name: array for name, array in sample.items() if name in named}


def _sentence(ours: Side, theirs: Side, speedup: float | None) -> str:
    if speedup is not None:
        return f"both are right; pnnx's model takes {speedup:.2f} times as long as mobilekit's"
    words = {"right": "is right", "wrong": "is WRONG", "inconclusive": "proves nothing on these inputs"}
    ours_does = words.get(ours.outcome, ours.outcome)
    theirs_does = words.get(theirs.outcome, theirs.outcome)
    return f"mobilekit {ours_does}, pnnx {theirs_does}"
