"""Lift a node from the model's opset to the canonical form: one form for each operator, whatever the model's age.

What changed, and when, is from ONNX's changelog (docs/Changelog.md); operators not named here kept their meaning
since opset 7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilekit.errors import Finding, ModelError, UnsupportedModelError
from mobilekit.graph import Graph, Node, Value

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Lift", "lift_node"]


class Lift:
    """One node on its way up: takes attributes, makes constants, and collects the nodes that replace it."""

    def __init__(self, graph: Graph, node: Node, opset: int) -> None:
        self.graph, self.node, self.opset = graph, node, opset
        self.attrs = dict(node.attrs)
        self.inputs = list(node.inputs)

    def ints(self, name: str) -> list[int] | None:
        value = self.attrs.pop(name, None)
        return None if value is None else [int(item) for item in value]

    def constant(self, what: str, data: Any, dtype: str = "int64") -> Value:
        return self.graph.constant(f"{self.node.label}_{what}", np.array(data, dtype=dtype))

    def done(self, op: str | None = None, *, outputs: Sequence[Value | None] | None = None) -> list[Node]:
        inputs = list(self.inputs)
        while inputs and inputs[-1] is None:
            inputs.pop()
        made = list(self.node.outputs if outputs is None else outputs)
        return [Node(self.node.name, op or self.node.op, inputs, made, self.attrs, self.node.domain)]

    def input(self, index: int) -> Value | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def rank(self) -> int:
        first = self.inputs[0]
        if first is None or first.shape is None:
            raise self.refuse("its input's shape is not known, and this opset's meaning depends on it")
        return len(first.shape)

    def refuse(self, reason: str, remedy: str = "export the model with opset 13 or newer") -> UnsupportedModelError:
        finding = Finding(self.node.label, self.node.type_name, reason, remedy)
        return UnsupportedModelError(f"{self.node.op} at {self.node.label!r}: {reason}", findings=[finding])


Rule = Callable[[Lift], "list[Node]"]


def lift_node(graph: Graph, node: Node, opset: int) -> list[Node]:
    """The nodes that stand for ``node`` of ``opset`` in the canonical form; ``[node]`` where it is so already."""
    if node.domain:
        return [node]
    for before, rule in _RULES.get(node.op, ()):
        if opset < before:
            try:
                return rule(Lift(graph, node, opset))
            except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
                said = f"{type(error).__name__}: {error}".rstrip(": ")
                raise ModelError(
                    f"{node.op} at {node.label!r} is not what opset {opset} has by that name ({said})",
                    hint="export the model again from its framework",
                ) from None
    return [node]


def _axes_input(it: Lift) -> list[Node]:
    axes = it.ints("axes")
    if axes is not None and it.input(1) is None:
        it.inputs = [it.inputs[0], it.constant("axes", axes)]
    return it.done()


def _clip(it: Lift) -> list[Node]:
    dtype = it.inputs[0].dtype if it.inputs[0] is not None and it.inputs[0].dtype else "float32"
    low, high = it.attrs.pop("min", None), it.attrs.pop("max", None)
    it.inputs = [
        it.inputs[0],
        None if low is None else it.constant("min", low, dtype),
        None if high is None else it.constant("max", high, dtype),
    ]
    return it.done()


def _slice(it: Lift) -> list[Node]:
    starts, ends, axes = it.ints("starts"), it.ints("ends"), it.ints("axes")
    it.inputs = [it.inputs[0], it.constant("starts", starts or []), it.constant("ends", ends or [])]
    if axes is not None:
        it.inputs.append(it.constant("axes", axes))
    return it.done()


def _pad(it: Lift) -> list[Node]:
    pads, value = it.ints("pads"), it.attrs.pop("value", 0.0)
    first = it.inputs[0]
    dtype = first.dtype if first is not None and first.dtype else "float32"
    it.inputs = [first, it.constant("pads", pads or []), it.constant("value", value, dtype)]
    return it.done()


def _split(it: Lift) -> list[Node]:
    sizes = it.ints("split")
    if sizes is not None:
        it.inputs = [it.inputs[0], it.constant("split", sizes)]
    return _split_sizes(it)


def _split_sizes(it: Lift) -> list[Node]:
    """Sizes are always given: equal parts, the last one smaller where they do not fit (opset 18)."""
    it.attrs.pop("num_outputs", None)
    first = it.inputs[0]
    if it.input(1) is None and first is not None and first.shape is not None:
        axis = first.shape[it.attrs.get("axis", 0)]
        if isinstance(axis, int):
            count = len(it.node.outputs)
            part = -(-axis // count)
            sizes = [part] * (count - 1)
            it.inputs = [first, it.constant("split", [*sizes, axis - part * (count - 1)])]
    return it.done()


def _resize10(it: Lift) -> list[Node]:
    """Resize of opset 10 and Upsample: asymmetric coordinates, nearest by floor."""
    scales = it.attrs.pop("scales", None)
    second = it.constant("scales", scales, "float32") if scales is not None else it.input(1)
    mode = it.attrs.get("mode", "nearest")
    it.attrs = {"mode": "linear" if mode == "bilinear" else mode}
    it.attrs |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    it.inputs = [it.inputs[0], None, second]
    return it.done("Resize")


def _resize11(it: Lift) -> list[Node]:
    if it.attrs.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn" and it.opset >= 13:
        raise it.refuse("coordinate_transformation_mode tf_half_pixel_for_nn left ONNX with opset 13")
    scales, sizes = it.input(2), it.input(3)
    if sizes is not None and scales is not None:
        # Opset 11 wants an empty ``scales`` beside ``sizes``; later ones want it left out.
        it.inputs[2] = None
    return it.done()


def _topk(it: Lift) -> list[Node]:
    it.inputs = [it.inputs[0], it.constant("k", [it.attrs.pop("k")])]
    return it.done()


def _dropout(it: Lift) -> list[Node]:
    it.attrs.pop("ratio", None)
    return it.done()


def _softmax(it: Lift) -> list[Node]:
    """Before opset 13 the axes from ``axis`` (default 1) on are one: flatten, work on the last, shape back."""
    rank = it.rank()
    axis = it.attrs.pop("axis", 1)
    axis += rank if axis < 0 else 0
    first = it.inputs[0]
    assert first is not None
    assert first.shape is not None
    if axis == rank - 1 or all(size == 1 for size in first.shape[axis + 1 :]):
        it.attrs["axis"] = axis
        return it.done()
    if not all(isinstance(size, int) for size in first.shape):
        raise it.refuse("its input's shape is not fixed, and this opset's meaning depends on it")
    head = int(np.prod([size for size in first.shape[:axis] if isinstance(size, int)], dtype=np.int64))
    flat = Value(it.graph.fresh(f"{it.node.label}_flat"), first.dtype)
    soft = Value(it.graph.fresh(f"{it.node.label}_soft"), first.dtype)
    return [
        Node("", "Reshape", [first, it.constant("flat_shape", [head, -1])], [flat]),
        Node(it.node.name, it.node.op, [flat], [soft], {"axis": 1}),
        Node("", "Reshape", [soft, it.constant("shape", list(first.shape))], list(it.node.outputs)),
    ]


def _batch_norm(it: Lift) -> list[Node]:
    if not it.attrs.pop("spatial", 1):
        raise it.refuse("spatial=0 (statistics for every position) left ONNX with opset 9")
    it.attrs.pop("momentum", None)
    if it.attrs.pop("training_mode", 0) and not _own_statistics(it):
        raise it.refuse("it is in training mode", "export the model for inference (model.eval())")
    # Outputs beyond the first are training's running statistics.
    return it.done(outputs=it.node.outputs[:1])


def _own_statistics(it: Lift) -> bool:
    """In training mode the statistics are the input's own: constants where it is one (weights standardised so)."""
    first = it.inputs[0]
    if first is None or first.const is None or first.const.ndim < 2:
        return False
    axes = (0, *range(2, first.const.ndim))
    for index, numbers in (
        (3, first.const.mean(axis=axes, dtype=np.float64)),
        (4, first.const.var(axis=axes, dtype=np.float64)),
    ):
        it.inputs[index] = it.constant(("mean", "variance")[index - 3], numbers, str(first.dtype))
    return True


