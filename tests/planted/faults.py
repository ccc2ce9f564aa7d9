"""Faults to plant: what real converters got wrong, each as an edit of one good bundle.

A fault returns the layers that are wrong (``()`` where it is none's) and the stage that bisecting should name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mobilekit.targets.ncnn.reader import ParamLayer
from tests.planted.edit import Editor

__all__ = ["FAULTS", "Fault", "Planted", "fault", "reshaped"]


@dataclass(frozen=True)
class Planted:
    layers: tuple[str, ...]
    stage: str = "layer"


@dataclass(frozen=True)
class Fault:
    """``precision``: the arithmetic that goes wrong. What goes wrong in fp16 alone needs arm64: the virtual device.
    ``samples``: how many inputs it takes to see it."""

    name: str
    models: tuple[str, ...]
    plant: Callable[[Editor], Planted]
    precision: str = "fp32"
    samples: int = 3


FAULTS: list[Fault] = []


def fault(
    name: str, *models: str, precision: str = "fp32", samples: int = 3
) -> Callable[[Callable[[Editor], Planted]], None]:
    def add(plant: Callable[[Editor], Planted]) -> None:
        FAULTS.append(Fault(name, models, plant, precision, samples))

    return add


MOBILENET, YOLO, REC, VAD = "mobilenet_v2", "yolov8n_nudenet", "pp_ocrv6_rec", "silero_vad"


def _kernel(editor: Editor, layer: ParamLayer) -> tuple[int, int, int, int]:
    """(out, in / group, h, w) of a convolution's weight."""
    out, side = int(editor.value(layer, "num_output")), int(editor.value(layer, "kernel_w"))
    high = int(layer.param(11) or side) if not layer.type.endswith("1D") else 1
    count = int(editor.value(layer, "weight_data_size"))
    return out, count // (out * high * side), high, side


def _wide(layer: ParamLayer) -> bool:
    return layer.param(1) == "3"


def reshaped(editor: Editor, layer: ParamLayer, change: Callable[[np.ndarray], np.ndarray]) -> Planted:
    shape = _kernel(editor, layer)
    editor.weight(layer, 0, lambda flat: change(flat.reshape(shape)).reshape(-1), tagged=True)
    return Planted((layer.name,))


@fault("bias dropped", MOBILENET, YOLO, REC)
def _(editor: Editor) -> Planted:
    layer = editor.find("Convolution", 8)
    editor.set(layer, bias_term=0)
    editor.arrays[layer.name].pop(1)
    return Planted((layer.name,))


@fault("two output channels swapped", MOBILENET, YOLO)
def _(editor: Editor) -> Planted:
    layer = editor.find("Convolution", 5)
    order = np.arange(_kernel(editor, layer)[0])
    order[[2, 7]] = order[[7, 2]]
    editor.weight(layer, 1, lambda bias: bias[order], tagged=False)
    return reshaped(editor, layer, lambda kernel: kernel[order])


@fault("weights scaled by 1%", MOBILENET, YOLO, REC)
def _(editor: Editor) -> Planted:
    return reshaped(editor, editor.find("Convolution", 10), lambda kernel: kernel * 1.01)


@fault("padding on the wrong side", MOBILENET, YOLO)
def _(editor: Editor) -> Planted:
    layer = editor.find("Convolution", 0, lambda layer: _wide(layer) and layer.param(3) == "2")
    editor.set(layer, pad_left=0, pad_top=0, pad_right=2, pad_bottom=2)
    return Planted((layer.name,))


@fault("kernel transposed", MOBILENET, YOLO)
def _(editor: Editor) -> Planted:
    kind = "ConvolutionDepthWise" if editor.manifest.model.id == MOBILENET else "Convolution"
    return reshaped(editor, editor.find(kind, 4, _wide), lambda kernel: kernel.transpose(0, 1, 3, 2))


@fault("kernel flipped (convolution for correlation)", YOLO)
def _(editor: Editor) -> Planted:
    return reshaped(editor, editor.find("Convolution", 7, _wide), lambda kernel: kernel[:, :, ::-1, ::-1])


@fault("weight laid out in-out for out-in", YOLO, REC)
def _(editor: Editor) -> Planted:
    def square(layer: ParamLayer) -> bool:
        out, reads, high, wide = _kernel(editor, layer)
        return out == reads and high == wide == 1

    layer = editor.find("Convolution", -1, lambda layer: square(layer) or layer.param(1) == "3")
    shape = _kernel(editor, layer)
    if shape[0] != shape[1]:
        return reshaped(editor, layer, lambda kernel: kernel.reshape(shape[1], shape[0], -1).swapaxes(0, 1))
    return reshaped(editor, layer, lambda kernel: kernel.swapaxes(0, 1))


@fault("epsilon wrong (1e-5 as 1e-1)", REC)
def _(editor: Editor) -> Planted:
    layer = editor.find("LayerNorm", 1)
    editor.set(layer, eps=0.1)
    return Planted((layer.name,))


