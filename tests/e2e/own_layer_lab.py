"""One of our own ncnn layers at a time, run by a real harness; and the ONNX operator that it stands for."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilekit.device.harness.client import HarnessSession
from mobilekit.device.harness.locate import find_harness
from mobilekit.device.harness.protocol import LoadOptions
from mobilekit.device.harness.toolchains import ABIS, find_toolchain
from mobilekit.errors import MissingToolError

Params = Mapping[int, int | float | Sequence[int] | Sequence[float]]
HOST_ABI = next((abi for abi, machine in ABIS.items() if machine == platform.machine()), "x86_64")


class Lab:
    """A harness and a folder for models of one layer."""

    def __init__(self, session: HarnessSession, folder: Path) -> None:
        self.session = session
        self._folder = folder
        (folder / "model.bin").write_bytes(b"")

    def run(
        self,
        kind: str,
        inputs: Sequence[Any],
        params: Params | None = None,
        outputs: int = 1,
        options: LoadOptions | None = None,
        weights: Sequence[Any] = (),
    ) -> list[Any]:
        """The layer's outputs; ``inputs`` have the dims of their Mats (1 to 4 axes), ``weights`` are float32."""
        tagged = (b"\0\0\0\0" + np.asarray(array, np.float32).tobytes() for array in weights)
        (self._folder / "model.bin").write_bytes(b"".join(tagged))
        line = layer(kind, "layer", [f"in{i}" for i in range(len(inputs))], [f"out{i}" for i in range(outputs)], params)
        return self.graph([line], inputs, [f"out{i}" for i in range(outputs)], options)

    def graph(
        self, lines: Sequence[str], inputs: Sequence[Any], outputs: Sequence[str], options: LoadOptions | None = None
    ) -> list[Any]:
        """``lines`` of a ``.param`` that read ``in0``, ``in1``, ...; the blobs named in ``outputs``."""
        arrays = [np.ascontiguousarray(array, np.float32) for array in inputs]
        heads = [layer("Input", f"in{i}", [], [f"in{i}"], _dims(array.shape)) for i, array in enumerate(arrays)]
        blobs = sum(int(line.split()[3]) for line in [*heads, *lines])
        text = "\n".join(["7767517", f"{len(heads) + len(lines)} {blobs}", *heads, *lines]) + "\n"
        param = self._folder / "model.param"
        param.write_text(text)
        self.session.load(str(param), str(self._folder / "model.bin"), options or LoadOptions(threads=2))
        report = self.session.infer({f"in{i}": array for i, array in enumerate(arrays)}, list(outputs))
        return [report.outputs[name] for name in outputs]


def layer(kind: str, name: str, inputs: Sequence[str], outputs: Sequence[str], params: Params | None = None) -> str:
    """A line of a ``.param`` file."""
    words = [kind, name, str(len(inputs)), str(len(outputs)), *inputs, *outputs]
    for key, value in (params or {}).items():
        if isinstance(value, Sequence):
            words.append(f"{-23300 - key}={','.join(map(str, [len(value), *value]))}")
        else:
            words.append(f"{key}={value}")
    return " ".join(words)


def _dims(shape: tuple[int, ...]) -> dict[int, int]:
    ids = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 11, 1, 0)}[len(shape)]
    return dict(zip(ids, shape, strict=True))


def harness_for(abi: str) -> tuple[Path, list[str]]:
    """A harness for ``abi`` and what runs it here; skips where there is no compiler or no emulator."""
    emulator: list[str] = []
    if abi != HOST_ABI:
        qemu = shutil.which("qemu-aarch64-static")
        if abi != "arm64-v8a" or qemu is None:
            pytest.skip(f"nothing here runs {abi} programs")
        emulator = [qemu, "-cpu", "max"]
    try:
        find_toolchain(abi, static_only=True)
    except MissingToolError as error:
        pytest.skip(error.message)
    return find_harness(abi, static_only=True), emulator


def onnx(op: str, inputs: Mapping[str, Any], outputs: int = 1, *, opset: int = 20, **attributes: Any) -> list[Any]:
    """What ONNX Runtime computes; every input is a graph input, an empty name is one left out."""
    import onnxruntime as ort
    from onnx import helper

    names = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, list(inputs), names, **attributes)
    given = {name: array for name, array in inputs.items() if array is not None}
    node.input[:] = [name if name in given else "" for name in inputs]
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in given.items()
    ]
    graph = helper.make_graph([node], "g", infos, [helper.make_empty_tensor_value_info(name) for name in names])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return list(session.run(None, given))
