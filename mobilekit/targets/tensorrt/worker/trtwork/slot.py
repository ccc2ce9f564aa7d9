"""What one inference needs: memory on both sides, a stream, an execution context."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .base import WorkError
from .bindings import explained
from .cuda import Cuda

if TYPE_CHECKING:
    from .engine import Engine


def shape_text(shape: Sequence[int]) -> str:
    return "x".join(str(axis) for axis in shape) or "scalar"


class Buffer:
    """An array in page-locked host memory, and as much memory on the GPU."""

    def __init__(self, cuda: Cuda, dtype: str, shape: Sequence[int]) -> None:
        import numpy

        count = 1
        for axis in shape:
            count *= int(axis)
        self._cuda = cuda
        self.size = max(1, count * numpy.dtype(dtype).itemsize)  # TensorRT wants an address for nothing, too
        self.device, self._host = ctypes.c_uint64(0), ctypes.c_void_p()
        cuda("cuMemAlloc_v2", ctypes.byref(self.device), ctypes.c_size_t(self.size))
        try:
            cuda("cuMemHostAlloc", ctypes.byref(self._host), ctypes.c_size_t(self.size), 0)
        except WorkError:
            self.free()
            raise
        memory: Any = (ctypes.c_char * self.size).from_address(self._host.value or 0)
        self.array: Any = numpy.ndarray(tuple(shape), dtype, buffer=memory)

    @property
    def host(self) -> int:
        return self._host.value or 0

    def to_device(self, stream: ctypes.c_void_p) -> None:
        self._cuda("cuMemcpyHtoDAsync_v2", self.device, self._host, ctypes.c_size_t(self.size), stream)

    def to_host(self, stream: ctypes.c_void_p) -> None:
        self._cuda("cuMemcpyDtoHAsync_v2", self._host, self.device, ctypes.c_size_t(self.size), stream)

    def free(self) -> None:
        if self.device.value:
            self._cuda("cuMemFree_v2", self.device)
        if self._host.value:
            self._cuda("cuMemFreeHost", self._host)
        self.device, self._host = ctypes.c_uint64(0), ctypes.c_void_p()


def growing_output(trt: Any, cuda: Cuda, dtype: str) -> Any:
    """An ``IOutputAllocator`` for an output whose shape only the run tells; its memory grows and is kept."""

    class Growing(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.buffer: Buffer | None = None
            self.shape: tuple[int, ...] = ()
            self.error: WorkError | None = None

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int | None:
            try:
                if self.buffer is None or size > self.buffer.size:
                    if self.buffer is not None:
                        self.buffer.free()
                    self.buffer = None
                    self.buffer = Buffer(cuda, "uint8", (size,))
            except WorkError as error:  # must not pass through C++
                self.error = error
                return None
            return int(self.buffer.device.value)

        def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int | None:
            return self.reallocate_output(name, memory, size, alignment)

        def notify_shape(self, name: str, shape: Any) -> None:
            self.shape = tuple(shape)

        def answer(self) -> Any:
            import numpy

            if self.buffer is None:
                return numpy.empty(self.shape, dtype)
            return numpy.ndarray(self.shape, dtype, buffer=self.buffer.array).copy()

    return Growing()


class Slot:
    """An execution context on a stream of its own, with its buffers."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.cuda = engine, engine.cuda
        self.context = engine.new_context()
        self.stream = self.cuda.handle("cuStreamCreate", 1)  # does not wait for the default stream
        self.events = [self.cuda.handle("cuEventCreate", 0) for _ in range(4)]
        self.buffers: dict[str, Buffer] = {}
        self.growing: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.graph: ctypes.c_void_p | None = None
        self.no_graph = "it was not asked for"

    def feed(self, inputs: Mapping[str, Any]) -> None:
        """Put ``inputs`` into the buffers; contexts and addresses are set anew only for other shapes."""
        engine, context = self.engine, self.context
        shapes = {name: tuple(array.shape) for name, array in inputs.items()}
        if shapes != self.shapes:
            before = len(engine.log.errors)
            profile = engine.profile_for(inputs)
            self._drop_graph()
            self.shapes = {}
            if profile != context.active_optimization_profile:
                context.set_optimization_profile_async(profile, self.stream.value)
            self.synchronize()
            for name, shape in shapes.items():
                buffer = self._buffer(name, shape)
                if not context.set_input_shape(name, shape):
                    raise explained(engine.log.errors[before:], f"input {name!r} cannot be {shape_text(shape)}")
                context.set_tensor_address(name, buffer.host if self._on_host(name) else buffer.device.value)
        for name, array in inputs.items():
            wanted = engine.dtype(name)
            if str(array.dtype) != wanted:
                raise WorkError("input", f"input {name!r} is {array.dtype}, and must be {wanted}")
            self.buffers[name].array[...] = array
        if shapes != self.shapes:
            if missing := context.infer_shapes():
                raise WorkError("shape", f"the shape of {', '.join(missing)} is not known from these inputs")
            for name in engine.outputs:
                self._place_output(name, tuple(context.get_tensor_shape(name)))
            self.shapes = shapes

    def _place_output(self, name: str, shape: tuple[int, ...]) -> None:
        if all(axis >= 0 for axis in shape):
            buffer = self._buffer(name, shape)
            self.context.set_tensor_address(name, buffer.host if self._on_host(name) else buffer.device.value)
        elif name not in self.growing:
            self.growing[name] = growing_output(self.engine.trt, self.cuda, self.engine.dtype(name))
            self.context.set_output_allocator(name, self.growing[name])

    def _buffer(self, name: str, shape: tuple[int, ...]) -> Buffer:
        buffer = self.buffers.get(name)
        if buffer is None or buffer.array.shape != shape:
            if buffer is not None:
                buffer.free()
                del self.buffers[name]
            buffer = self.buffers[name] = Buffer(self.cuda, self.engine.dtype(name), shape)
        return buffer

    def _on_host(self, name: str) -> bool:
        """Shape tensors are read and written by the CPU."""
        return bool(self.engine.engine.get_tensor_location(name) == self.engine.trt.TensorLocation.HOST)

    def enqueue(self) -> None:
        if self.graph is not None:
            self.cuda("cuGraphLaunch", self.graph, self.stream)
            return
        before = len(self.engine.log.errors)
        if not self.context.execute_async_v3(self.stream.value):
            for growing in self.growing.values():
                if growing.error is not None:
                    raise growing.error
            raise explained(self.engine.log.errors[before:], "the plan could not be executed")

    def launch(self, *, timed: bool = False) -> None:
        """Inputs to the GPU, the plan, outputs back; nothing is waited for."""
        self._mark(0, timed)
        for name in self.engine.inputs:
            if not self._on_host(name):
                self.buffers[name].to_device(self.stream)
        self._mark(1, timed)
        self.enqueue()
        self._mark(2, timed)
        for name in self.engine.outputs:
            if name in self.buffers and name not in self.growing and not self._on_host(name):
                self.buffers[name].to_host(self.stream)
        for growing in self.growing.values():
            if growing.buffer is not None:
                growing.buffer.to_host(self.stream)
        self._mark(3, timed)

    def _mark(self, event: int, timed: bool) -> None:
        if timed:
            self.cuda("cuEventRecord", self.events[event], self.stream)

    def synchronize(self) -> None:
        self.cuda("cuStreamSynchronize", self.stream)

    def timed(self) -> tuple[float, float, float]:
        """One inference in milliseconds: the plan alone, with the copies (both by the GPU's clock), and as the host
        sees it."""
        started = time.perf_counter()
        self.launch(timed=True)
        self.synchronize()
        wall = (time.perf_counter() - started) * 1e3
        return self._between(1, 2), self._between(0, 3), wall

    def _between(self, first: int, last: int) -> float:
        value = ctypes.c_float(0)
        self.cuda("cuEventElapsedTime", ctypes.byref(value), self.events[first], self.events[last])
        return value.value

    def answers(self) -> dict[str, Any]:
        fixed = {name: self.buffers[name].array.copy() for name in self.engine.outputs if name not in self.growing}
        return dict(fixed, **{name: growing.answer() for name, growing in self.growing.items()})

    def ready(self, inputs: Mapping[str, Any], cuda_graph: bool) -> None:
        """Run once, and record the plan into a CUDA graph where that is asked for and can be."""
        self._drop_graph()
        self.feed(inputs)
        self.launch()  # what TensorRT does only after new shapes must not be recorded
        self.synchronize()
        if cuda_graph:
            self._capture()

    def _capture(self) -> None:
        """:attr:`no_graph` says why it could not be."""
        if self.growing:
            self.no_graph = "the shape of an output depends on data"
            return
        capturable = getattr(self.context, "is_stream_capturable", None)
        if capturable is not None and not capturable(self.stream.value):
            self.no_graph = "TensorRT cannot capture this plan"
            return
        graph = ctypes.c_void_p()
        try:
            self.cuda("cuStreamBeginCapture_v2", self.stream, 1)  # other threads may do as they like
            try:
                self.enqueue()
            except WorkError:
                with contextlib.suppress(WorkError):  # it says no more than that something failed
                    self.cuda("cuStreamEndCapture", self.stream, ctypes.byref(graph))
                raise
            self.cuda("cuStreamEndCapture", self.stream, ctypes.byref(graph))
            self.graph = self.cuda.handle("cuGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0))
        except WorkError as error:
            self.no_graph = error.message
        finally:
            if graph.value:
                self.cuda("cuGraphDestroy", graph)

    def _drop_graph(self) -> None:
        if self.graph is not None:
            self.cuda("cuGraphExecDestroy", self.graph)
            self.graph = None
