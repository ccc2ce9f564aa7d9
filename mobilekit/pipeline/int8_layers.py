"""Each int8 layer by itself, on exact inputs, against its own integers: right nearly to the last digit, or wrong.

What int8 costs a deep model is as large as what many faults do, and a rounding that falls the other way grows to that
in a few dozen layers. One layer on known inputs has no such excuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import ModelError
from mobilekit.progress import SILENT, Progress

if TYPE_CHECKING:
    from types import TracebackType

    from mobilekit.bundle import Bundle
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.runners.base import RunOptions
    from mobilekit.runners.taps import Taps
    from mobilekit.tensors import Array, NamedTensors
    from mobilekit.validate.blobnet import Unit
    from mobilekit.validate.inputs import Sample

__all__ = ["Int8Answers", "int8_units", "wrong_int8", "wrong_layers"]

_NOTHING = 1e-6
"""Off by so little from zeros is not wrong."""


def int8_units(bundle: Bundle, units: Mapping[str, Unit]) -> list[str]:
    """The blobs of ``units`` that an int8 layer makes."""
    artifact = bundle.manifest.ncnn
    scales = artifact.int8_scales if artifact is not None else {}
    return [blob for blob, unit in units.items() if any(layer.name in scales for layer in unit.layers)]


class Int8Answers:
    """A context manager: ONNX Runtime on the bundle's legalised graph, in which every tensor that an int8 layer makes
    has a twin, computed as that layer must from exact values. Entering raises :class:`ModelError` where the graph
    cannot be made again, or ONNX Runtime does not take it."""

    def __init__(self, bundle: Bundle, units: Mapping[str, Unit], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._bundle, self._units, self._shapes = bundle, units, shapes
        self._stack = ExitStack()
        self._twins: dict[str, str] = {}
        self._int8: frozenset[str] = frozenset()
        self._taps: Taps | None = None

    def __enter__(self) -> Int8Answers:
        from mobilekit.importers.convert import to_proto
        from mobilekit.passes.bounds import DOMAIN
        from mobilekit.pipeline.int8 import legal_graph, node_scales
        from mobilekit.precision.int8 import add_twins
        from mobilekit.runners.taps import Taps

        graph = legal_graph(self._bundle, self._shapes, whole=False)
        tensors = {
            self._units[blob].tensor: {self._units[parent].tensor for parent in self._units[blob].parents}
            for blob in int8_units(self._bundle, self._units)
        }
        self._int8 = frozenset(tensors)
        self._twins = add_twins(graph, node_scales(self._bundle, graph), tensors)
        if DOMAIN in graph.opsets:
            # ONNX Runtime knows no operators of ours; most stand behind all that is int8.
            ends = {*tensors, *self._twins.values()}
            graph.outputs = [value for node in graph.nodes for value in node.outputs if value and value.name in ends]
            graph.prune()
        self._taps = self._stack.enter_context(Taps(to_proto(graph)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def exact(self, inputs: Mapping[str, Array], names: Sequence[str], timeout_s: float) -> NamedTensors:
        """The tensors ``names`` in float; those that the graph lacks are left out."""
        assert self._taps is not None, "use it in a with statement"
        return self._taps.values(
            inputs, [name for name in names if name in self._taps.names or name in inputs], timeout_s=timeout_s
        )

    def answers(self, inputs: Mapping[str, Array], names: Sequence[str], timeout_s: float) -> NamedTensors:
        """The tensors ``names`` as their own layers must make them from exact values; those whose layer is int8 and
        that have no twin are left out."""
        back = {self._twins.get(name, name): name for name in names if name in self._twins or name not in self._int8}
        made = self.exact(inputs, list(back), timeout_s)
        return {back[name]: array for name, array in made.items()}


def wrong_layers(
    bundle: Bundle,
    device: str | None,
    sample: Sample,
    run: RunOptions,
    progress: Progress = SILENT,
    *,
    quota_bytes: int | None = None,
) -> str:
    """Which int8 layers of ``bundle`` do not compute on ``device`` what their weights and scales say, as a sentence;
    empty where all do, or it has none.

    Raises :class:`ModelError` where the converted graph cannot be made again, and what running raises.
    """
    from mobilekit.pipeline.bisect import BisectOptions, Session, traced
    from mobilekit.pipeline.place import open_blobs

    if bundle.manifest.ncnn is None or bundle.manifest.ncnn.int8 is None:
        return ""
    progress.step("holding each int8 layer against its own integers")
    opened, artifact, trace, layers = traced(bundle)
    options = BisectOptions(
        threads=run.threads,
        precision="fp16" if run.fp16 else "fp32",
        vulkan=run.vulkan,
        timeout_s=run.timeout_s,
        runs=1000,
    )
    with open_blobs(opened, device, quota_bytes=quota_bytes, vulkan=run.vulkan, progress=progress) as (runner, facts):
        session = Session(opened, artifact, trace, layers, runner, facts, options, progress)
        session.take(sample)
        with session.compared():
            errors = session.int8_errors()
            assert session.search_ is not None
            limit = session.search_.local_limit
            units = session.net.units
            wrong = [blob for blob in sorted(errors, key=lambda blob: units[blob].rank) if _beyond(errors[blob], limit)]
            if not wrong:
                return ""
            first = units[wrong[0]]
    error = errors[wrong[0]]
    found = error.mismatch or f"relative L2 {error.relative_l2:.3g} from them (limit {limit:.2g})"
    others = f", and {len(wrong) - 1} more of {len(errors)}" if len(wrong) > 1 else ""
    name = next(layer.name for layer in first.layers if layer.name in artifact.int8_scales)
    return f"the int8 layer {name!r} does not give what its weights and scale do: {found}{others}"


def wrong_int8(
    bundle: Bundle,
    device: str | None,
    inputs: Path | None,
    seed: int,
    run: RunOptions,
    quota_bytes: int | None = None,
    progress: Progress = SILENT,
) -> str:
    """:func:`wrong_layers` on the first sample of a validation; empty, with a note, where nothing can be told."""
    from mobilekit.validate.inputs import samples_of

    if bundle.manifest.ncnn is None or bundle.manifest.ncnn.int8 is None:
        return ""
    sample = next(iter(samples_of(bundle.manifest, inputs, seed=seed, count=1)))
    try:
        return wrong_layers(bundle, device, sample, run, progress, quota_bytes=quota_bytes)
    except ModelError as error:
        progress.note(f"int8 layers are not held against their own integers: {error.message}")
        return ""


def _beyond(error: TensorError, limit: float) -> bool:
    if error.mismatch:
        return True
    return not error.relative_l2 <= limit and (error.evidence or not error.max_abs <= _NOTHING)
