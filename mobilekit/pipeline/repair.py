"""``mobilekit repair``: a bundle that is right in half precision, in int8 or on a GPU, by keeping the layers that cost
most out of it."""

from __future__ import annotations

import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import UsageError
from mobilekit.paths import atomic_dir
from mobilekit.pipeline.bisect import BisectOptions, Precision, arithmetic_of, failing_sample, open_traced
from mobilekit.pipeline.place import choose_target
from mobilekit.progress import SILENT, Progress

if TYPE_CHECKING:
    from mobilekit.bundle import NcnnArtifact
    from mobilekit.pipeline.bisect import Session
    from mobilekit.report.bisection import OutputState
    from mobilekit.report.model import DeviceFacts
    from mobilekit.report.repair import KeptLayer, RepairReport, Trade
    from mobilekit.targets.base import TargetName
    from mobilekit.targets.ncnn.mask import Feature
    from mobilekit.targets.ncnn.reader import ParamLayer
    from mobilekit.validate.tolerance import Verdict

__all__ = ["RepairOptions", "repair_bundle"]

_TIMED_RUNS = 15
_TIMED_S = 30.0
_MOVING = frozenset({"Concat", "Crop", "Permute", "Reshape", "Slice", "Split", "Squeeze"})


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """``inputs``, ``samples``, ``seed``, ``rtol`` as for validation. ``precision``: what to repair for; default what
    the bundle was exported for. ``most_layers``: how many may be kept in higher precision; ``rounds``: how often to
    choose some. ``replace``: ``output`` may be there already. ``vulkan``: on the GPU, in float32 too; what it gets
    wrong is left to the processor."""

    inputs: Path | None = None
    samples: int = 3
    seed: int = 0
    threads: int = 0
    precision: Precision | None = None
    rtol: float | None = None
    most_layers: int = 32
    rounds: int = 8
    replace: bool = False
    vulkan: bool = False
    timeout_s: float = 300.0
    quota_bytes: int | None = None

    def bisecting(self, precision: Precision | None, *, vulkan: bool = False) -> BisectOptions:
        return BisectOptions(
            inputs=self.inputs,
            samples=self.samples,
            seed=self.seed,
            threads=self.threads,
            precision=precision,
            vulkan=vulkan,
            rtol=self.rtol,
            runs=10_000,
            timeout_s=self.timeout_s,
            quota_bytes=self.quota_bytes,
            whole_cost=True,
        )


@dataclass(frozen=True, slots=True)
class _Choice:
    """``weights``: they are written anew in float32; ``int8``: the layer was int8, and is a float one then."""

    mask: Feature
    local: float
    weights: bool
    int8: bool = False


