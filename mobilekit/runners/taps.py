"""ONNX Runtime with inner tensors among its answers: what bisecting holds a device's inner blobs against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mobilekit.child import Child
from mobilekit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from types import TracebackType

    from onnx import ModelProto

    from mobilekit.tensors import Array, NamedTensors

__all__ = ["Taps"]


class Taps:
    """A context manager. ``proto`` is not changed; its external data lies in ``folder``.

    Graph optimisations are off, so that every tensor exists. Entering raises :class:`ModelError` where ONNX Runtime
    does not take the model.
    """

    def __init__(self, proto: ModelProto, *, folder: str = "") -> None:
        from onnx import ModelProto, ValueInfoProto

        wide = ModelProto()
        wide.CopyFrom(proto)
        there = {info.name for info in wide.graph.output}
        made = dict.fromkeys(name for node in wide.graph.node for name in node.output if name)
        wide.graph.output.extend(ValueInfoProto(name=name) for name in made if name not in there)
        for node in wide.graph.node:
            node.name = ""  # ONNX Runtime wants them to be unique, ONNX does not
        self.names = frozenset(made) | there | {info.name for info in wide.graph.input}
        self._inputs = {info.name for info in wide.graph.input}
        self._folder = folder
        try:
            self._model = wide.SerializeToString()
        except ValueError as error:
            raise ModelError(
                "the model is larger than the 2 GB that fit in a message", hint="keep its weights in external data"
            ) from error
        self._child: Child | None = None

    def __enter__(self) -> Taps:
        import numpy as np

        child = self._child = Child(what="ONNX Runtime on the model with its inner tensors")
        try:
            model = np.frombuffer(self._model, np.uint8)
            child.create("mobilekit.runners.taps:_Session", {"model": model, "folder": self._folder})
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._child.close()
        self._child = None

    def values(self, inputs: Mapping[str, Array], names: Sequence[str], *, timeout_s: float = 600.0) -> NamedTensors:
        """The tensors ``names`` for ``inputs``; those that are no tensors (sequences) are left out. Raises
        :class:`UsageError` where ONNX Runtime does not take the inputs."""
        assert self._child is not None, "use it in a with statement"
        found = {name: inputs[name] for name in names if name in inputs}
        rest = [name for name in dict.fromkeys(names) if name not in found]
        if rest:
            feed = {name: array for name, array in inputs.items() if name in self._inputs}
            found |= self._child.call("run", {"inputs": feed, "names": rest}, timeout_s=timeout_s)
        return found


class _Session:
    """Lives in the child."""

    def __init__(self, model: Array, folder: str) -> None:
        import onnxruntime as ort

        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if folder:
            settings.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        try:
            self._session = ort.InferenceSession(model.tobytes(), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class of its own
            raise ModelError(f"ONNX Runtime does not take the model: {_first_line(error)}") from error

    def run(self, inputs: dict[str, Any], names: list[str]) -> dict[str, Any]:
        import numpy as np

        try:
            made = self._session.run(names, inputs)
        except Exception as error:
            raise UsageError(f"ONNX Runtime cannot run the model on these inputs: {_first_line(error)}") from error
        return {name: array for name, array in zip(names, made, strict=True) if isinstance(array, np.ndarray)}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
