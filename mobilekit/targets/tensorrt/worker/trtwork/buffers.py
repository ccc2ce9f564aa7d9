"""Memory on both sides of an inference."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence
from typing import Any

from .base import WorkError
from .cuda import Cuda


class Buffer:
    """An array in page-locked host memory, and as much memory on the GPU. ``lender``: whose memory on the GPU it is,
    where it is not its own."""

    def __init__(self, cuda: Cuda, dtype: str, shape: Sequence[int], lender: Buffer | None = None) -> None:
        import numpy

        count = 1
        for axis in shape:
            count *= int(axis)
        self._cuda = cuda
        self.size = max(1, count * numpy.dtype(dtype).itemsize)  # TensorRT wants an address for nothing, too
        self.lender = lender
        self.device, self._host = ctypes.c_uint64(0), ctypes.c_void_p()
        if lender is None:
            cuda("cuMemAlloc_v2", ctypes.byref(self.device), ctypes.c_size_t(self.size))
        else:
            self.device = ctypes.c_uint64(lender.device.value)
        try:
            cuda("cuMemHostAlloc", ctypes.byref(self._host), ctypes.c_size_t(self.size), 0)
        except WorkError:
            with contextlib.suppress(WorkError):
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
        """Once; the array is gone with it."""
        device, host = self.device, self._host
        self.device, self._host, self.array = ctypes.c_uint64(0), ctypes.c_void_p(), None
        try:
            if device.value and self.lender is None:
                self._cuda("cuMemFree_v2", device)
        finally:
            if host.value:
                self._cuda("cuMemFreeHost", host)


def growing_output(trt: Any, cuda: Cuda, dtype: str) -> Any:
    """An ``IOutputAllocator`` for an output whose shape only the run tells; its memory grows and is kept."""

    class Growing(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.buffer: Buffer | None = None
            self.shape: tuple[int, ...] | None = None
            self.error: WorkError | None = None

        def begin(self) -> None:
            """What an earlier run said is nothing to the next."""
            self.shape, self.error = None, None

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int | None:
            try:
                if self.buffer is None or size > self.buffer.size:
                    self.free()
                    self.buffer = Buffer(cuda, "uint8", (size,))
            except WorkError as error:  # must not pass through C++
                self.error = error
                return None
            return int(self.buffer.device.value)

        def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int | None:
            return self.reallocate_output(name, memory, size, alignment)

        def notify_shape(self, name: str, shape: Any) -> None:
            self.shape = tuple(shape)

        def free(self) -> None:
            buffer, self.buffer = self.buffer, None
            if buffer is not None:
                buffer.free()

        def answer(self) -> Any:
            import numpy

            if self.shape is None:
                raise WorkError("internal", "TensorRT does not say what shape an output has", "export the model again")
            if self.buffer is None:
                return numpy.empty(self.shape, dtype)
            return numpy.ndarray(self.shape, dtype, buffer=self.buffer.array).copy()

    return Growing()
