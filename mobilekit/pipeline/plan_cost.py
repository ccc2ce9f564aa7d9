"""What the number format of a TensorRT plan costs by itself, on one input: what its limits follow from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.validate.rounding import NumberFormat

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, TensorRTArtifact
    from mobilekit.graph import Graph
    from mobilekit.validate.int8 import Int8Cost, Shapes
    from mobilekit.validate.rounding import Costs

__all__ = ["cost_of_pairs", "cost_of_plan"]


def cost_of_plan(bundle: Bundle, artifact: TensorRTArtifact) -> AbstractContextManager[Costs] | None:
    """A context manager; ``None`` where it cannot be measured on a CPU (TF32).

    8 bits are those of the bundle's prepared model by its scales alone: its weights are made again from the original.
    """
    from mobilekit.pipeline.formats import plan_format
    from mobilekit.pipeline.plan_models import exact_model
    from mobilekit.validate.rounding import RoundingCost

    form = plan_format(artifact.precision)
    if isinstance(form, str):
        return None
    if form.eight_bits:
        return cost_of_pairs(lambda folder: exact_model(bundle, artifact, folder), bundle.root / artifact.onnx, form)
    return RoundingCost(bundle, form)


def cost_of_pairs(exact: Callable[[Path], Path], quantised: Path, form: NumberFormat) -> Int8Cost:
    """Of the Q/DQ pairs in the file ``quantised``. ``exact``: given a folder to write to, the file of the model that it
    was made of, with the same names of nodes."""
    from mobilekit.validate.int8 import Int8Cost

    def write(folder: Path, shapes: Shapes) -> tuple[Path, Path]:
        from mobilekit.pipeline.tensorrt import write_model
        from mobilekit.precision.apart import with_pairs

        del shapes
        original = exact(folder)
        graph = _read(original)
        with_pairs(graph, _read(quantised))
        emulated = folder / "emulated.onnx"
        write_model(graph, emulated)
        return original, emulated

    return Int8Cost(write, form)


def _read(path: Path) -> Graph:
    """As it is in the file: with its constants folded, its 8-bit weights would be floats."""
    import onnx

    from mobilekit.importers.convert import from_proto

    return from_proto(onnx.load(str(path), load_external_data=False), path.parent)
