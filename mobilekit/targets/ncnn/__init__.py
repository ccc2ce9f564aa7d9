"""The ncnn target: ONNX graph in, ``model.param`` and ``model.bin`` out, exact or refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobilekit.errors import Finding, UnsupportedModelError
from mobilekit.paths import storage_errors

if TYPE_CHECKING:
    from mobilekit.bundle import NcnnArtifact
    from mobilekit.graph import Graph
    from mobilekit.targets.base import Survey
    from mobilekit.targets.ncnn.emit import Model

__all__ = ["NcnnOptions", "NcnnTarget"]


@dataclass(frozen=True, slots=True)
class NcnnOptions:
    """``precision``: how weights are stored; fp16 halves the file, arrays out of fp16's range stay float32.
    int8: the model is one that :func:`~mobilekit.targets.ncnn.int8.with_int8` made, and what that left is float32.

    ``stock_only``: take no layers of our own; what only they can do is refused. ``fixed_sizes``: the model will run at
    the sizes it was built for, so layers too small for several threads are marked (:mod:`.threads`).
    """

    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    stock_only: bool = False
    fixed_sizes: bool = False


class NcnnTarget:
    """Implements :class:`mobilekit.targets.base.Target`."""

    name = "ncnn"

    def check(self, graph: Graph, options: NcnnOptions) -> tuple[Finding, ...]:
        """Every node that cannot be taken exactly, in graph order; empty where :meth:`build` will succeed."""
        return self.survey(graph, options).findings

    def survey(self, graph: Graph, options: NcnnOptions) -> Survey:
        """:meth:`check`'s findings, and which of our own layers :meth:`build` will use."""
        from mobilekit.targets.base import Survey
        from mobilekit.targets.ncnn.emit import emit

        model = emit(graph, stock_only=options.stock_only)
        return Survey(model.findings, model.custom_layers)

    def build(self, graph: Graph, folder: Path, options: NcnnOptions) -> NcnnArtifact:
        """Write ``model.param``, ``model.bin`` and ``trace.json`` into ``folder``.

        Raises :class:`UnsupportedModelError` with all findings before anything is written, and
        :class:`~mobilekit.errors.StorageError` where the disk does not take the files. Same graph, same bytes.
        """
        from mobilekit.targets.ncnn.emit import emit

        return self.write(emit(graph, stock_only=options.stock_only), folder, options)

    def write(self, model: Model, folder: Path, options: NcnnOptions) -> NcnnArtifact:
        """:meth:`build` for what was emitted already."""
        from mobilekit.bundle import NcnnArtifact, NcnnInt8, NcnnRows
        from mobilekit.targets.ncnn.trace import TRACE, trace_of
        from mobilekit.targets.ncnn.writer import arrange, write_bin, write_param

        if model.findings:
            count = len(model.findings)
            raise UnsupportedModelError(
                f"ncnn cannot take {count} {'thing' if count == 1 else 'things'} in this model",
                findings=model.findings,
                hint="change the model as each line says, or cut it before the first of them",
            )
        named = arrange(model)
        layer_name = {layer.name: named.layer_names[id(layer)] for layer in named.layers}
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "model.param").open("w", encoding="utf-8", newline="\n") as text:
                write_param(named, text, fixed_sizes=options.fixed_sizes)
            with (folder / "model.bin").open("wb") as weights:
                sizes = write_bin(named, weights, options.precision)
            trace_of(named, sizes).write(folder / TRACE)
        rows = model.rows
        counts = {count for _, count in rows.values()}
        blobs = {
            info.tensor: replace(info, blob=named.name(blob))
            for (info, _), blob in zip(model.outputs, named.outputs, strict=True)
        }
        return NcnnArtifact(
            param="ncnn/model.param",
            bin="ncnn/model.bin",
            trace=f"ncnn/{TRACE}",
            precision=options.precision,
            inputs=tuple(
                replace(info, blob=named.name(blob)) for (info, _), blob in zip(model.inputs, named.inputs, strict=True)
            ),
            outputs=tuple(
                replace(blobs[name], rows=NcnnRows(axis=rows[name][0], count=blobs[rows[name][1]].blob))
                if name in rows
                else blobs[name]
                for name in blobs
                if name not in counts
            ),
            layers=len(named.layers),
            depth=named.depth,
            custom_layers=model.custom_layers,
            names=named.names,
            nodes={label: tuple(layer_name[name] for name in names) for label, names in model.nodes.items()},
            ncnn_version=version("ncnn"),
            int8=NcnnInt8(scales={layer_name[name]: scale for name, scale in model.int8.items()})
            if model.int8
            else None,
        )
