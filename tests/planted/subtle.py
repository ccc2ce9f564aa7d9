"""More faults: of sequences, of attention, and such as show in few numbers, few channels or few inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mobilekit.targets.ncnn.reader import ParamLayer
from tests.planted.edit import Editor
from tests.planted.faults import FAULTS, Planted, fault, reshaped

__all__ = ["FAULTS"]

BYTES, TAGGER, DIACRITICS = "magika", "lac", "piper_tashkeel"
LITE, ORIENT, DETECT, FACES = "efficientnet_lite0", "pp_lcnet_orientation", "pp_ocrv4_det", "mtcnn_onet"
READER, WORDS, VOICE = "pp_ocrv5_rec", "deepcut", "silero_vad_v6"


def _of(layer: ParamLayer) -> Planted:
    return Planted((layer.name,))


@fault("exact GELU as its tanh approximation", "pp_ocrv6_det")
def _(editor: Editor) -> Planted:
    layer = editor.find("GELU", 3)
    editor.set(layer, fast_gelu=1)
    return _of(layer)


@fault("GELU's tanh approximation as the exact one", BYTES)
def _(editor: Editor) -> Planted:
    layer = editor.find("GELU", 0)
    editor.set(layer, fast_gelu=None)
    return _of(layer)


@fault("weights of two equal layers exchanged", ORIENT)
def _(editor: Editor) -> Planted:
    def same(layer: ParamLayer) -> bool:
        return [len(array) for array in editor.arrays[layer.name]] == sizes

    kind = "ConvolutionDepthWise" if editor.manifest.model.id == ORIENT else "Convolution"
    one = editor.find(kind, 6)
    sizes = [len(array) for array in editor.arrays[one.name]]
    first, second = editor.find(kind, 0, same), editor.find(kind, 1, same)
    arrays = editor.arrays
    arrays[first.name], arrays[second.name] = arrays[second.name], arrays[first.name]
    return _of(first)


@fault("embedding rows moved by one", TAGGER, DIACRITICS)
def _(editor: Editor) -> Planted:
    layer = editor.find("Embed")
    rows = int(editor.value(layer, "input_dim"))
    editor.weight(layer, 0, lambda flat: np.roll(flat.reshape(rows, -1), 1, axis=0).reshape(-1), tagged=True)
    return _of(layer)


@fault("GRU's reset and update gates exchanged", TAGGER, DIACRITICS)
def _(editor: Editor) -> Planted:
    layer = editor.find("GRU", 1)

    def turn(flat: np.ndarray) -> np.ndarray:
        return flat.reshape(2, 3, -1)[:, [1, 0, 2]].reshape(-1)

    for index in (0, 2):
        editor.weight(layer, index, turn, tagged=True)
    return _of(layer)


@fault("backward direction takes the forward one's weights", TAGGER)
def _(editor: Editor) -> Planted:
    layer = editor.find("GRU", 0)

    def same(flat: np.ndarray) -> np.ndarray:
        return np.tile(flat[: flat.size // 2], 2)

    for index in range(3):
        editor.weight(layer, index, same, tagged=True)
    return _of(layer)


@fault("LSTM's initial state left out", VOICE)
def _(editor: Editor) -> Planted:
    layer = editor.find("LSTM")
    editor.put(layer, replace(layer, inputs=layer.inputs[:1]))
    return _of(layer)


@fault("two heads of attention exchanged", READER)
def _(editor: Editor) -> Planted:
    """Of the values alone, moved along the heads' axis by one."""
    layer = editor.find("SDPA", 0)
    query, key, value = layer.inputs
    first, rest, moved = (f"{layer.name}/{name}" for name in ("first", "rest", "moved"))
    # -233: what is left
    cut = ParamLayer("Slice", f"{layer.name}/cut", (value,), (first, rest), ((-23300, "2,1,-233"), (1, "0")))
    turned = ParamLayer("Concat", f"{layer.name}/turned", (rest, first), (moved,), ((0, "0"),))
    editor.put(layer, cut, turned, replace(layer, inputs=(query, key, moved)))
    return Planted((cut.name, turned.name, layer.name))


@fault("keys and values exchanged", READER)
def _(editor: Editor) -> Planted:
    layer = editor.find("SDPA", 1)
    query, key, value = layer.inputs
    editor.put(layer, replace(layer, inputs=(query, value, key)))
    return _of(layer)


@fault("positions moved by one", DIACRITICS)
def _(editor: Editor) -> Planted:
    layer = editor.find("MemoryData", 0)
    width = int(editor.value(layer, "w"))
    editor.weight(layer, 0, lambda flat: np.roll(flat.reshape(-1, width), 1, axis=0).reshape(-1), tagged=False)
    readers = [each.name for each in editor.layers if layer.outputs[0] in each.inputs]
    return Planted((layer.name, *readers))


@fault("batch norm's variance is taken for its deviation", DIACRITICS)
def _(editor: Editor) -> Planted:
    layer = editor.find("BatchNorm", 1)
    editor.weight(layer, 2, lambda variance: variance * variance, tagged=False)
    return _of(layer)


@fault("batch norm's epsilon 1e-3 for 1e-5", DIACRITICS)
def _(editor: Editor) -> Planted:
    layer = editor.find("BatchNorm", 0)
    editor.set(layer, eps=1e-3)
    return _of(layer)