def repair_bundle(
    bundle: str | Path,
    output: str | Path,
    device: str | None = None,
    options: RepairOptions | None = None,
    progress: Progress = SILENT,
    *,
    target: TargetName | None = None,
) -> RepairReport:
    """Write to ``output`` the bundle with some layers in higher precision, so that validation passes.

    ``target``: see :func:`~mobilekit.pipeline.place.choose_target`; for a plan
    :func:`~mobilekit.pipeline.repair_plan.repair_plan` does it, without a device.

    Layers are chosen by their local error, the worst first: the arithmetic alone at first, then storage and weights
    too; those in int8 become float layers at once, and on a GPU the processor takes them first. After each choice all
    samples are run again. Nothing is written
    where the bundle is right as it is, where it is wrong in float32 as well (that is no matter of precision), or where
    the budget does not suffice. Raises :class:`UsageError` where ``output`` is there and what
    :func:`~mobilekit.pipeline.bisect.bisect_bundle` raises.
    """
    from mobilekit.bundle import check_outside, open_bundle
    from mobilekit.pipeline.place_plan import PREPARED
    from mobilekit.validate.tolerance import Verdict

    options = options or RepairOptions()
    source, folder = Path(bundle), Path(output)
    check_outside(folder)
    if choose_target(open_bundle(source), target, device) == "tensorrt":
        from mobilekit.pipeline.repair_plan import repair_plan

        if options.vulkan:
            raise UsageError("a plan does not run through Vulkan", hint="add --target ncnn, or leave --vulkan out")
        if device not in (None, PREPARED):
            raise UsageError("a plan is repaired without a device", hint="leave --device out")
        return repair_plan(source, folder, options, progress)
    if folder.exists() and not options.replace:
        raise UsageError(f"{folder} is there already", hint="give another folder with -o, or add --force")
    _, artifact, _, layers = open_traced(source)
    precision = options.precision or arithmetic_of(artifact)
    if precision == "fp32" and artifact.precision == "fp32" and not options.vulkan:
        raise UsageError(
            "this bundle computes in float32 already",
            hint="say --precision fp16 or bf16, whichever is to be repaired; or --vulkan, for a GPU that gets it wrong",
        )
    way = "on the processor" if options.vulkan else "in higher precision"
    state = _Repair(source, device, options, precision, progress)
    with tempfile.TemporaryDirectory(prefix="mobilekit-repair-") as name:
        verdict = state.look(source)
        before = state.states
        if not state.off:
            sentence = "it is right as it is" if verdict is Verdict.PASS else "the outputs say nothing on these inputs"
            return state.report(verdict, f"{sentence}: nothing was changed", before, len(layers))
        if options.vulkan:
            progress.step("checking that it is right on the processor")
            if not state.right_in(precision):
                sentence = "it is wrong on the processor too, so that it is not the GPU's doing: repair it there first"
                return state.report(verdict, sentence, before, len(layers))
        elif artifact.precision == "fp32":
            progress.step("checking that it is right in float32")
            if not state.right_in("fp32"):
                sentence = "it is wrong in float32 too, so that no precision mends it: see mobilekit bisect"
                return state.report(verdict, sentence, before, len(layers))
        for number in range(options.rounds):
            if not state.choose(2**number):
                break
            trial = Path(name) / f"round{number}"
            state.write(trial)
            state.rounds += 1
            verdict = state.look(trial)
            if not state.off:
                break
        if state.off:
            sentence = f"{len(state.chosen)} layers {way} do not suffice; nothing was written"
            return state.report(verdict, sentence, before, len(layers))
        progress.step("timing both")
        trade = state.trade(source, trial)
        with atomic_dir(folder) as made:
            shutil.copytree(trial, made, dirs_exist_ok=True)
        sentence = f"right with {len(state.chosen)} of {len(layers)} layers {way}"
        return state.report(verdict, sentence, before, len(layers), trade=trade, bundle=str(folder))


