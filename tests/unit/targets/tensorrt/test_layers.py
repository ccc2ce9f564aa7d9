"""RTX 1.7's build log, in the form in which it was seen; IEngineInspector's, as public files have it."""

from __future__ import annotations

import json

import pytest

from mobilekit.targets.tensorrt.layers import read_engine, read_layers

LOG = """Layers:
Name: __myl_Move_myl0_0, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [1,3,8,8], Strides: [192,64,8,1], \
StrideOrder: [3,2,1,0], Datatype: Float, Format: (Linear) Row major linear format }], Constants: [], Outputs: [ { \
Name: t, Dimensions: [1,3,8,8], Strides: [192,1,24,3], StrideOrder: [3,0,2,1], Datatype: Float, \
Format: (NHWC) Channel major format }], TacticName: __myl_Move_0x1, StreamId: 0, Metadata:\x20
Name: fused, LayerType: runtime_fusion, Inputs: [ { Name: t, Dimensions: [1,3,8,8], Strides: [192,1,24,3], \
StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], Constants: [ { Name: c, \
Dimensions: [8,3,3,3], Strides: [27,1,9,3], StrideOrder: [3,0,2,1], Datatype: Half, \
Format: (NHWC) Channel major format }], Outputs: [ { Name: a name, with a comma, Dimensions: [1,8,8,8], \
Strides: [512,1,64,8], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], \
TacticName: , StreamId: 0, Metadata: [ONNX Layer: /conv[0]]\x1f[ONNX Layer: /relu, 2]\x1f[ONNX Layer: /conv[0]]

I/O Tensors:
Name: x, IOMode: Input, DataType: Float, Dimensions: [-1,3,8,8], Location: Device, IsShapeInferenceIO: false, \
ProfileInfo: [ { MinShape: [1,3,8,8], OptShape: [2,3,8,8], MaxShape: [4,3,8,8], Format: Row major (kLINEAR) }]
Name: y, IOMode: Output, DataType: Float, Dimensions: [-1,8,8,8], Location: Device, IsShapeInferenceIO: false, \
ProfileInfo: [ { Format: Row major linear FP32 format (kLINEAR) }]

Engine Metadata:
Multi-Device: Disabled"""


def test_layers_with_what_was_fused_into_them() -> None:
    layers, _ = read_layers(["Adding 1 engine(s) to plan file.", LOG])
    assert [layer.name for layer in layers] == ["__myl_Move_myl0_0", "fused"]
    move, fused = layers
    assert move.kind == "kgen"
    assert move.onnx_nodes == ()
    assert move.inputs[0].shape == (1, 3, 8, 8)
    assert move.outputs[0].format == "(NHWC) Channel major format"
    assert fused.onnx_nodes == ("/conv[0]", "/relu, 2")
    assert [tensor.name for tensor in fused.constants] == ["c"]
    assert fused.outputs[0].name == "a name, with a comma"
    assert fused.outputs[0].dtype == "Half"


def test_inputs_and_outputs_with_their_profiles() -> None:
    _, (x, y) = read_layers([LOG])
    assert (x.mode, x.shape, x.profiles) == ("input", (-1, 3, 8, 8), (((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8)),))
    assert (y.name, y.mode, y.profiles) == ("y", "output", ())


def test_a_log_that_tells_of_no_layers_gives_none() -> None:
    assert read_layers(["something", "Name: x, LayerType: y"]) == ((), ())


def test_layers_that_a_plan_tells_of_itself() -> None:
    image = {"Name": "x", "Location": "Device", "Dimensions": [1, 3, 8, 8]}
    made = {"Name": "t", "Location": "Device", "Dimensions": [1, 8, 8, 8]}
    information = {
        "Layers": [
            {
                "Name": "Reformatting CopyNode for Input Tensor 0 to /conv + /relu",
                "LayerType": "Reformat",
                "Inputs": [{**image, "Format/Datatype": "Row major linear FP32"}],
                "Outputs": [{**image, "Format/Datatype": "Half"}],
                "TacticName": "",
                "Metadata": "",
            },
            {
                "Name": "/conv + /relu",
                "LayerType": "CaskConvolution",
                "Inputs": [{**image, "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
                "Outputs": [{**made, "Format": "Row major linear format", "Datatype": "Half"}],
                "TacticName": "sm80_xmma_fprop",
                "Metadata": "[ONNX Layer: /conv]\x1e[ONNX Layer: /relu]",
            },
        ],
        "Bindings": ["x", "t"],
    }
    copy, fused = read_engine(json.dumps(information))
    assert (copy.kind, copy.inputs[0].dtype, copy.outputs[0].dtype, copy.onnx_nodes) == (
        "Reformat",
        "Float",
        "Half",
        (),
    )
    assert (fused.name, fused.tactic) == ("/conv + /relu", "sm80_xmma_fprop")
    assert fused.onnx_nodes == ("/conv", "/relu")
    assert (fused.inputs[0].dtype, fused.inputs[0].shape) == ("Half", (1, 3, 8, 8))
    assert fused.inputs[0].format == "Channel major FP16 format where channel % 8 == 0"
    assert (fused.outputs[0].dtype, fused.outputs[0].format) == ("Half", "Row major linear format")


def test_a_plan_that_tells_of_names_alone_gives_none() -> None:
    """As one does that was built without ProfilingVerbosity.DETAILED."""
    assert read_engine(json.dumps({"Layers": ["/conv + /relu"], "Bindings": []})) == ()


@pytest.mark.parametrize(
    "wrong", ["", "{", "[]", "{}", '{"Layers": 3}', '{"Layers": [{"Inputs": [1]}]}',
              '{"Layers": [{"Inputs": [{"Dimensions": "1x3"}]}]}', '{"Layers": [{"Inputs": 3}]}']
)  # fmt: skip
def test_what_is_no_such_text(wrong: str) -> None:
    with pytest.raises(ValueError):
        read_engine(wrong)
