"""The backend node tests as ``onnx`` generates them, parameters turned into initializers."""

from __future__ import annotations

import csv
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tests.conformance.parameters import PARAMETERS

__all__ = ["SCOPE", "Case", "Scoped", "load_cases", "read_scope"]

SCOPE = Path(__file__).with_name("scope.csv")
_EXPANDED = re.compile(r"_expanded(_ver\d+)?$")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Scoped:
    """A row of ``scope.csv``. ``tier`` is ``float`` or ``int`` (any integer or boolean among what is computed with)."""

    name: str
    op: str
    tier: str
    expanded: bool
    excluded_because: str


@dataclass(frozen=True, slots=True)
class Case:
    """One test in scope: the model with its parameters fixed, and what it should compute from what."""

    scoped: Scoped
    model: bytes
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    rtol: float
    atol: float

    @property
    def name(self) -> str:
        return self.scoped.name


def read_scope() -> dict[str, Scoped]:
    with SCOPE.open(newline="") as file:
        return {
            row["case"]: Scoped(row["case"], row["op"], row["tier"], row["expanded"] == "1", row["excluded_because"])
            for row in csv.DictReader(file)
        }


def load_cases(names: set[str] | None = None) -> dict[str, Case]:
    """Generate the cases in scope, or those of ``names``. Takes some seconds: onnx makes all of its node tests."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        generated = {test.name: test for test in collect_testcases(None)}
    return {
        name: _case(scoped, generated)
        for name, scoped in read_scope().items()
        if not scoped.excluded_because and (names is None or name in names) and name in generated
    }


def _case(scoped: Scoped, generated: dict[str, Any]) -> Case:
    test = generated[scoped.name]
    assert test.model is not None
    assert len(test.data_sets) == 1, scoped.name
    given, expected = test.data_sets[0]
    model = onnx.ModelProto()
    model.CopyFrom(test.model)
    graph = model.graph
    fixed = _parameters(generated[_EXPANDED.sub("", scoped.name)].model.graph.node[0], scoped.op)
    inputs: dict[str, Array] = {}
    for info, data in zip(list(graph.input), given, strict=True):
        array = _array(data)
        if info.name in fixed:
            graph.initializer.append(numpy_helper.from_array(array, info.name))
            graph.input.remove(info)
        else:
            inputs[info.name] = array
    outputs = {info.name: _array(data) for info, data in zip(graph.output, expected, strict=True)}
    return Case(scoped, model.SerializeToString(), inputs, outputs, test.rtol, test.atol)


def _parameters(node: onnx.NodeProto, op: str) -> set[str]:
    """Names of the graph inputs that are parameters of ``node``, the one node of the case as written."""
    assert node.op_type == op
    return {name for index, name in enumerate(node.input) if name and index in PARAMETERS.get(op, ())}


def _array(data: Any) -> Array:
    return numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else np.asarray(data)
