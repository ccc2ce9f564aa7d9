"""``com.example.Roll`` as a TensorRT plugin: ``numpy.roll(x.ravel(), shift).reshape(x.shape)``.

A plugin for **full TensorRT** (10.3 and newer), where an operator cannot be written as an ONNX local function
(``examples/custom_function``; prefer that: it runs everywhere). TensorRT for RTX takes no plugins.

The work is two copies on the GPU, through the CUDA driver, so that nothing but TensorRT is needed.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

try:
    import tensorrt as trt
except ImportError:  # the bindings of TensorRT for RTX declare the same classes: enough to test what runs on no GPU
    import tensorrt_rtx as trt

NAME, VERSION, NAMESPACE = "Roll", "1", ""


def copies(shape: Sequence[int], shift: int, item_bytes: int) -> list[tuple[int, int, int]]:
    """What to copy: (offset in the output, offset in the input, length), in bytes."""
    count = math.prod(shape)
    head = shift % count if count else 0
    parts = [(head, 0, count - head), (0, count - head, head)]
    return [(to * item_bytes, source * item_bytes, n * item_bytes) for to, source, n in parts if n]


class Roll(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
    def __init__(self, shift: int) -> None:
        trt.IPluginV3.__init__(self)
        trt.IPluginV3OneCore.__init__(self)
        trt.IPluginV3OneBuild.__init__(self)
        trt.IPluginV3OneRuntime.__init__(self)
        self.plugin_name, self.plugin_version, self.plugin_namespace = NAME, VERSION, NAMESPACE
        self.num_outputs = 1
        self.shift = shift
        self._serialized = np.array([shift], np.int64)  # a field only points at its data

    def get_capability_interface(self, kind: Any) -> Roll:
        return self

    # What TensorRT asks while it builds

    def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
        return [input_types[0]]

    def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Sequence[Any], builder: Any) -> list[Any]:
        return [trt.DimsExprs(inputs[0])]

    def supports_format_combination(self, position: int, tensors: Sequence[Any], input_count: int) -> bool:
        this, first = tensors[position].desc, tensors[0].desc
        plain = this.format == trt.TensorFormat.LINEAR
        return plain and this.type == first.type and this.type in (trt.DataType.FLOAT, trt.DataType.HALF)

    def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        pass

    def get_valid_tactics(self) -> list[int]:
        return [1]

    def get_fields_to_serialize(self) -> Any:
        field = trt.PluginField("shift", self._serialized, trt.PluginFieldType.INT64)
        return trt.PluginFieldCollection([field])

    # What it asks while it runs

    def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        pass

    def set_tactic(self, tactic: int) -> None:
        pass

    def attach_to_context(self, context: Any) -> Roll:
        return self.clone()

    def enqueue(
        self,
        input_descs: Sequence[Any],
        output_descs: Sequence[Any],
        inputs: Sequence[int],
        outputs: Sequence[int],
        workspace: int,
        stream: int,
    ) -> None:
        item_bytes = 2 if input_descs[0].type == trt.DataType.HALF else 4
        copy = ctypes.CDLL("libcuda.so.1").cuMemcpyDtoDAsync_v2
        for to, source, length in copies(tuple(input_descs[0].dims), self.shift, item_bytes):
            code = copy(
                ctypes.c_uint64(outputs[0] + to),
                ctypes.c_uint64(inputs[0] + source),
                ctypes.c_size_t(length),
                ctypes.c_void_p(stream),
            )
            if code:
                raise RuntimeError(f"the copy failed with CUDA error {code}")

    def clone(self) -> Roll:
        return Roll(self.shift)


class RollCreator(trt.IPluginCreatorV3One):
    """What ``--plugin roll_plugin:RollCreator`` names: made without arguments, it makes the plugin for each node."""

    def __init__(self) -> None:
        trt.IPluginCreatorV3One.__init__(self)
        self.name, self.plugin_version, self.plugin_namespace = NAME, VERSION, NAMESPACE
        field = trt.PluginField("shift", np.array([]), trt.PluginFieldType.INT64)
        self.field_names = trt.PluginFieldCollection([field])

    def create_plugin(self, name: str, fields: Any, phase: Any) -> Roll:
        values = {field.name: field.data for field in fields}
        return Roll(int(values["shift"][0]))
