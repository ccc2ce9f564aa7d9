"""``--verify-passes`` names what changed the numbers, and keeps quiet about what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import mobilekit.passes.evaluate
import mobilekit.passes.infer
import mobilekit.passes.legalise
import mobilekit.passes.simplify
from mobilekit.errors import ModelError, VerificationError
from mobilekit.graph import Graph, Value
from mobilekit.graph import Node as GraphNode
from mobilekit.importers.onnx import load
from mobilekit.passes import prepare
from mobilekit.passes.base import Edit, Rule
from mobilekit.passes.verify import PassVerifier
from mobilekit.pipeline.export import ExportOptions, export_model
from tests.models import conv_classifier, of_nodes, save
from tests.unit.passes.checks import Node, feeds_of, prepared


class Planted(Rule[GraphNode]):
    """Rebuilds the node with other inputs or attributes."""

    name = "planted"

    def __init__(self, op: str, attrs: dict[str, Any] | None = None, factor: float = 1.0) -> None:
        self.ops = (op,)
        self._attrs = attrs or {}
        self._factor = factor

    def pattern(self, node: GraphNode) -> GraphNode | None:
        done = node.name.startswith("planted") or self._attrs.items() <= node.attrs.items()
        return None if done and (self._attrs or node.name.startswith("planted")) else node

    def rewrite(self, match: GraphNode, edit: Edit) -> list[GraphNode]:
        if self._factor == 1.0:
            return [GraphNode("planted", match.op, match.inputs, match.outputs, match.attrs | self._attrs)]
        inner = edit.value("inner")
        return [
            GraphNode("planted", match.op, match.inputs, [inner], dict(match.attrs)),
            GraphNode("planted/scale", "Mul", [inner, edit.constant("k", self._factor, "float32")], match.outputs),
        ]


def conv_model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    nodes = [
        Node("Conv", ["x", "w"], ["a"], pads=[2, 1, 0, 1], name="the conv"),
        Node("Relu", ["a"], ["b"]),
        Node("Softmax", ["b"], ["y"], axis=1, name="the softmax"),
    ]
    weights = {"w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32)}
    return of_nodes(nodes, {"x": (1, 3, 8, 8)}, {"y": (1, 4, 8, 8)}, weights)


@pytest.mark.parametrize(
    ("rule", "node"),
    [
        (Planted("Conv", {"pads": [0, 1, 2, 1]}), "the conv"),
        (Planted("Softmax", {"axis": 3}), "the softmax"),
        (Planted("Conv", factor=1.001), "the conv"),
    ],
)
def test_a_wrong_rule_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: Rule[Any], node: str) -> None:
    monkeypatch.setattr(mobilekit.passes.legalise, "RULES", (rule,))
    with pytest.raises(VerificationError, match=f"rule planted at {node!r} changed the numbers.*is off") as caught:
        prepared(conv_model(), tmp_path)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("factor", [1.0, 1.0000001])
def test_a_right_rule_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    monkeypatch.setattr(mobilekit.passes.legalise, "RULES", (Planted("Conv", factor=factor),))
    with PassVerifier(feeds_of, isolated=False) as verifier:
        source = load(save(conv_model(), tmp_path / "m.onnx"))
        graph = prepare(source, {}, simplify=False, verifier=verifier)
    assert any(node.name == "planted" for node in graph.nodes)
    assert verifier.checked >= 5


def test_a_value_taken_for_another_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Drop(Rule[GraphNode]):
        name, ops = "drop-relu", ("Relu",)

        def pattern(self, node: GraphNode) -> GraphNode | None:
            return node

        def rewrite(self, match: GraphNode, edit: Edit) -> Value | None:
            return match.inputs[0]

    monkeypatch.setattr(mobilekit.passes.legalise, "RULES", (Drop(),))
    with pytest.raises(VerificationError, match="rule drop-relu at 'b'"):
        prepared(conv_model(), tmp_path)


def test_wrong_lifting_folding_and_simplifying_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        Node("Clip", ["x"], ["a"], min=-0.5, max=0.5, name="the clip"),
        Node("Sqrt", ["k"], ["root"], name="the root"),
        Node("Mul", ["a", "root"], ["b"]),
        Node("Relu", ["b"], ["y"]),
    ]
    model = of_nodes(nodes, {"x": (2, 8)}, {"y": (2, 8)}, {"k": np.full(8, 4, np.float32)}, opset=10)
    prepared(model, tmp_path)

    def wrong_lift(graph: Graph, node: GraphNode, opset: int) -> list[GraphNode]:
        made = right_lift(graph, node, opset)
        if node.op == "Clip":
            made[0].inputs[2] = graph.constant("max", np.array(0.4, np.float32))
        return made

    with monkeypatch.context() as patch:
        right_lift = mobilekit.passes.infer.lift_node
        patch.setattr(mobilekit.passes.infer, "lift_node", wrong_lift)
        with pytest.raises(VerificationError, match="lifting of Clip at 'the clip' changed the numbers: 'a'"):
            prepared(model, tmp_path)
    with monkeypatch.context() as patch:
        table = {**mobilekit.passes.evaluate._TABLE, "Sqrt": lambda inputs, _: inputs[0] * np.float32(0.501)}
        patch.setattr(mobilekit.passes.evaluate, "_TABLE", table)
        with pytest.raises(VerificationError, match="folding of Sqrt at 'the root'"):
            prepared(model, tmp_path)

    def wrong_simplify(graph: Graph, progress: object) -> Graph:
        node = next(node for node in graph.nodes if node.op == "Relu")
        other = Graph("other", dict(graph.opsets))
        other.inputs, other.outputs = graph.inputs, graph.outputs
        for old in graph.take():
            other.append(GraphNode(old.name, "Abs", old.inputs, old.outputs) if old is node else old)
        return other

    with monkeypatch.context() as patch:
        patch.setattr(mobilekit.passes.simplify, "simplify", wrong_simplify)
        patch.setattr(mobilekit.passes.simplify, "worthwhile", lambda _: True)
        with pytest.raises(VerificationError, match="onnxsim at 'y' changed the numbers"):
            prepared(model, tmp_path, simplify=True)


def test_in_a_process_of_its_own_through_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(conv_classifier(), tmp_path / "m.onnx")
    options = ExportOptions(verify_passes=True, verify=False, simplify=False)
    assert (export_model(path, tmp_path / "out", options).bundle / "manifest.json").is_file()
    monkeypatch.setattr(mobilekit.passes.legalise, "RULES", (Planted("Conv", factor=0.999),))
    with pytest.raises(VerificationError, match="rule planted at '/conv'"):
        export_model(path, tmp_path / "wrong", options)
    assert not (tmp_path / "wrong").exists()


def test_a_model_that_onnx_runtime_does_not_run_is_refused(tmp_path: Path) -> None:
    nodes = [Node("Gather", ["x", "i"], ["y"])]
    model = of_nodes(nodes, {"x": (2, 8)}, {"y": (1, 8)}, {"i": np.array([7], np.int64)})
    with pytest.raises(ModelError, match="needs ONNX Runtime to run the model"):
        prepared(model, tmp_path)