def _group_norm(it: Lift) -> list[Node]:
    """Opset 18's scale and bias count groups, opset 21's count channels."""
    first, scale, bias = it.inputs[:3]
    assert first is not None
    channels = first.shape[1] if first.shape is not None and len(first.shape) > 1 else None
    groups = it.attrs["num_groups"]
    if not isinstance(channels, int):
        raise it.refuse("its input's channels are not known")
    nodes: list[Node] = []
    for index, (what, value) in enumerate((("scale", scale), ("bias", bias)), start=1):
        assert value is not None
        column = Value(it.graph.fresh(f"{it.node.label}_{what}_column"), value.dtype)
        wide = Value(it.graph.fresh(f"{it.node.label}_{what}_wide"), value.dtype)
        full = Value(it.graph.fresh(f"{it.node.label}_{what}"), value.dtype)
        nodes += [
            Node("", "Reshape", [value, it.constant(f"{what}_c", [groups, 1])], [column]),
            Node("", "Expand", [column, it.constant(f"{what}_e", [groups, channels // groups])], [wide]),
            Node("", "Reshape", [wide, it.constant(f"{what}_s", [channels])], [full]),
        ]
        it.inputs[index] = full
    return [*nodes, *it.done()]


def _grid_sample(it: Lift) -> list[Node]:
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = it.attrs.get("mode", "bilinear")
    it.attrs["mode"] = names.get(mode, mode)
    return it.done()


def _roi_align(it: Lift) -> list[Node]:
    it.attrs.setdefault("coordinate_transformation_mode", "output_half_pixel")
    return it.done()


def _dft(it: Lift) -> list[Node]:
    it.inputs = [it.inputs[0], it.input(1), it.constant("axis", it.attrs.pop("axis", 1))]
    return it.done()


def _scan(it: Lift) -> list[Node]:
    raise it.refuse("opset 8's Scan has a batch axis of its own", "export the model with opset 9 or newer")


def _scatter(it: Lift) -> list[Node]:
    return it.done("ScatterElements")


_REDUCE_18 = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_LATEST = 1 << 30


def _compress(it: Lift) -> list[Node]:
    """A constant condition is a Gather, whose shape is known."""
    condition = it.input(1)
    if condition is None or condition.const is None:
        return it.done()
    it.inputs = [it.inputs[0], it.constant("indices", np.flatnonzero(condition.const))]
    nodes: list[Node] = []
    if "axis" not in it.attrs:
        flat = Value(it.graph.fresh(f"{it.node.label}_flat"))
        nodes.append(Node("", "Reshape", [it.inputs[0], it.constant("shape", [-1])], [flat]))
        it.inputs[0] = flat
    it.attrs.setdefault("axis", 0)
    return [*nodes, *it.done("Gather")]


def _stft(it: Lift) -> list[Node]:
    # Shape inference takes the missing attribute for 0, the operator's default is 1.
    it.attrs.setdefault("onesided", 1)
    return it.done()


_RULES: dict[str, list[tuple[int, Rule]]] = {
    "BatchNormalization": [(_LATEST, _batch_norm)],
    "Clip": [(11, _clip)],
    "Compress": [(_LATEST, _compress)],
    "DFT": [(20, _dft)],
    "Dropout": [(12, _dropout)],
    "GridSample": [(20, _grid_sample)],
    "GroupNormalization": [(21, _group_norm)],
    "Hardmax": [(13, _softmax)],
    "LogSoftmax": [(13, _softmax)],
    "Pad": [(11, _pad)],
    "ReduceSum": [(13, _axes_input)],
    "Resize": [(11, _resize10), (_LATEST, _resize11)],
    "STFT": [(_LATEST, _stft)],
    "RoiAlign": [(16, _roi_align)],
    "Scan": [(9, _scan)],
    "Scatter": [(11, _scatter)],
    "Slice": [(10, _slice)],
    "Softmax": [(13, _softmax)],
    "Split": [(13, _split), (_LATEST, _split_sizes)],
    "Squeeze": [(13, _axes_input)],
    "TopK": [(10, _topk)],
    "Unsqueeze": [(13, _axes_input)],
    "Upsample": [(_LATEST, _resize10)],
    **{f"Reduce{name}": [(18, _axes_input)] for name in _REDUCE_18},
}
"""Operator -> (first opset that needs no lifting, rule), in order; the first that applies is taken."""
