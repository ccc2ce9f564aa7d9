"""The framework holds rules to their contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobilekit.graph import Graph, Node, Value
from mobilekit.importers.convert import from_proto
from mobilekit.passes.base import ContractError, Edit, Rule, apply_rules
from mobilekit.passes.infer import infer
from mobilekit.passes.legalise import RULES
from tests.models import of_nodes
from tests.unit.passes.checks import Node as OnnxNode


def graph() -> Graph:
    nodes = [OnnxNode("Relu", ["x"], ["a"]), OnnxNode("Elu", ["a"], ["y"])]
    made = from_proto(of_nodes(nodes, {"x": (2, 3)}, {"y": (2, 3)}), Path())
    infer(made)
    return made


class OnRelu(Rule[Node]):
    name = "on-relu"
    ops = ("Relu",)

    def pattern(self, node: Node) -> Node:
        return node


class WrongShape(OnRelu):
    def rewrite(self, match: Node, edit: Edit) -> list[Node]:
        return [Node("", "Transpose", match.inputs, match.outputs, {"perm": [1, 0]})]


class ForgetsOutput(OnRelu):
    def rewrite(self, match: Node, edit: Edit) -> list[Node]:
        return [Node("", "Abs", match.inputs, [edit.value("elsewhere")])]


class WrongValue(OnRelu):
    def rewrite(self, match: Node, edit: Edit) -> Value:
        return edit.constant("k", 1.0, "float32")


@pytest.mark.parametrize("rule", [WrongShape(), ForgetsOutput(), WrongValue()])
def test_a_rule_that_breaks_its_contract_is_named(rule: OnRelu) -> None:
    with pytest.raises(ContractError, match="on-relu at a"):
        apply_rules(graph(), [rule])


class Refuses(OnRelu):
    def check(self, match: Node, edit: Edit) -> str:
        return "it is Tuesday"


def test_refusals_are_sentences() -> None:
    edit = apply_rules(graph(), [Refuses()])
    assert [(refusal.rule, refusal.node, refusal.reason) for refusal in edit.refusals] == [
        ("on-relu", "a", "it is Tuesday")
    ]
    assert edit.fired == {}


class Grows(OnRelu):
    def rewrite(self, match: Node, edit: Edit) -> list[Node]:
        middle = edit.value("m")
        return [Node("", "Abs", match.inputs, [middle]), Node("", "Selu", [middle], match.outputs)]


def test_new_nodes_stand_where_the_old_one_stood() -> None:
    made = graph()
    edit = apply_rules(made, [Grows()])
    assert edit.fired == {"on-relu": 1}
    assert [node.op for node in made.nodes] == ["Abs", "Selu", "Elu"]


def test_rule_names_are_unique_and_said() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert all(rule.__doc__ and rule.ops for rule in RULES)
