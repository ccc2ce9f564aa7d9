"""Behind a number of rows that depends on data: what looks at all rows at once sees the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilekit.errors import UnsupportedModelError, VerificationError
from mobilekit.importers.onnx import load
from mobilekit.passes import prepare, row_mixing
from mobilekit.passes.verify import PassVerifier
from tests.models import save
from tests.unit.passes.checks import feeds_of
from tests.unit.targets.ncnn.oracle import agrees, model

Node = helper.make_node
CONSTS: dict[str, Any] = {
    "edge": np.float32(0),
    "none": np.array(0),
    **{str(n): np.array([n]) for n in (-1, 0, 1, 2, 3, 100)},
}
PICK = [
    Node("Greater", ["x", "edge"], ["where"]),
    Node("NonZero", ["where"], ["found"]),
    Node("Transpose", ["found"], ["tuples"], perm=[1, 0]),
    Node("GatherND", ["x", "tuples"], ["v"]),  # the positive ones
    Node("Squeeze", ["found", "0"], ["place"]),
    Node("Gather", ["b", "place"], ["r"]),  # and their rows of b, (count, 4)
]
BEFORE = [*PICK, Node("Shape", ["v"], ["count"]), Node("Squeeze", ["count", "0"], ["number"])]


def data(positive: int, seed: int = 3) -> dict[str, np.ndarray]:
    """Nine numbers of which so many are positive, nine rows beside them."""
    rng = np.random.default_rng(seed)
    signs = rng.permutation(np.arange(9) < positive) * 2 - 1
    return {
        "x": (signs * (0.1 + rng.random(9))).astype(np.float32),
        "b": rng.standard_normal((9, 4)).astype(np.float32),
    }


def check(tail: Sequence[onnx.NodeProto], positive: int, consts: dict[str, Any] | None = None, **kwargs: Any) -> str:
    return agrees([*BEFORE, *tail], data(positive), CONSTS | (consts or {}), **kwargs)


@pytest.mark.parametrize("positive", [2, 5, 9])
@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        *[
            (f"Reduce{name}", {"keepdims": 0})
            for name in ("Max", "Min", "Sum", "Mean", "Prod", "L1", "L2", "LogSumExp")
        ],
        ("ReduceMax", {"keepdims": 1}),
        ("Softmax", {"axis": 0}),
        ("LogSoftmax", {"axis": 0}),
        ("CumSum", {}),
        ("CumSum", {"reverse": 1}),
        ("ArgMax", {"axis": 0}),
        ("ArgMin", {"axis": 0, "keepdims": 0}),
    ],
)
def test_over_the_rows(op: str, attrs: dict[str, int], positive: int) -> None:
    named = op.startswith("Reduce") or op == "CumSum"
    inputs = ["r", "0" if op != "CumSum" else "none"] if named else ["r"]
    check([Node(op, inputs, ["y"], **attrs)], positive)


def test_over_everything() -> None:
    check([Node("ReduceMax", ["r"], ["m"], keepdims=0), Node("Mul", ["r", "m"], ["y"])], 4)


@pytest.mark.parametrize("positive", [0, 1, 6])
@pytest.mark.parametrize("largest", [0, 1])
def test_the_best_of_at_most_three(largest: int, positive: int) -> None:
    tail = [
        Node("Concat", ["3", "count"], ["both"], axis=0),
        Node("ReduceMin", ["both"], ["least"], keepdims=0),
        Node("Reshape", ["least", "-1"], ["k"]),
        Node("TopK", ["v", "k"], ["y", "i"], largest=largest),
        Node("Gather", ["r", "i"], ["z"]),
    ]
    check(tail, positive, outputs=["y", "i", "z"])


@pytest.mark.parametrize(("largest", "far"), [(1, -np.inf), (0, np.inf)])
def test_real_rows_that_are_infinite_come_before_those_that_are_none(largest: int, far: float) -> None:
    tail = [
        Node("Greater", ["v", "half"], ["few"]),
        Node("Where", ["few", "v", "far"], ["w"]),
        Node("TopK", ["w", "count"], ["q", "i"], largest=largest),
        Node("Gather", ["r", "i"], ["z"]),
    ]
    check(tail, 5, {"half": np.float32(0.5), "far": np.float32(far)}, outputs=["z"])


def test_columns_picked_of_rows_are_refused() -> None:
    tail = [
        Node("Slice", ["v", "0", "3", "0"], ["three"]),
        Node("Greater", ["three", "edge"], ["columns"]),
        Node("Compress", ["r", "columns"], ["y"], axis=1),
    ]
    with pytest.raises(UnsupportedModelError) as caught:
        check(tail, 5)
    assert [finding.op for finding in caught.value.findings] == ["Compress"]


def test_all_of_them_sorted() -> None:
    text = check([Node("TopK", ["v", "count"], ["y", "i"]), Node("Gather", ["r", "i"], ["z"])], 5, outputs=["y", "z"])
    assert "MkTopK" in text


@pytest.mark.parametrize("positive", [0, 3, 9])
def test_rows_one_after_another(positive: int) -> None:
    tail = [
        Node("Less", ["x", "edge"], ["other"]),
        Node("Compress", ["b", "other"], ["s"], axis=0),
        Node("Concat", ["r", "b", "s"], ["y"], axis=0),
        Node("Compress", ["x", "other"], ["w"], axis=0),
        Node("Concat", ["v", "x", "w"], ["z"], axis=0),
        Node("Unsqueeze", ["z", "1"], ["zz"]),
        Node("Mul", ["y", "zz"], ["p"]),  # the same number of rows, and known to be
    ]
    check(tail, positive, outputs=["y", "p"])


@pytest.mark.parametrize("index", [-1, -2, 0, 1])
def test_a_row_by_its_position(index: int) -> None:
    consts = {"at": np.array(index)}
    check([Node("Gather", ["r", "at"], ["y"])], 4, consts)
    tail = [Node("Cast", ["v"], ["whole"], to=TensorProto.INT64), Node("Add", ["whole", "at"], ["computed"])]
    check([*tail, Node("Gather", ["r", "computed"], ["y"])], 4, consts)


@pytest.mark.parametrize("positive", [0, 6])
def test_rows_of_rows(positive: int) -> None:
    tail = [
        Node("ReduceSum", ["r", "1"], ["s"], keepdims=0),
        Node("Greater", ["s", "edge"], ["keep"]),
        Node("NonZero", ["keep"], ["again"]),
        Node("Squeeze", ["again", "0"], ["at"]),
        Node("Gather", ["r", "at"], ["y"]),
        Node("Compress", ["v", "keep"], ["z"], axis=0),
    ]
    check(tail, positive, outputs=["y", "z"])


@pytest.mark.parametrize("positive", [1, 6])
def test_labels_and_numbers(positive: int) -> None:
    label = helper.make_tensor("label", TensorProto.INT64, [1], [7])
    tail = [
        Node("ConstantOfShape", ["count"], ["labels"], value=label),
        Node("Cast", ["labels"], ["numbers"], to=TensorProto.FLOAT),
        Node("Mul", ["numbers", "v"], ["y"]),
        Node("Range", ["none", "number", "one"], ["z"]),
        Node("Expand", ["edge", "count"], ["e"]),
        Node("Sub", ["e", "v"], ["w"]),
        Node("ReduceSum", ["labels", "0"], ["total"]),
    ]
    check(tail, positive, {"one": np.array(1)}, outputs=["y", "z", "w", "labels", "total"])


def detections(guarded: bool) -> list[onnx.NodeProto]:
    """torchvision's batched suppression: boxes of each class moved apart, unless there is none."""
    inner = [
        Node("ReduceMax", ["r"], ["m"], keepdims=0),
        Node("Mul", ["v", "m"], ["off"]),
        Node("Unsqueeze", ["off", "1"], ["offs"]),
        Node("Add", ["r", "offs"], ["apart"]),
        Node("Unsqueeze", ["apart", "0"], ["boxes"]),
        Node("Unsqueeze", ["v", "0"], ["s0"]),
        Node("Unsqueeze", ["s0", "0"], ["scores"]),
        Node("NonMaxSuppression", ["boxes", "scores", "many", "overlap"], ["kept"]),
        Node("Gather", ["kept", "2"], ["k1"], axis=1),
        Node("Squeeze", ["k1", "1"], ["keep"]),
    ]
    after = [Node("Slice", ["keep", "0", "3", "0"], ["top"]), Node("Gather", ["r", "top"], ["y"])]
    if not guarded:
        return [*inner, *after]
    info = helper.make_tensor_value_info("keep", TensorProto.INT64, [None])
    nothing = helper.make_tensor_value_info("nothing", TensorProto.INT64, [0])
    empty = Node("Constant", [], ["nothing"], value=helper.make_tensor("nothing", TensorProto.INT64, [0], []))
    return [
        Node("Shape", ["r"], ["shape"]),
        Node("ReduceProd", ["shape"], ["elements"], keepdims=0),
        Node("Equal", ["elements", "none"], ["empty"]),
        Node(
            "If",
            ["empty"],
            ["keep"],
            then_branch=helper.make_graph([empty], "then", [], [nothing]),
            else_branch=helper.make_graph(inner, "else", [], [info]),
        ),
        *after,
    ]