@fault("gamma and beta swapped", REC)
def _(editor: Editor) -> Planted:
    layer = editor.find("LayerNorm", 0, lambda layer: layer.name in editor.arrays)
    editor.arrays[layer.name].reverse()
    return Planted((layer.name,))


@fault("ReLU6 as ReLU", MOBILENET)
def _(editor: Editor) -> Planted:
    layer = editor.find("Convolution", -1)
    editor.set(layer, activation_type=1, activation_params=None)
    return Planted((layer.name,))


@fault("fused activation lost", MOBILENET, VAD)
def _(editor: Editor) -> Planted:
    kind = "Convolution1D" if editor.manifest.model.id == VAD else "Convolution"
    layer = editor.find(kind, 2, lambda layer: layer.param(9) is not None)
    editor.set(layer, activation_type=None, activation_params=None)
    return Planted((layer.name,))


@fault("stale weights (of another layer of the same shape)", YOLO, REC)
def _(editor: Editor) -> Planted:
    layer = editor.find("Convolution", 9)
    other = editor.find(
        "Convolution", -1,
        lambda each: each.name != layer.name and _kernel(editor, each) == _kernel(editor, layer),
    )  # fmt: skip
    editor.arrays[layer.name] = list(editor.arrays[other.name])
    return Planted((layer.name,))


@fault("outputs swapped in the manifest", VAD, "picodet_layout")
def _(editor: Editor) -> Planted:
    one, two, *rest = editor.artifact.outputs
    if len(rest) > 1:  # two of the same shape, so that nothing but their numbers tells
        shapes = {info.name: info.shape for info in editor.manifest.outputs}
        two = next(info for info in (two, *rest) if shapes[info.tensor] == shapes[one.tensor]) if any(
            shapes[info.tensor] == shapes[one.tensor] for info in (two, *rest)) else two  # fmt: skip
    swapped = {one.tensor: two.blob, two.tensor: one.blob}
    outputs = tuple(replace(info, blob=swapped.get(info.tensor, info.blob)) for info in editor.artifact.outputs)
    editor.artifact = replace(editor.artifact, outputs=outputs)
    return Planted((), "mapping")


@fault("BGR for RGB in the first convolution", MOBILENET, YOLO, REC)
def _(editor: Editor) -> Planted:
    return reshaped(editor, editor.find("Convolution", 0), lambda kernel: kernel[:, ::-1])


@fault("another mean folded into the first convolution", MOBILENET, YOLO)
def _(editor: Editor) -> Planted:
    layer = editor.find("Convolution", 0)
    kernel = np.frombuffer(editor.arrays[layer.name][0][4:], np.float32).reshape(_kernel(editor, layer))
    editor.weight(layer, 1, lambda bias: bias + 0.05 * kernel.sum(axis=(1, 2, 3)), tagged=False)
    return Planted((layer.name,))


@fault("one channel's scale doubled (as of an int8 weight)", MOBILENET, REC)
def _(editor: Editor) -> Planted:
    def double(kernel: np.ndarray) -> np.ndarray:
        changed = kernel.copy()
        changed[np.abs(kernel).reshape(len(kernel), -1).sum(axis=1).argmax()] *= 2
        return changed

    return reshaped(editor, editor.find("Convolution", 12), double)


@fault("a whole weight's scale doubled", YOLO, VAD)
def _(editor: Editor) -> Planted:
    kind = "Convolution1D" if editor.manifest.model.id == VAD else "Convolution"
    return reshaped(editor, editor.find(kind, 3), lambda kernel: kernel * 2)


@fault("dilation 2 for 1", YOLO)
def _(editor: Editor) -> Planted:
    layer = editor.find("Convolution", 9, lambda layer: _wide(layer) and layer.param(3) is None)
    editor.set(layer, dilation_w=2, dilation_h=2, pad_left=2, pad_top=2, pad_right=2, pad_bottom=2)
    return Planted((layer.name,))


@fault("softmax along another axis", YOLO, REC)
def _(editor: Editor) -> Planted:
    layer = editor.find("Softmax", -1)
    editor.set(layer, axis=0 if editor.value(layer, "axis") else 1)
    return Planted((layer.name,))


@fault("average pooling for maximum", YOLO)
def _(editor: Editor) -> Planted:
    layer = editor.find("Pooling", 0)
    editor.set(layer, pooling_type=1)
    return Planted((layer.name,))


@fault("maximum pooling for average", REC)
def _(editor: Editor) -> Planted:
    layer = editor.find("Pooling", -1)
    editor.set(layer, pooling_type=0)
    return Planted((layer.name,))


@fault("concatenation in another order", YOLO, VAD)
def _(editor: Editor) -> Planted:
    # The two halves of equal size, so that every shape stays right.
    layer = editor.find("Concat", 0) if editor.manifest.model.id == VAD else editor.find("Concat", -2)
    editor.put(layer, replace(layer, inputs=tuple(reversed(layer.inputs))))
    return Planted((layer.name,))


