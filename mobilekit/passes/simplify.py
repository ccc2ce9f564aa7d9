"""onnxsim on a graph, in a child process; never a reason to fail.

Importing the ``onnxsim`` package pulls sympy and all of its tools (0.7 s); its native extension alone loads in 0.05 s
and needs neither onnx nor numpy, so the child loads that. Weights do not travel: they stand as graph inputs for
onnxsim, keep their names, and are put back by name. What needs their values (folding batch norms, constants) is done
by our own rules. docs/decisions/0002 has the measurements.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilekit.errors import ChildError, ModelError, UnsupportedModelError
from mobilekit.progress import Progress

if TYPE_CHECKING:
    from mobilekit.graph import Graph, Value

__all__ = ["simplify"]

_KEPT_ELEMENTS = 1024
"""Constants up to this size go to onnxsim with their values (shapes, axes, scalars); larger ones as inputs."""

_TIMEOUT_S = 120.0


def simplify(graph: Graph, progress: Progress) -> Graph:
    """The graph after onnxsim where that has fewer nodes, else the same graph.

    Where onnxsim fails, dies, takes more than two minutes, or changes inputs or outputs, it is left out with a note.
    """
    from mobilekit.child import call
    from mobilekit.importers.convert import to_proto
    from mobilekit.passes.infer import infer, require_static

    large = [v for v in graph.values() if v.const is not None and v.const.size > _KEPT_ELEMENTS]
    with tempfile.TemporaryDirectory(prefix="mobilekit-simplify-") as name:
        folder = Path(name)
        source, result = folder / "in.onnx", folder / "out.onnx"
        source.write_bytes(to_proto(graph, as_inputs=large).SerializeToString())
        request = {"source": source, "result": result}
        try:
            call("mobilekit.passes.simplify:run_onnxsim", request, what="onnxsim", timeout_s=_TIMEOUT_S)
            simplified = _read(result, folder, len(graph))
            if simplified is None:
                return graph
            _restore(graph, simplified, large)
            infer(simplified)
            require_static(simplified)
        except (ChildError, ModelError, UnsupportedModelError) as error:
            progress.note(f"onnxsim could not simplify the model ({error.message}); it goes on without")
            return graph
    return simplified


def _read(path: Path, folder: Path, nodes: int) -> Graph | None:
    """What onnxsim wrote; ``None`` where it has no fewer than ``nodes`` nodes."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from mobilekit.importers.convert import from_proto

    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise ModelError(f"what onnxsim wrote cannot be read: {error}") from None
    real = sum(node.op_type != "Constant" for node in model.graph.node)
    return from_proto(model, folder) if real < nodes else None


def _restore(before: Graph, after: Graph, large: list[Value]) -> None:
    """Turn the weights back from inputs to constants; inputs and outputs must be those of before, in order."""
    weights = {value.name: value for value in large}
    inputs = []
    for value in after.inputs:
        weight = weights.get(value.name)
        if weight is None:
            inputs.append(value)
        else:
            value.const, value.dtype, value.shape = weight.const, weight.dtype, weight.shape
    after.inputs = inputs
    for kind, old, new in (("inputs", before.inputs, inputs), ("outputs", before.outputs, after.outputs)):
        if [value.name for value in old] != [value.name for value in new]:
            raise ModelError(f"it changed the {kind}: {', '.join(value.name for value in new)}")
    for old_value, new_value in zip([*before.inputs, *before.outputs], [*inputs, *after.outputs], strict=True):
        if (old_value.dtype, old_value.shape) != (new_value.dtype, new_value.shape):
            raise ModelError(f"it changed {old_value.name!r} to {new_value.dtype} {new_value.shape}")


def run_onnxsim(source: str, result: str) -> bool:
    """In the child: read ``source``, write ``result``. Loads the extension past ``onnxsim/__init__``."""
    spec = importlib.util.find_spec("onnxsim")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    found = importlib.machinery.PathFinder.find_spec("onnxsim_cpp2py_export", folders)
    if found is None or found.loader is None:
        raise ModelError("onnxsim is not installed")
    extension: Any = importlib.util.module_from_spec(found)
    found.loader.exec_module(extension)

    class NoFolding(extension.ModelExecutor):  # type: ignore[misc]
        """Constants are folded before; what onnxsim still finds stays as it is."""

        def Run(self, model: object, inputs: object) -> object:  # noqa: N802
            raise NotImplementedError

    ok = extension.simplify_path(
        NoFolding(), source, result, [], False, True, 1 << 20, None, None, True, False, True, None, None, None
    )
    return bool(ok)