@pytest.mark.parametrize(("positive", "guarded"), [(0, True), (1, True), (7, True), (7, False)])
def test_suppression_of_what_is_left(positive: int, guarded: bool) -> None:
    consts = {"many": np.array([2**62]), "overlap": np.array([0.1], np.float32)}
    check(detections(guarded), positive, consts)


def test_suppression_above_minus_infinity_sifts_nothing() -> None:
    """TensorFlow's threshold where the user gives none."""
    nodes = [
        Node("NonMaxSuppression", ["boxes", "scores", "many", "overlap", "least"], ["kept"]),
        Node("Slice", ["kept", "0", "3", "0"], ["y"]),
    ]
    rng = np.random.default_rng(4)
    corners = rng.random((1, 9, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + 0.4], 2)
    consts = {"many": np.array([5]), "overlap": np.array([0.4], np.float32), "least": np.array([-np.inf], np.float32)}
    agrees(nodes, {"boxes": boxes, "scores": -rng.random((1, 1, 9)).astype(np.float32)}, CONSTS | consts)


def rewritten(folder: Path, nodes: list[onnx.NodeProto]) -> int:
    """How many rewrites and tensors were held against ONNX Runtime."""
    consts = CONSTS | {"many": np.array([2**62]), "overlap": np.array([0.1], np.float32)}
    path = save(model([*BEFORE, *nodes], data(5), ["y"], consts, 21), folder / "m.onnx")
    with PassVerifier(feeds_of, isolated=False) as verifier:
        prepare(load(path), {}, simplify=False, verifier=verifier)
        return verifier.checked