class _Repair:
    """The bundle, the masks chosen so far, and what the last look at it showed."""

    def __init__(
        self, source: Path, device: str | None, options: RepairOptions, precision: Precision, progress: Progress
    ) -> None:
        self.bundle, self.artifact, self.trace, self.layers = open_traced(source)
        self.device, self.options, self.precision, self.progress = device, options, precision, progress
        self.chosen: dict[str, _Choice] = {}
        self.states: tuple[OutputState, ...] = ()
        self.off: tuple[str, ...] = ()
        self.rounds = 0
        self.facts: DeviceFacts | None = None
        self._local: list[tuple[str, float]] = []
        self._shaky: list[str] = []
        """A layer that is right on right inputs and makes much of small errors, and those that it reads."""

    def look(self, path: Path) -> Verdict:
        """Run the samples; where one is off, measure the local error of every layer for it."""
        options = self.options.bisecting(self.precision, vulkan=self.options.vulkan)
        with failing_sample(path, self.device, options, self.progress) as (session, _):
            self.facts, self.states, self.off = session.facts, session.states, session.off
            verdict = session.verdict
            if session.off:
                self.progress.step("measuring what each layer costs")
                with session.compared():
                    self._shaky = _enlarging(session)
                    self._local = _local_errors(session)
        return verdict

    def right_in(self, precision: Precision) -> bool:
        """On the processor."""
        options = self.options.bisecting(precision)
        with failing_sample(self.bundle.root, self.device, options, self.progress) as (session, _):
            return not session.off

    def choose(self, at_least: int) -> bool:
        """Mask the worst layers, those that are masked already more; False where nothing is left to choose.

        Where values leave the range, all layers in which they do, and no others: the rest cannot be told yet.
        """
        from mobilekit.targets.ncnn.layers import OWN_LAYERS

        kinds = {layer.name: layer.type for layer in self.layers}
        worst = self._local[0][1] if self._local else 0.0
        at_least = 1 if math.isinf(worst) else at_least
        changed = 0
        for name in self._shaky:
            known = self.chosen.get(name)
            mask = self._next_mask(name, kinds[name], known, math.inf) if name in kinds else None
            if mask is not None and len(self.chosen) < self.options.most_layers:
                error = next((error for each, error in self._local if each == name), 0.0)
                self._take(name, mask, known.local if known is not None else error)
                changed += 1
        if changed:
            return True
        for name, error in self._local:
            if name not in kinds or kinds[name] in OWN_LAYERS or kinds[name] in ("Input", "MemoryData"):
                continue
            known = self.chosen.get(name)
            if changed >= at_least and not (error == worst or worst / 2 < error < math.inf):
                break
            mask = self._next_mask(name, kinds[name], known, error)
            if mask is None or (known is None and len(self.chosen) >= self.options.most_layers):
                continue
            self._take(name, mask, known.local if known is not None else error)
            changed += 1
        return changed > 0

    def _take(self, name: str, mask: Feature, error: float) -> None:
        from mobilekit.targets.ncnn.mask import Feature

        int8 = name in self.artifact.int8_scales
        half = self.artifact.precision == "fp16" and name in self.trace.weights
        self.chosen[name] = _Choice(mask, error, int8 or (half and mask != Feature.VULKAN), int8)

    def _next_mask(self, name: str, kind: str, known: _Choice | None, error: float) -> Feature | None:
        from mobilekit.targets.ncnn.mask import Feature

        if known is None and name in self.artifact.int8_scales:
            return Feature(0)
        steps = [Feature.VULKAN] if self.options.vulkan else []
        product = Feature.WINOGRAD if kind == "Convolution" else Feature(0)
        arithmetic = Feature.FP16_ARITHMETIC | product
        everything = arithmetic | Feature.FP16_STORAGE | Feature.BF16_STORAGE
        gentle = self.precision == "fp16" and math.isfinite(error)
        if self.precision != "fp32":
            steps += [arithmetic, everything] if gentle and not steps else [everything]
        return next((step for step in steps if known is None or step & ~known.mask), None)

    def write(self, path: Path) -> None:
        """The bundle with the masks chosen so far."""
        from mobilekit.bundle import write_manifest
        from mobilekit.targets.ncnn.mask import masked, read_weights, write_weights
        from mobilekit.targets.ncnn.reader import write_layers
        from mobilekit.targets.ncnn.trace import Trace

        shutil.copytree(self.bundle.root, path)
        weights: dict[str, Sequence[bytes]] = dict(
            read_weights(self.bundle.root / self.artifact.bin, self.layers, self.trace)
        )
        known = self.layers
        if any(choice.weights for choice in self.chosen.values()):
            made = self._in_float()
            known = tuple(made[layer.name][0] if layer.name in made else layer for layer in self.layers)
            weights |= {name: arrays for name, (_, arrays) in made.items()}
        layers, trace = masked(known, self.trace, {name: choice.mask for name, choice in self.chosen.items()})
        write_layers(layers, path / self.artifact.param)
        sizes = write_weights(path / self.artifact.bin, layers, weights)
        assert self.artifact.trace is not None
        Trace(trace.blobs, sizes).write(path / self.artifact.trace)
        more = len(layers) - len(self.layers)
        artifact = replace(self._told(), layers=len(layers), depth=self.artifact.depth + more)
        write_manifest(path, replace(self.bundle.manifest, ncnn=artifact, verified=False, tuned=()))

    def _told(self) -> NcnnArtifact:
        """What the manifest says of int8, less the layers that are float now."""
        int8 = self.artifact.int8
        floats = {name: choice.local for name, choice in self.chosen.items() if choice.int8}
        if int8 is None or not floats:
            return self.artifact
        scales = {name: scale for name, scale in int8.scales.items() if name not in floats}
        if not scales:
            return replace(self.artifact, precision="fp32", int8=None)
        why = {name: f"repaired: in int8 it was off by relative L2 {error:.2g}" for name, error in floats.items()}
        return replace(self.artifact, int8=replace(int8, scales=scales, kept={**int8.kept, **why}))

    def _in_float(self) -> dict[str, tuple[ParamLayer, Sequence[bytes]]]:
        """The chosen layers with their weights in float32, from the original model; those that the remade model lacks
        are left out. Raises :class:`UsageError` where that is one in int8."""
        from mobilekit.importers.onnx import load
        from mobilekit.pipeline.intermediates import remake
        from mobilekit.targets.ncnn import NcnnOptions, NcnnTarget
        from mobilekit.targets.ncnn.mask import read_weights
        from mobilekit.targets.ncnn.reader import read_param
        from mobilekit.targets.ncnn.trace import TRACE, read_trace

        shapes = {info.name: info.shape for info in self.bundle.manifest.inputs}
        wanted = sorted({blob.tensor for blob in self.trace.blobs.values()})
        source = replace(load(self.bundle.source, self.bundle.fixed()), fake_quant=self.bundle.manifest.fake_quant)
        graph = remake(self.bundle, source, wanted, shapes)
        layers: tuple[ParamLayer, ...] = ()
        weights: Mapping[str, Sequence[bytes]] = {}
        if graph is not None:
            with tempfile.TemporaryDirectory(prefix="mobilekit-repair-") as name:
                folder = Path(name)
                NcnnTarget().build(graph, folder, NcnnOptions(precision="fp32", fixed_sizes=not self.bundle.free))
                layers = read_param(folder / "model.param")
                weights = read_weights(folder / "model.bin", layers, read_trace(folder / TRACE))
        made = {layer.name: layer for layer in layers if layer.name in weights}
        found: dict[str, tuple[ParamLayer, Sequence[bytes]]] = {}
        for now in self.layers:
            choice, layer = self.chosen.get(now.name), made.get(now.name)
            if choice is None or not choice.weights:
                continue
            same = layer is not None and _shape_of(layer) == _shape_of(now)
            if layer is not None and same and (choice.int8 or layer == now):
                found[now.name] = layer, weights[now.name]
            elif choice.int8:
                raise UsageError(
                    f"the layer {now.name!r} cannot be made again in float from the bundle's source",
                    hint="export the model again",
                )
        return found

    def trade(self, before: Path, after: Path) -> Trade:
        """Latencies of both, in turns, on the first sample."""
        from mobilekit.bundle import open_bundle
        from mobilekit.pipeline.place import open_place
        from mobilekit.report.repair import Trade
        from mobilekit.runners.base import RunOptions
        from mobilekit.validate.inputs import samples_of

        sample = next(samples_of(self.bundle.manifest, self.options.inputs, seed=self.options.seed, count=1))
        vulkan = self.options.vulkan
        bundles = [open_bundle(path) for path in (before, after)]
        times: list[list[int]] = [[], []]
        with (
            open_place(bundles[0], self.device, vulkan=vulkan, progress=self.progress) as (old, facts),
            open_place(bundles[1], self.device, vulkan=vulkan, progress=self.progress) as (new, _),
        ):
            once = RunOptions(
                threads=self.options.threads or int(facts.virtual),
                fp16=self.precision == "fp16",
                bf16=self.precision == "bf16",
                vulkan=vulkan,
                timeout_s=self.options.timeout_s,
            )
            started = time.monotonic()
            for turn in range(_TIMED_RUNS + 1):
                if turn > 1 and time.monotonic() - started > _TIMED_S:
                    break
                for runner, found in zip((old, new), times, strict=True):
                    latencies = runner.run(sample.tensors, once).latencies_ns
                    found += latencies if turn else ()  # the first one warms up
        sizes = [(bundle.root / self.artifact.bin).stat().st_size for bundle in bundles]
        old_ms, new_ms = (statistics.median(found) / 1e6 for found in times)
        return Trade(
            latency_before_ms=old_ms,
            latency_after_ms=new_ms,
            comparable=not facts.virtual and (facts.vulkan is None or facts.vulkan.type != "cpu"),
            bytes_before=sizes[0],
            bytes_after=sizes[1],
        )

    def report(
        self,
        verdict: Verdict,
        sentence: str,
        before: tuple[OutputState, ...],
        count: int,
        *,
        trade: Trade | None = None,
        bundle: str | None = None,
    ) -> RepairReport:
        from mobilekit import __version__
        from mobilekit.report.repair import RepairReport

        assert self.facts is not None
        return RepairReport(
            mobilekit_version=__version__,
            model=self.bundle.manifest.model.id,
            precision="int8" if self.artifact.precision == "int8" else self.precision,
            device=self.facts,
            verdict=verdict,
            sentence=sentence,
            before=before,
            after=self.states if self.rounds else (),
            layers=self._kept(),
            layer_count=count,
            rounds=self.rounds,
            trade=trade,
            bundle=bundle,
        )

    def _kept(self) -> tuple[KeptLayer, ...]:
        from mobilekit.report.repair import KeptLayer

        kinds = {layer.name: layer.type for layer in self.layers}
        return tuple(
            KeptLayer(
                name=name,
                type=kinds[name],
                nodes=tuple(label for label, made in self.artifact.nodes.items() if name in made),
                off=("int8",)
                if choice.int8
                else tuple(feature.name.lower().replace("_", " ") for feature in choice.mask if feature.name),
                local=choice.local,
                weights=choice.weights,
            )
            for name, choice in self.chosen.items()
        )


