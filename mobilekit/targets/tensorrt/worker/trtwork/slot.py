"""What one inference needs: memory on both sides, a stream, an execution context."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .base import WorkError
from .bindings import explained
from .buffers import Buffer, growing_output
from .stream import Stream

if TYPE_CHECKING:
    from .engine import Engine


def shape_text(shape: Sequence[int]) -> str:
    return "x".join(str(axis) for axis in shape) or "scalar"


class Slot:
    """An execution context on a stream of its own, with its buffers."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.cuda = engine, engine.cuda
        self.context = engine.new_context()
        self.stream = Stream(engine.cuda)
        self.buffers: dict[str, Buffer] = {}
        self.growing: dict[str, Any] = {}
        self.fed: Any = None
        self.no_graph = "it was not asked for"

    def feed(self, inputs: Mapping[str, Any]) -> None:
        """Put ``inputs`` into the buffers; shapes and addresses are set anew only where they are others, or where
        values are that shapes depend on."""
        inputs = {name: self._typed(name, array) for name, array in inputs.items()}
        shapes = {name: tuple(array.shape) for name, array in inputs.items()}
        asked = shapes, {name: inputs[name].tobytes() for name in inputs if self._on_host(name)}
        if asked == self.fed:
            for name, array in inputs.items():
                self.buffers[name].array[...] = array
            return
        profile = self.engine.profile_for(inputs)
        self.stream.drop_graph()
        self.fed = None
        before = len(self.engine.log.errors)
        try:
            self._place(profile, inputs)
        except RuntimeError as error:  # of TensorRT's bindings
            raise self._refused(before, inputs) from error
        self.fed = asked

    def _place(self, profile: int, inputs: Mapping[str, Any]) -> None:
        context, before = self.context, len(self.engine.log.errors)
        if profile != context.active_optimization_profile:
            context.set_optimization_profile_async(profile, self.stream.number)
        self.stream.synchronize()
        for name, array in inputs.items():
            buffer = self._buffer(name, tuple(array.shape))
            buffer.array[...] = array
            if not context.set_input_shape(name, tuple(array.shape)):
                raise self._refused(before, inputs)
            self._address(name, buffer)
        if missing := context.infer_shapes():
            raise WorkError("shape", f"the shape of {', '.join(missing)} is not known from these inputs")
        for name in self.engine.outputs:
            shape = tuple(context.get_tensor_shape(name))
            if all(axis >= 0 for axis in shape):
                if name in self.growing:
                    context.set_output_allocator(name, None)
                    self.growing.pop(name).free()
                self._address(name, self._buffer(name, shape))
                continue
            if name not in self.growing:
                self.growing[name] = growing_output(self.engine.trt, self.cuda, self.engine.dtype(name))
            if not context.set_output_allocator(name, self.growing[name]):
                raise explained(self.engine.log.errors[before:], f"TensorRT takes no memory for output {name!r}")

    def _typed(self, name: str, array: Any) -> Any:
        wanted = self.engine.dtype(name)
        if str(array.dtype) == "float64" and wanted == "float32":  # TensorRT has no wider one
            return array.astype(wanted)
        if str(array.dtype) != wanted:
            raise WorkError("input", f"input {name!r} is {array.dtype}, and must be {wanted}")
        return array

    def _refused(self, before: int, inputs: Mapping[str, Any]) -> WorkError:
        shapes = ", ".join(f"{name!r} {shape_text(array.shape)}" for name, array in inputs.items())
        error = explained(self.engine.log.errors[before:], f"the plan does not take inputs of these shapes: {shapes}")
        if error.kind == "internal":
            return WorkError("shape", error.message, "give inputs of other sizes")
        return error

    def _address(self, name: str, buffer: Buffer) -> None:
        before = len(self.engine.log.errors)
        address = buffer.host if self._on_host(name) else buffer.device.value
        if not self.context.set_tensor_address(name, address):
            raise explained(self.engine.log.errors[before:], f"TensorRT does not take the memory for {name!r}")

    def _buffer(self, name: str, shape: tuple[int, ...]) -> Buffer:
        buffer = self.buffers.get(name)
        lender = self.buffers.get(self.engine.aliases.get(name, ""))
        if buffer is None or buffer.array.shape != shape or buffer.lender is not lender:
            if buffer is not None:
                del self.buffers[name]
                buffer.free()
            buffer = self.buffers[name] = Buffer(self.cuda, self.engine.dtype(name), shape, lender)
        return buffer

    def _on_host(self, name: str) -> bool:
        """Shape tensors are read and written by the CPU."""
        return bool(self.engine.engine.get_tensor_location(name) == self.engine.trt.TensorLocation.HOST)

    def enqueue(self) -> None:
        before = len(self.engine.log.errors)
        for growing in self.growing.values():
            growing.begin()
        if not self.context.execute_async_v3(self.stream.number):
            for growing in self.growing.values():
                if growing.error is not None:
                    raise growing.error
            raise explained(self.engine.log.errors[before:], "the plan could not be executed")

    def launch(self, *, timed: bool = False) -> None:
        """Inputs to the GPU, the plan, outputs back; nothing is waited for."""
        self._mark(0, timed)
        for name in self.engine.inputs:
            if not self._on_host(name):
                self.buffers[name].to_device(self.stream.handle)
        self._mark(1, timed)
        if self.stream.has_graph:
            self.stream.replay()
        else:
            self.enqueue()
        self._mark(2, timed)
        for name in self.engine.outputs:
            if name in self.buffers and name not in self.growing and not self._on_host(name):
                self.buffers[name].to_host(self.stream.handle)
        for growing in self.growing.values():
            if growing.buffer is not None:
                growing.buffer.to_host(self.stream.handle)
        self._mark(3, timed)

    def _mark(self, index: int, timed: bool) -> None:
        if timed:
            self.stream.mark(index)

    def timed(self) -> tuple[float, float, float]:
        """One inference in milliseconds: the plan alone, with the copies (both by the GPU's clock), and as the host
        sees it."""
        started = time.perf_counter()
        self.launch(timed=True)
        self.stream.synchronize()
        wall = (time.perf_counter() - started) * 1e3
        return self.stream.between(1, 2), self.stream.between(0, 3), wall

    def answers(self) -> dict[str, Any]:
        fixed = {name: self.buffers[name].array.copy() for name in self.engine.outputs if name not in self.growing}
        return dict(fixed, **{name: growing.answer() for name, growing in self.growing.items()})

    def ready(self, inputs: Mapping[str, Any], cuda_graph: bool) -> None:
        """Run once, and record the plan into a CUDA graph where that is asked for and can be; :attr:`no_graph` says
        why it could not."""
        self.stream.drop_graph()
        self.feed(inputs)
        self.launch()  # what TensorRT does only after new shapes must not be recorded
        self.stream.synchronize()
        if not cuda_graph:
            return
        if self.growing:
            self.no_graph = "the shape of an output depends on data"
            return
        capturable = getattr(self.context, "is_stream_capturable", None)
        if capturable is not None and not capturable(self.stream.number):
            self.no_graph = "TensorRT cannot capture this plan"
            return
        try:
            self.stream.record(self.enqueue)
        except WorkError as error:
            self.no_graph = error.message
