"""The reference's inner tensors: ONNX Runtime on the original model, and on the graph that the converter made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from mobilekit.errors import MobilekitError, ModelError, UsageError
from mobilekit.progress import SILENT, Progress

if TYPE_CHECKING:
    from types import TracebackType

    from mobilekit.bundle import Bundle
    from mobilekit.graph import Graph
    from mobilekit.importers.onnx import SourceModel
    from mobilekit.runners.taps import Taps
    from mobilekit.tensors import Array, NamedTensors

__all__ = ["Intermediates", "remake"]


def remake(
    bundle: Bundle,
    source: SourceModel,
    wanted: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    whole: bool = False,
) -> Graph | None:
    """The legalised graph that the bundle's ncnn model was made from, as this mobilekit makes it again. ``whole``: with
    the batch that ncnn runs sample by sample.

    With or without onnxsim, whichever has more of the tensors ``wanted``: the manifest does not say how it was.
    ``None`` where it cannot be made.
    """
    from mobilekit.passes import prepare
    from mobilekit.pipeline.batch import choose_batch

    artifact = bundle.manifest.ncnn
    dynamic = any(info.free for info in bundle.manifest.inputs)
    best: tuple[int, Graph] | None = None
    for simplify in (False,) if dynamic else (True, False):
        try:
            graph = prepare(source, shapes, simplify=simplify, resize=dynamic)
            if artifact is not None and artifact.batch is not None and not whole:
                graph, _, _ = choose_batch(graph, source, shapes, simplify=simplify)
        except MobilekitError:
            continue
        names = {value.name for value in graph.values()}
        count = sum(name in names for name in wanted)
        if best is None or count > best[0]:
            best = count, graph
        if count == len(wanted):
            break
    return best[1] if best is not None else None


class Intermediates:
    """A context manager. ``wanted``: the tensors that blobs hold; ``names`` are those of them that can be given.

    A tensor that the original model has comes from there, the others from the legalised graph (``graph``), for which
    ONNX Runtime is started when it is first needed. Of a batch all come from the graph of one sample.
    """

    def __init__(
        self,
        bundle: Bundle,
        wanted: Sequence[str],
        shapes: Mapping[str, tuple[int, ...]],
        progress: Progress = SILENT,
    ) -> None:
        from mobilekit.importers.onnx import load

        self._source = replace(load(bundle.source, bundle.fixed()), fake_quant=bundle.manifest.fake_quant)
        self._bundle = bundle
        self._stack = ExitStack()
        self._original: Taps | None = None
        self._legal: Taps | None = None
        self.graph = remake(bundle, self._source, wanted, shapes)
        if self.graph is None:
            progress.note("the converted graph cannot be made again: only tensors of the original model are compared")
        self._wanted = list(wanted)

    def __enter__(self) -> Intermediates:
        from mobilekit.importers.convert import to_proto
        from mobilekit.passes.bounds import DOMAIN
        from mobilekit.runners.taps import Taps

        artifact = self._bundle.manifest.ncnn
        try:
            if artifact is None or artifact.batch is None:
                folder = str(self._source.path.parent)
                self._original = self._stack.enter_context(Taps(self._source.whole_proto(), folder=folder))
            missing = [n for n in self._wanted if self._original is None or n not in self._original.names]
            graph = self.graph
            # ONNX Runtime knows no operators of ours.
            if missing and graph is not None and DOMAIN not in graph.opsets:
                try:
                    self._legal = self._stack.enter_context(Taps(to_proto(graph)))
                except (ModelError, ValueError):
                    self._legal = None
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def names(self) -> frozenset[str]:
        there = self._original.names if self._original is not None else frozenset()
        also = self._legal.names if self._legal is not None else frozenset()
        return frozenset(self._wanted) & (there | also)

    def values(self, inputs: Mapping[str, Array], names: Sequence[str], timeout_s: float = 600.0) -> NamedTensors:
        """The tensors ``names`` for ``inputs`` (of one sample), in ONNX shape and dtype."""
        found: dict[str, Array] = {}
        if self._original is not None:
            known = [name for name in names if name in self._original.names]
            found |= self._original.values(inputs, known, timeout_s=timeout_s) if known else {}
        rest = [name for name in names if name not in found]
        if rest and self._legal is not None:
            known = [name for name in rest if name in self._legal.names]
            found |= self._legal.values(inputs, known, timeout_s=timeout_s) if known else {}
        return found

    def rewritten(self, inputs: Mapping[str, Array], names: Sequence[str], timeout_s: float = 600.0) -> NamedTensors:
        """Those of ``names`` that both models have, as the legalised graph gives them; empty where there is none."""
        from mobilekit.importers.convert import to_proto
        from mobilekit.passes.bounds import DOMAIN
        from mobilekit.runners.taps import Taps

        if self._original is None or self.graph is None or DOMAIN in self.graph.opsets:
            return {}
        try:
            if self._legal is None:
                self._legal = self._stack.enter_context(Taps(to_proto(self.graph)))
            both = [name for name in names if name in self._legal.names and name in self._original.names]
            return self._legal.values(inputs, both, timeout_s=timeout_s) if both else {}
        except (ModelError, UsageError, ValueError):
            return {}