def _shape_of(layer: ParamLayer) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    return layer.type, layer.inputs, layer.outputs


def _enlarging(session: Session) -> list[str]:
    """Where the first layer beyond tolerance is right by itself: its layers and what makes its inputs. These have to
    come in float32, or it has nothing exact to read."""
    found = session.search("auto")
    enlarges = found.shown_by or (found.first if found.why == "amplifies" else None)
    if enlarges is None:
        return []
    units = session.net.units
    every = [units[enlarges]]
    pending = list(every[0].parents)
    while pending:
        unit = units[pending.pop()]
        every.append(unit)
        if all(layer.type in _MOVING for layer in unit.layers):
            pending += unit.parents
    return [layer.name for unit in every for layer in unit.layers if layer.type not in ("Input", "MemoryData")]


def _local_errors(session: Session) -> list[tuple[str, float]]:
    """Layers by local error, the worst first. Where a unit has several layers, each stands with the unit's error."""
    session.search("local")
    search = session.search_
    assert search is not None
    ranked: dict[str, float] = {}
    for blob, error in search.local.items():
        value = float("inf") if error.mismatch else error.relative_l2 if error.evidence else 0.0
        for layer in session.net.units[blob].layers:
            # Layers that only move values round nothing, but a value may leave the range in them.
            if layer.type not in _MOVING or not math.isfinite(value):
                ranked[layer.name] = max(ranked.get(layer.name, 0.0), value)
    return sorted(((name, value) for name, value in ranked.items() if value > 0), key=lambda item: -item[1])