@pytest.mark.parametrize(
    "nodes",
    [
        detections(True),
        [Node("ReduceMean", ["r", "0"], ["y"])],
        [Node("Unique", ["x"], ["u", "", "", "n"]), Node("Identity", ["u"], ["y"])],
    ],
)
def test_every_rewrite_behind_them_is_verified(nodes: list[onnx.NodeProto], tmp_path: Path) -> None:
    assert rewritten(tmp_path, nodes) > 3


def test_rows_that_are_none_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_mixing, "_NEUTRAL", {**row_mixing._NEUTRAL, "ReduceMax": 9.0})
    with pytest.raises(VerificationError, match="changed the numbers"):
        rewritten(tmp_path, [Node("ReduceMax", ["r", "0"], ["y"])])


def test_a_layer_of_the_rows() -> None:
    rng = np.random.default_rng(1)
    consts = {"w": rng.standard_normal((4, 3)).astype(np.float32), "c": rng.standard_normal(3).astype(np.float32)}
    check([Node("Gemm", ["r", "w", "c"], ["y"])], 5, consts)


def test_an_assignment_at_the_places_that_where_gives() -> None:
    """``y[torch.where(y > 0.5)] = 7`` as the older exporter writes it: each index expanded to the shape of all."""

    nodes = [
        Node("Greater", ["x", "half"], ["c"]),
        Node("NonZero", ["c"], ["z"]),
        Node("Transpose", ["z"], ["t"], perm=[1, 0]),
        Node("Split", ["t"], ["i1", "j1"], axis=1, num_outputs=2),
        Node("Squeeze", ["i1", "one"], ["i"]),
        Node("Squeeze", ["j1", "one"], ["j"]),
        Node("Add", ["i", "j"], ["both"]),
        Node("Shape", ["both"], ["shape"]),
        Node("Shape", ["shape"], ["rank"]),
        Node("ConstantOfShape", ["rank"], ["ones"], value=numpy_helper.from_array(np.array([1]))),
        Node("Mul", ["ones", "minus"], ["open"]),
        Node("Equal", ["shape", "open"], ["is_open"]),
        Node("Where", ["is_open", "ones", "shape"], ["target"]),
        Node("Expand", ["i", "target"], ["i2"]),
        Node("Expand", ["j", "target"], ["j2"]),
        Node("Unsqueeze", ["i2", "minus"], ["i3"]),
        Node("Unsqueeze", ["j2", "minus"], ["j3"]),
        Node("Concat", ["i3", "j3"], ["places"], axis=-1),
        Node("Expand", ["seven", "target"], ["values"]),
        Node("ScatterND", ["x", "places", "values"], ["y"]),
    ]
    consts = {"half": np.float32(0.5), "one": np.array([1]), "minus": np.array([-1]), "seven": np.float32(7)}
    x = np.random.default_rng(2).standard_normal((6, 4)).astype(np.float32)
    agrees(nodes, {"x": x}, consts)
