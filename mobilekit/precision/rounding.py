"""What a number format must cost: a copy of a model that rounds every float it computes, for ONNX Runtime to run.

After each node that computes ``x`` (float32) stands a rounding of ``x``:

* float16: ``cast(x * g) / g``, range included: what overflows there overflows here;
  behind a sum of ``K`` products also ``c x - (c x - x)`` with ``c = 2^13 sqrt(K / 2) g``: ARM sums in float16, too, and
  the roundings of ``K`` partial sums that grow as a random walk does add up to ``sqrt(K / 2)`` of one;
* bfloat16, which has float32's range: ``c x - (c x - x)`` (T. J. Dekker, 1971), which keeps ``24 - log2(c)`` bits;
* float32: the same. A rounding to float32 itself cannot be seen in float32; one that is ``c`` times coarser can, and
  errors this small grow with it in proportion.

``c`` and ``g`` are an input of the model, so that one session gives as many draws as it is fed values: each shifts the
grid, and so rounds other numbers up. Weights are rounded in place, once. Where 16 bits are computed in, the model's
inputs are rounded likewise, but for what is beyond the range, which is a mask.

What follows from sizes and constants alone is computed as it is, for it may decide on sizes in turn (a ``Range`` of
float32 with 20.02 for 20 has 21 numbers); it is rounded where it meets what follows from the inputs' values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mobilekit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

    from mobilekit.tensors import Array

__all__ = ["DRAW", "MOVES", "RoundedModel", "RoundedType", "round_everywhere"]

RoundedType = Literal["float32", "float16", "bfloat16"]

DRAW = "mobilekit_draw"
"""The input that shifts the grid: a float32 scalar, ``c`` or ``g``."""

_DRAWS: dict[RoundedType, tuple[float, ...]] = {
    "float32": (1.0, 257.0, 331.0, 431.0),
    "float16": (1.0, 1.19, 1.41),
    "bfloat16": (65537.0, 77987.0, 92405.0),
}
"""For float32, coarser by 2^8 or a little more: far above what ONNX Runtime rounds by itself, far below the signal. 1
rounds nothing there: what the order of ONNX Runtime's own sums changes."""

_LARGEST_BYTES = 1_900_000_000
"""A model with its weights must fit in one message of 2 GB."""

_FLOAT, _HALF = 1, 10

