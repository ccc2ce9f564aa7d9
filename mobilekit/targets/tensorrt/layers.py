"""What the optimiser did, read from its own build log: an engine can be inspected only where there is a GPU.

With ``ProfilingVerbosity.DETAILED`` the builder logs one message ``Layers:`` with a line for each layer, then
``I/O Tensors:`` with a line for each input and output. A line is ``Key: value, Key: [ { Key: value, ... } ], ...``;
the last key of a layer's line, ``Metadata``, holds ``[ONNX Layer: name]`` for each ONNX node fused into it, with the
unit separator U+001F between.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["BuiltLayer", "BuiltTensor", "InputOutput", "read_engine", "read_layers"]

_ONNX_NODE = re.compile(r"^\[ONNX Layer: (.*)\]$", re.DOTALL)
_BRACES = re.compile(r"[{}]")
_MARKS = re.compile(r"[{}]|, (?=[A-Za-z/]+: )")
_SEPARATORS = re.compile("[\x1e\x1f]")
_TYPES = {"FP32": "Float", "FP16": "Half", "BF16": "BFloat16", "FP8": "FP8", "INT8": "Int8", "INT32": "Int32"}
"""As formats are written out there, and as types are called in build logs."""
_KEYS = ("Inputs", "Constants", "Outputs")


@dataclass(frozen=True, slots=True)
class BuiltTensor:
    """A tensor as a layer reads or writes it. ``shape`` is row-major; ``format`` names the memory layout."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    format: str


@dataclass(frozen=True, slots=True)
class BuiltLayer:
    """One layer of the plan. ``onnx_nodes`` are the nodes of the prepared ONNX fused into it, in the log's order."""

    name: str
    kind: str
    tactic: str
    inputs: tuple[BuiltTensor, ...]
    constants: tuple[BuiltTensor, ...]
    outputs: tuple[BuiltTensor, ...]
    onnx_nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InputOutput:
    """An input or output of the plan; ``profiles`` has (min, opt, max) shapes for each optimization profile."""

    name: str
    mode: str
    dtype: str
    shape: tuple[int, ...]
    profiles: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...]


def read_layers(messages: Iterable[str]) -> tuple[tuple[BuiltLayer, ...], tuple[InputOutput, ...]]:
    """The layers and the inputs and outputs that the log tells of; empty where it has no such message."""
    layers: list[BuiltLayer] = []
    bindings: list[InputOutput] = []
    for message in messages:
        if not message.lstrip().startswith("Layers:"):
            continue
        section = ""
        for line in message.splitlines():
            text = line.strip()
            if not text.startswith("Name: "):
                section = text
            elif section == "Layers:":
                layers.append(_layer(text))
            elif section == "I/O Tensors:":
                bindings.append(_binding(text))
    return tuple(layers), tuple(bindings)


def read_engine(information: str) -> tuple[BuiltLayer, ...]:
    """The layers of a plan as TensorRT's IEngineInspector tells of them, in JSON; empty where it tells of names alone.

    A tensor's type and layout share one text there ("Half", "Row major linear FP16 format") in 8 and 10. Raises
    ``ValueError`` for what is no such JSON.
    """
    told = json.loads(information, strict=False)  # a layer's name may hold the separator as it is
    layers = told.get("Layers") if isinstance(told, dict) else None
    if not isinstance(layers, list):
        raise ValueError("no list of layers")
    return tuple(_inspected(layer) for layer in layers if isinstance(layer, dict))


def _inspected(layer: Mapping[str, Any]) -> BuiltLayer:
    tensors = [layer.get(key) or [] for key in _KEYS]
    if not all(isinstance(group, list) for group in tensors):
        raise ValueError("a layer without lists of tensors")
    inputs, constants, outputs = (tuple(map(_inspected_tensor, group)) for group in tensors)
    return BuiltLayer(
        name=str(layer.get("Name", "")),
        kind=str(layer.get("LayerType", "")),
        tactic=str(layer.get("TacticName", "")),
        inputs=inputs,
        constants=constants,
        outputs=outputs,
        onnx_nodes=tuple(dict.fromkeys(_onnx_nodes(str(layer.get("Metadata", ""))))),
    )


def _inspected_tensor(tensor: Any) -> BuiltTensor:
    if not isinstance(tensor, dict):
        raise ValueError("a tensor that is none")
    both = str(tensor.get("Format/Datatype", ""))
    kind = str(tensor.get("Datatype", "")) or next((name for word, name in _TYPES.items() if word in both), both)
    shape = tensor.get("Dimensions", ())
    if not isinstance(shape, list) or not all(isinstance(axis, int) for axis in shape):
        raise ValueError("a tensor without dimensions")
    return BuiltTensor(str(tensor.get("Name", "")), kind, tuple(shape), str(tensor.get("Format", "")) or both)


def _layer(line: str) -> BuiltLayer:
    head, _, metadata = line.partition(", Metadata:")
    fields = dict(_fields(head))
    inputs, constants, outputs = (tuple(_tensor(part) for part in _items(fields.get(key, ""))) for key in _KEYS)
    return BuiltLayer(
        name=fields.get("Name", ""),
        kind=fields.get("LayerType", ""),
        tactic=fields.get("TacticName", ""),
        inputs=inputs,
        constants=constants,
        outputs=outputs,
        onnx_nodes=tuple(dict.fromkeys(_onnx_nodes(metadata))),
    )


def _onnx_nodes(metadata: str) -> Iterator[str]:
    for part in _SEPARATORS.split(metadata.strip()):
        found = _ONNX_NODE.match(part.strip())
        if found:
            yield found[1]


def _binding(line: str) -> InputOutput:
    fields = dict(_fields(line))
    profiles = []
    for item in _items(fields.get("ProfileInfo", "")):
        shapes = dict(_fields(item))
        if "MinShape" in shapes:
            profiles.append(tuple(_shape(shapes[key]) for key in ("MinShape", "OptShape", "MaxShape")))
    return InputOutput(
        name=fields.get("Name", ""),
        mode=fields.get("IOMode", "").lower(),
        dtype=fields.get("DataType", ""),
        shape=_shape(fields.get("Dimensions", "")),
        profiles=tuple((low, best, high) for low, best, high in profiles),
    )


def _tensor(text: str) -> BuiltTensor:
    fields = dict(_fields(text))
    return BuiltTensor(
        fields.get("Name", ""),
        fields.get("Datatype", ""),
        _shape(fields.get("Dimensions", "")),
        fields.get("Format", ""),
    )


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"-?\d+", text))


def _fields(text: str) -> Iterator[tuple[str, str]]:
    """``Key: value`` pairs at the top level of ``text``; a value may be a bracketed list. A name may hold anything but
    the ``, Word: `` that begins the next field."""
    depth = begin = 0
    for found in _MARKS.finditer(text):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0 and found[0] == ", ":
            yield _pair(text[begin : found.start()])
            begin = found.end()
    yield _pair(text[begin:])


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition(": ")
    return key.strip(), value.strip()


def _items(text: str) -> Iterator[str]:
    """The ``{ ... }`` of a list."""
    depth = begin = 0
    for found in _BRACES.finditer(text):
        if found[0] == "{":
            if depth == 0:
                begin = found.end()
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                yield text[begin : found.start()].strip()
