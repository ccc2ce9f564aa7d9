"""The build log of TensorRT for RTX 1.7, in the form in which it was seen."""

from __future__ import annotations

from mobilekit.targets.tensorrt.layers import read_layers

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