MOVES = frozenset(
    {
        "Concat",
        "Constant",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "MaxPool",
        "Pad",
        "Relu",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "TopK",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)
"""They move numbers that are rounded already."""

_SIZES_FROM: Mapping[str, int] = {"Resize": 1, "Upsample": 1}
"""From which input on an operator takes its result's size."""


def round_everywhere(model: ModelProto, weights: RoundedType, computed: RoundedType | None) -> None:
    """Round all float32 weights to ``weights`` and what each node computes to ``computed`` (``None``: leave it), in
    place. The model's data must be in it (no external files). It gains the input :data:`DRAW`."""
    import onnx

    if computed is not None:
        # Element types of what is between the nodes; ONNX Runtime infers them too, but keeps them to itself.
        model.CopyFrom(onnx.shape_inference.infer_shapes(model))
    _graph(model.graph, {}, {value.name for value in model.graph.input}, weights, computed)
    model.graph.input.append(onnx.helper.make_tensor_value_info(DRAW, _FLOAT, []))


def _graph(
    graph: GraphProto, outer: dict[str, int], live: set[str], weights: RoundedType, computed: RoundedType | None
) -> None:
    """``live``: what is known outside and follows from the values of the model's inputs."""
    from onnx import numpy_helper

    types = dict(outer)
    for info in (*graph.value_info, *graph.input, *graph.output):
        types[info.name] = info.type.tensor_type.elem_type
    for tensor in graph.initializer:
        types[tensor.name] = tensor.data_type
        if weights != "float32" and tensor.data_type == _FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(_rounded(numpy_helper.to_array(tensor), weights), tensor.name))
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    live = live - shapes.keys() | {value.name for value in graph.input} - shapes.keys()
    sizes: set[str] = set()
    nodes: list[NodeProto] = []
    for node in graph.node:
        bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        for body in bodies:
            _graph(body, types, live, weights, computed)
        for attribute in node.attribute:
            if node.op_type == "Constant" and weights != "float32" and attribute.t.data_type == _FLOAT:
                attribute.t.CopyFrom(numpy_helper.from_array(_rounded(numpy_helper.to_array(attribute.t), weights)))
        standard = node.domain in ("", "ai.onnx")
        if not (standard and node.op_type in ("Shape", "Size")) and (bodies or not live.isdisjoint(node.input)):
            live.update(node.output)
            if computed is not None:
                for index in range(min(len(node.input), _SIZES_FROM.get(node.op_type, len(node.input)))):
                    name = node.input[index]
                    if name in sizes and types.get(name) == _FLOAT:
                        node.input[index] = held = f"{name}/mobilekit_held"
                        if held not in types:
                            types[held] = _FLOAT
                            nodes += _rounding(name, held, computed)
        elif node.op_type != "Constant":
            sizes.update(node.output)
        nodes.append(node)
        if computed is None or (node.op_type in MOVES and standard):
            continue
        for index, name in enumerate(node.output):
            if name in live and types.get(name) == _FLOAT:
                node.output[index] = exact = f"{name}/mobilekit_exact"
                products = _products(node, shapes) if computed == "float16" else 1
                if products > 2:
                    coarse = np.array(2.0**13 * np.sqrt(products / 2), dtype=np.float32)
                    graph.initializer.append(numpy_helper.from_array(coarse, f"{name}/mobilekit_coarse"))
                    nodes += _summed(exact, f"{name}/mobilekit_sum", f"{name}/mobilekit_coarse")
                    exact = f"{name}/mobilekit_sum"
                nodes += _rounding(exact, name, computed)
    kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _products(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """How many products a number that the node makes is the sum of, by its weight's shape; 1 where it has none."""
    weight = shapes.get(node.input[1], ()) if len(node.input) > 1 else ()
    if node.op_type == "Conv":
        return int(np.prod(weight[1:], initial=1))
    if node.op_type == "ConvTranspose" and weight:
        return weight[0]
    if node.op_type in ("MatMul", "Gemm") and len(weight) > 1:
        turned = any(a.name == "transB" and a.i for a in node.attribute)
        return weight[-1] if turned else weight[-2]
    if node.op_type in ("LSTM", "GRU", "RNN") and len(weight) == 3:
        return weight[2] + shapes.get(node.input[2], weight)[-1]
    return 1


def _summed(source: str, result: str, coarse: str) -> list[NodeProto]:
    from onnx.helper import make_node

    return [
        make_node("Mul", [coarse, DRAW], [f"{result}/c"]),
        make_node("Mul", [source, f"{result}/c"], [f"{result}/scaled"]),
        make_node("Sub", [f"{result}/scaled", source], [f"{result}/low"]),
        make_node("Sub", [f"{result}/scaled", f"{result}/low"], [result]),
    ]


def _rounding(source: str, result: str, computed: RoundedType) -> list[NodeProto]:
    from onnx.helper import make_node

    def name(step: str) -> str:
        return f"{result}/mobilekit_{step}"

    if computed != "float16":
        return [
            make_node("Mul", [source, DRAW], [name("scaled")]),
            make_node("Sub", [name("scaled"), source], [name("low")]),
            make_node("Sub", [name("scaled"), name("low")], [result]),
        ]
    return [
        make_node("Mul", [source, DRAW], [name("scaled")]),
        make_node("Cast", [name("scaled")], [name("narrow")], to=_HALF),
        make_node("Cast", [name("narrow")], [name("wide")], to=_FLOAT),
        make_node("Div", [name("wide"), DRAW], [result]),
    ]


def _rounded(array: Array, dtype: RoundedType) -> Array:
    import ml_dtypes

    narrow = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    # Infinity is what a number beyond the range becomes there, too.
    with np.errstate(over="ignore"):
        return array.astype(narrow).astype(np.float32)


def _input(array: Array, computed: RoundedType | None, draw: float) -> Array:
    if computed not in ("float16", "bfloat16") or array.dtype != np.float32:
        return array
    grid = np.array(draw, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled: Array = np.multiply(array, grid)
        if computed == "float16":
            rounded: Array = np.divide(scaled.astype(np.float16).astype(np.float32), grid)
        else:
            rounded = np.subtract(scaled, np.subtract(scaled, array))
    return np.where(np.isfinite(rounded), rounded, array)


class RoundedModel:
    """Lives in a child process: the model at ``model`` as it is, and with everything rounded, each loaded once.

    ``free`` names axes by input that may have another size than the file says. Raises :class:`ModelError` where ONNX
    Runtime does not load the rounded model, or it is too large to be rounded.
    """

    def __init__(
        self, model: str, weights: RoundedType, computed: RoundedType | None, free: Mapping[str, Sequence[int]]
    ) -> None:
        import onnx
        import onnxruntime as ort

        from mobilekit.runners.ort import without_sizes

        proto = onnx.load(model, load_external_data=False)
        without_sizes(proto, free)
        onnx.load_external_data_for_model(proto, str(Path(model).parent))
        if proto.ByteSize() > _LARGEST_BYTES:
            raise ModelError(f"{Path(model).name} is too large to emulate rounding in")
        try:
            settings = ort.SessionOptions()
            settings.log_severity_level = 3
            settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
            exact = proto.SerializeToString()
            self._exact = ort.InferenceSession(exact, settings, providers=["CPUExecutionProvider"])
            round_everywhere(proto, weights, computed)
            # It would take the roundings out.
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            data = proto.SerializeToString()
            self._session = ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnx and ONNX Runtime raise what they like
            raise ModelError(f"{Path(model).name} cannot be run with every result rounded: {error}") from error
        self._computed = computed
        self._draws = _DRAWS[computed] if computed is not None else (1.0,)
        self._coarser = self._draws if computed == "float32" else (1.0,) * len(self._draws)

    def errors(self, inputs: dict[str, Any]) -> dict[str, list[list[float]]]:
        """By output, a draw each, against the model as it is: relative L2, largest absolute error, relative L2 of
        the faint part.

        Infinite where something leaves the format's range. Raises :class:`UsageError` where the model cannot run.
        """
        from mobilekit.metrics.tensors import compare

        known = {value.name for value in self._exact.get_inputs()}
        names = [output.name for output in self._exact.get_outputs()]
        feed = {name: array for name, array in inputs.items() if name in known}
        found: dict[str, list[list[float]]] = {name: [] for name in names}
        try:
            expected = self._exact.run(names, feed)
            for draw, coarser in zip(self._draws, self._coarser, strict=True):
                rounded = {name: _input(array, self._computed, draw) for name, array in feed.items()}
                outputs = self._session.run(names, {**rounded, DRAW: np.array(draw, dtype=np.float32)})
                for name, output, wanted in zip(names, outputs, expected, strict=True):
                    off = compare(output, wanted)
                    found[name].append([off.relative_l2 / coarser, off.max_abs / coarser, off.faint_l2 / coarser])
        except Exception as error:  # ONNX Runtime's exceptions share no base class of its own
            raise UsageError(f"the rounded model cannot be run: {error}") from error
        return found