@fault("slice off by one", VAD)
def _(editor: Editor) -> Planted:
    layer = editor.find("Slice", 0)
    size = int((layer.param(-23300) or "").split(",")[1])
    first, second = (f"{layer.name}/{which}" for which in ("first", "second"))
    cuts = [
        ParamLayer("Crop", name, (blob,), (made,), ((-23309, f"1,{at}"), (-23310, f"1,{at + size}"), (-23311, "1,0")))
        for name, blob, made, at in zip(
            (layer.name, f"{layer.name}/rest"), (first, second), layer.outputs, (1, size), strict=True
        )
    ]
    editor.put(layer, ParamLayer("Split", f"{layer.name}/both", layer.inputs, (first, second), ()), *cuts)
    return Planted((layer.name,))


@fault("LSTM gates in ONNX's order", VAD)
def _(editor: Editor) -> Planted:
    layer = editor.find("LSTM")

    def turn(flat: np.ndarray) -> np.ndarray:
        gates = flat.reshape(4, -1)
        return gates[[0, 2, 1, 3]].reshape(-1)

    for index in range(3):
        editor.weight(layer, index, turn, tagged=True)
    return Planted((layer.name,))


@fault("LSTM state and cell swapped", VAD)
def _(editor: Editor) -> Planted:
    layer = editor.find("LSTM")
    first, hidden, cell = layer.inputs
    editor.put(layer, replace(layer, inputs=(first, cell, hidden)))
    return Planted((layer.name,))


@fault("residual addition dropped", MOBILENET, REC)
def _(editor: Editor) -> Planted:
    layer = editor.find("BinaryOp", 3, lambda layer: len(layer.inputs) == 2 and layer.param(0) is None)
    # Nothing reads the other branch then, which ncnn minds as little as a converter that dropped it.
    editor.put(
        layer, ParamLayer("BinaryOp", layer.name, (layer.inputs[1],), layer.outputs, ((0, "2"), (1, "1"), (2, "1.0")))
    )
    return Planted((layer.name,))


@fault("subtraction turned round", YOLO)
def _(editor: Editor) -> Planted:
    layer = editor.find("BinaryOp", 0, lambda layer: layer.param(0) == "1" and len(layer.inputs) == 2)
    editor.put(layer, replace(layer, inputs=tuple(reversed(layer.inputs))))
    return Planted((layer.name,))


@fault("resize bilinear for nearest", YOLO)
def _(editor: Editor) -> Planted:
    layer = editor.find("Interp", 0)
    editor.set(layer, resize_type=2)
    return Planted((layer.name,))


@fault("resize with align_corners", YOLO)
def _(editor: Editor) -> Planted:
    layer = editor.find("Interp", 1)
    editor.set(layer, resize_type=2, align_corner=1)
    return Planted((layer.name,))


@fault("axes permuted in another order", YOLO)
def _(editor: Editor) -> Planted:
    layer = editor.find("Permute", 0)
    editor.set(layer, order_type=0)
    return Planted((layer.name,))


@fault("reduction by sum for mean", REC)
def _(editor: Editor) -> Planted:
    layer = editor.find("Reduction", 0)
    editor.set(layer, operation=0)
    return Planted((layer.name,))


@fault("attention's scale lost", REC)
def _(editor: Editor) -> Planted:
    layer = editor.find("SDPA", 0)
    editor.set(layer, scale=1.0)
    return Planted((layer.name,))


@fault("hard sigmoid's slope is 1/5 for 1/6", REC)
def _(editor: Editor) -> Planted:
    layer = editor.find("HardSigmoid", 1)
    editor.set(layer, alpha=0.2)
    return Planted((layer.name,))


@fault("padding reflects for repeating", VAD)
def _(editor: Editor) -> Planted:
    layer = editor.find("Padding", 0)
    editor.set(layer, type=1)
    return Planted((layer.name,))


@fault("a constant laid out by columns", YOLO)
def _(editor: Editor) -> Planted:
    layer = editor.find("MemoryData", 0)
    editor.weight(layer, 0, lambda flat: flat.reshape(2, -1).T.reshape(-1), tagged=False)
    reader = next(each for each in editor.layers if any(blob.startswith(layer.outputs[0]) for blob in each.inputs[:1])
                  and each.type == "BinaryOp")  # fmt: skip
    # A constant is no tensor that is computed: its readers go wrong.
    return Planted((reader.name, layer.name))


@fault("overflow in half precision alone", VAD, precision="fp16")
def _(editor: Editor) -> Planted:
    """Weights times 2^18 and those of the next layer divided by it: exact in float32, beyond the range of fp16."""
    first, second = (editor.find("Convolution1D", number) for number in (2, 3))
    for index, tagged in ((0, True), (1, False)):
        editor.weight(first, index, lambda flat: flat * 2.0**18, tagged=tagged)
    editor.weight(second, 0, lambda flat: flat / 2.0**18, tagged=True)
    return Planted((first.name, second.name))
