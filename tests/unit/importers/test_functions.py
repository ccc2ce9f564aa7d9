"""Models with functions of their own: inlined as ONNX Runtime runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, helper

from mobilekit.errors import ModelError
from mobilekit.importers.convert import from_proto, to_proto
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.targets.tensorrt import TensorRTOptions, check
from mobilekit.targets.tensorrt.flavour import FLAVOURS, installed
from tests.models import of_nodes, save

DOMAIN = "com.example"


def call(op: str, x: str, y: str, overload: str = "", **attributes: object) -> NodeProto:
    node = helper.make_node(op, [x], [y], domain=DOMAIN, **attributes)
    node.overload = overload
    return node


def bent(**more: object) -> FunctionProto:
    """x * LeakyRelu(x), whose alpha is the function's attribute ``slope``."""
    leaky = helper.make_node("LeakyRelu", ["x"], ["h"])
    leaky.attribute.append(AttributeProto(name="alpha", ref_attr_name="slope", type=AttributeProto.FLOAT))
    return function("Bent", [leaky, helper.make_node("Mul", ["x", "h"], ["y"])], **more)


def function(name: str, nodes: list[NodeProto], *, opset: int = 18, **more: object) -> FunctionProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_function(DOMAIN, name, ["x"], ["y"], nodes, opsets, **more)  # type: ignore[arg-type]


def model(functions: list[FunctionProto], *nodes: NodeProto, opset: int = 18) -> ModelProto:
    proto = of_nodes(nodes, {"x": (1, 4, 8, 8)}, {"y": (1, 4, 8, 8)}, opset=opset)
    proto.ir_version = 10
    proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    proto.functions.extend(functions)
    return proto


def forward(attribute: str, to: str) -> NodeProto:
    node = call("Bent", "x", "h")
    node.attribute.append(AttributeProto(name=attribute, ref_attr_name=to, type=AttributeProto.FLOAT))
    return node


DEFAULT = {"attribute_protos": [helper.make_attribute("slope", 0.3)]}
THERE = helper.make_node("Identity", ["x"], ["there"])
BODY = helper.make_graph([call("Bent", "there", "z")], "b", [], [helper.make_tensor_value_info("z", 1, None)])
CASES = {
    "an attribute": model([bent(attributes=["slope"])], call("Bent", "x", "y", slope=0.2)),
    "a default": model([bent(**DEFAULT)], call("Bent", "x", "y")),
    "a default, overridden": model([bent(**DEFAULT)], call("Bent", "x", "y", slope=0.9)),
    "one in another": model(
        [
            bent(attributes=["slope"]),
            function("Twice", [forward("slope", "s"), call("Bent", "h", "y", slope=0.5)], attributes=["s"]),
        ],
        call("Twice", "x", "y", s=0.1),
    ),
    "a default in another": model(
        [bent(**DEFAULT), function("Wrap", [call("Bent", "x", "h"), call("Bent", "h", "y", slope=0.7)])],
        call("Wrap", "x", "y"),
    ),
    "a default in a branch": model(
        [bent(**DEFAULT)],
        THERE,
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", onnx.TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["yes"], ["y"], then_branch=BODY, else_branch=BODY),
    ),
    "overloads": model(
        [
            function("F", [helper.make_node("Sigmoid", ["x"], ["y"])], overload="soft"),
            function("F", [helper.make_node("Neg", ["x"], ["y"])], overload="hard"),
        ],
        call("F", "x", "h", "soft"),
        call("F", "h", "y", "hard"),
    ),
    "an older opset": model(
        [
            function(
                "F", [helper.make_node("Sigmoid", ["x"], ["h"]), helper.make_node("Mul", ["x", "h"], ["y"])], opset=13
            )
        ],
        call("F", "x", "y"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_functions_are_inlined_as_onnx_runtime_runs_them(name: str, tmp_path: Path) -> None:
    proto = CASES[name]
    before = proto.SerializeToString(deterministic=True)
    x = {"x": np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)}
    right, ours = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, x)
        for m in (proto, to_proto(from_proto(proto, tmp_path)))
    )
    np.testing.assert_allclose(ours[0], right[0], rtol=1e-6)
    assert proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", [name for name in CASES if "branch" not in name])
def test_and_convert_to_ncnn(name: str, tmp_path: Path) -> None:
    report = export_model(save(CASES[name], tmp_path / "m.onnx"), tmp_path / "out")
    assert report.manifest.verified
    assert report.errors["y"].relative_l2 < 1e-5


@pytest.mark.skipif(not installed(FLAVOURS["rtx"]), reason="needs the extra [tensorrt]")
@pytest.mark.parametrize("name", ["one in another", "a default in another", "overloads"])
def test_and_build_with_tensorrt_inlined_and_kept(name: str, tmp_path: Path) -> None:
    path = save(CASES[name], tmp_path / "m.onnx")
    assert check(path, FLAVOURS["rtx"], TensorRTOptions()) == ()
    report = export_model(path, tmp_path / "out", ExportOptions(targets=("tensorrt",)))
    assert report.manifest.tensorrt is not None
    assert report.manifest.tensorrt.verified


def test_a_function_of_a_newer_opset_is_refused(tmp_path: Path) -> None:
    proto = model([function("F", [helper.make_node("Relu", ["x"], ["y"])], opset=18)], call("F", "x", "y"), opset=13)
    with pytest.raises(ModelError, match=r"com\.example\.F is of ONNX opset 18, newer than the model's 13"):
        from_proto(proto, tmp_path)