@fault("activation clips at 6.5 for 6", LITE)
def _(editor: Editor) -> Planted:
    layer = editor.find("Convolution", 0)
    editor.set(layer, activation_params=[0.0, 6.5])
    return _of(layer)


@fault("a bias kept in halves", LITE, ORIENT)
def _(editor: Editor) -> Planted:
    layer = editor.find("Convolution", 3)
    editor.weight(layer, 1, lambda bias: bias.astype(np.float16).astype(np.float32), tagged=False)
    return _of(layer)


@fault("two classes exchanged in the last layer", LITE, ORIENT)
def _(editor: Editor) -> Planted:
    layer = editor.find("InnerProduct", -1)
    order = np.arange(int(editor.value(layer, "num_output")))
    order[[0, 1]] = order[[1, 0]]
    editor.weight(layer, 1, lambda bias: bias[order], tagged=False)
    editor.weight(layer, 0, lambda flat: flat.reshape(len(order), -1)[order].reshape(-1), tagged=True)
    return _of(layer)


@fault("depthwise kernels moved by one channel", ORIENT, LITE)
def _(editor: Editor) -> Planted:
    return reshaped(editor, editor.find("ConvolutionDepthWise", 5), lambda kernel: np.roll(kernel, 1, axis=0))


@fault("one element of one kernel wrong", DETECT)
def _(editor: Editor) -> Planted:
    """As of a bit that was lost: one weight of the largest twice as large."""

    def lose(kernel: np.ndarray) -> np.ndarray:
        changed = kernel.copy().reshape(-1)
        changed[np.abs(changed).argmax()] *= 2
        return changed.reshape(kernel.shape)

    return reshaped(editor, editor.find("Convolution", 4), lose)


@fault("a slope is NaN in one channel", FACES)
def _(editor: Editor) -> Planted:
    layer = editor.find("PReLU", 1)

    def spoil(slopes: np.ndarray) -> np.ndarray:
        slopes[5] = np.nan
        return slopes

    editor.weight(layer, 0, spoil, tagged=False)
    return _of(layer)


@fault("one slope for all channels", FACES)
def _(editor: Editor) -> Planted:
    layer = editor.find("PReLU", 2)
    editor.weight(layer, 0, lambda slopes: np.full_like(slopes, slopes.mean()), tagged=False)
    return _of(layer)


@fault("pooling begins a pixel early", FACES)
def _(editor: Editor) -> Planted:
    layer = editor.find("Pooling", 0)
    editor.set(layer, pad_left=1, pad_top=1, pad_right=0, pad_bottom=0)
    return _of(layer)


@fault("nearest resize rounds up for down", DETECT)
def _(editor: Editor) -> Planted:
    """The picture moves by one pixel of the larger one; at the edge it is repeated."""
    layer = editor.find("Interp", 0)
    height, width = (int(editor.value(layer, name)) for name in ("output_height", "output_width"))
    large, wider = f"{layer.name}/large", f"{layer.name}/wider"
    pad = ParamLayer("Padding", f"{layer.name}/pad", (large,), (wider,), ((0, "1"), (2, "1"), (4, "1")))
    bounds = ((-23309, "2,0,0"), (-23310, f"2,{height},{width}"), (-23311, "2,1,2"))
    crop = ParamLayer("Crop", f"{layer.name}/crop", (wider,), layer.outputs, bounds)
    editor.put(layer, replace(layer, outputs=(large,)), pad, crop)
    return Planted((layer.name, pad.name, crop.name))


@fault("transposed convolution's kernel turned round", DETECT)
def _(editor: Editor) -> Planted:
    return reshaped(editor, editor.find("Deconvolution", 0), lambda kernel: kernel[:, :, ::-1, ::-1])


@fault("padding by zeros for reflecting", VOICE)
def _(editor: Editor) -> Planted:
    layer = editor.find("Padding", 0, lambda layer: layer.param(4) in ("1", "2"))
    editor.set(layer, type=0)
    return _of(layer)


@fault("a skip connection from the layer before", LITE)
def _(editor: Editor) -> Planted:
    """Both inputs of an addition are one and the same branch."""
    layer = editor.find("BinaryOp", 2, lambda layer: len(layer.inputs) == 2)
    twice = f"{layer.name}/twice"
    split = ParamLayer("Split", twice, (layer.inputs[1],), (f"{twice}/0", f"{twice}/1"), ())
    editor.put(layer, split, replace(layer, inputs=split.outputs))
    return _of(layer)


@fault("two inputs exchanged in the manifest", WORDS)
def _(editor: Editor) -> Planted:
    one, two = editor.artifact.inputs
    editor.artifact = replace(editor.artifact, inputs=(replace(one, blob=two.blob), replace(two, blob=one.blob)))
    return Planted((), "mapping")


@fault("values are cut off that one input of twenty reaches", ORIENT, samples=20)
def _(editor: Editor) -> Planted:
    """19 of the seeded inputs stay below 12.46 there, one goes to 12.98."""
    layer = next(each for each in editor.layers if "hardswish_51.tmp_0" in each.outputs)
    clip = ParamLayer("Clip", f"{layer.name}/cut", (f"{layer.name}/whole",), layer.outputs, ((1, "12.5"),))
    editor.put(layer, replace(layer, outputs=clip.inputs), clip)
    return Planted((layer.name, clip.name))
