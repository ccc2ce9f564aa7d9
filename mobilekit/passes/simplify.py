"""onnxsim on a graph, in a child process; never a reason to fail.

Importing the ``onnxsim`` package pulls sympy and all of its tools (0.7 s); its native extension alone loads in 0.05 s
and needs neither onnx nor numpy, so the child loads that. Weights do not travel: they stand as graph inputs for
onnxsim, keep their names, and are put back by name. What needs their values (folding batch norms, constants) is done
by our own rules. docs/decisions/0002 has the measurements.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import ChildError, ModelError, UnsupportedModelError
from mobilekit.paths import Scratch
from mobilekit.progress import Progress

if TYPE_CHECKING:
    from mobilekit.graph import Graph, Node, Value

__all__ = ["simplify", "worthwhile"]

_KEPT_ELEMENTS = 1024
"""Constants up to this size go to onnxsim with their values (shapes, axes, scalars); larger ones as inputs."""

_TIMEOUT_S = 120.0


_ACTIVATIONS = frozenset(
    {
        "Clip",
        "Elu",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mish",
        "PRelu",
        "Relu",
        "Sigmoid",
        "Swish",
        "Tanh",
    }
)
_ARITHMETIC = frozenset({"Add", "Cast", "Div", "Mul", "Sub"})
_RESHAPES = frozenset({"Flatten", "Reshape"})
_CONVOLUTIONAL = frozenset(
    {"AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool", "GlobalMaxPool"}
    | {"InstanceNormalization", "LRN", "LayerNormalization", "MaxPool", "Resize"}
)
_SETTLED = (
    _ACTIVATIONS
    | _ARITHMETIC
    | _RESHAPES
    | _CONVOLUTIONAL
    | {"Concat", "Gemm", "Identity", "MatMul", "ReduceMean", "Slice", "Softmax", "Split", "Transpose"}
)
"""Operators for which onnxsim has no pass that our rules have not, except between the neighbours below."""

_NEIGHBOURS = frozenset(
    {("MatMul", "Add"), ("ReduceMean", "Div"), ("Slice", "Concat"), ("Transpose", "Gemm")}
    | {(op, op) for op in ("Cast", "Concat", "ReduceMean", "Relu", "Slice", "Softmax", "Transpose")}
    | {(a, b) for a in _RESHAPES for b in _RESHAPES | _ACTIVATIONS | _ARITHMETIC}
)
"""Operators, the second reading what the first makes, that a pass of onnxsim looks for."""


def worthwhile(graph: Graph) -> bool:
    """Whether onnxsim may know something that our rules do not: ``False`` only for graphs of a few plain operators.

    docs/decisions/0002 has the models on which this was tried: onnxsim changed none for which this says no.
    """
    slices = 0
    for node in graph.nodes:
        if node.domain or node.op not in _SETTLED:
            return True
        slices += node.op == "Slice"
        for value in node.inputs:
            maker = value.producer if value is not None else None
            if maker is not None and (maker.op, node.op) in _NEIGHBOURS:
                return True
        if node.op == "Softmax" and _is_constant_softmax(node):
            return True
    return slices > 1 and any(node.op == "Concat" for node in graph.nodes)


def _is_constant_softmax(node: Node) -> bool:
    shape = node.outputs[0].shape if node.outputs[0] is not None else None
    axis = node.attrs.get("axis", -1)
    return not shape or shape[axis] == 1


def simplify(graph: Graph, progress: Progress) -> Graph:
    """The graph after onnxsim where that has fewer nodes, else the same graph.

    Where onnxsim fails, dies, takes more than two minutes, or changes inputs or outputs, it is left out with a note.
    """
    from mobilekit.child import call
    from mobilekit.importers.convert import to_proto
    from mobilekit.passes.infer import infer, require_static

    large = [v for v in graph.values() if v.const is not None and v.const.size > _KEPT_ELEMENTS]
    with Scratch("simplify") as folder:
        source, result = folder / "in.onnx", folder / "out.onnx"
        source.write_bytes(to_proto(graph, as_inputs=large).SerializeToString())
        request = {"source": source, "result": result}
        try:
            call("mobilekit.passes.onnxsim:run_onnxsim", request, what="onnxsim", timeout_s=_TIMEOUT_S)
            simplified = _read(result, folder, len(graph))
            if simplified is None:
                return graph
            _restore(graph, simplified, large)
            # Opens what onnxsim has put together and no target takes as it is: RotaryEmbedding.
            infer(simplified, target_opset=simplified.opset)
            require_static(simplified)
            if len(simplified) >= len(graph):
                return graph
            simplified.rows, simplified.fake_quant = graph.rows, graph.fake_quant
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
