"""A CUDA stream: what is timed on it, and the graph that is recorded on it."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable

from .base import WorkError
from .cuda import Cuda

MARKS = 4


class Stream:
    """Does not wait for the default stream. Has :data:`MARKS` events, and one graph at most."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.handle = ctypes.c_void_p()
        self._events: list[ctypes.c_void_p] = []
        self._graph: ctypes.c_void_p | None = None
        try:
            self.handle = cuda.handle("cuStreamCreate", 1)
            for _ in range(MARKS):
                self._events.append(cuda.handle("cuEventCreate", 0))
        except WorkError:
            self.close()
            raise

    @property
    def number(self) -> int:
        """As TensorRT wants it."""
        return self.handle.value or 0

    @property
    def has_graph(self) -> bool:
        return self._graph is not None

    def mark(self, index: int) -> None:
        self._cuda("cuEventRecord", self._events[index], self.handle)

    def between(self, first: int, last: int) -> float:
        """Milliseconds by the GPU's clock between two marks that it has passed."""
        value = ctypes.c_float(0)
        self._cuda("cuEventElapsedTime", ctypes.byref(value), self._events[first], self._events[last])
        return value.value

    def synchronize(self) -> None:
        self._cuda("cuStreamSynchronize", self.handle)

    def record(self, work: Callable[[], None]) -> None:
        """Keep what ``work`` puts on the stream as a graph, in place of an earlier one; nothing of it runs.

        Raises :class:`WorkError` where it cannot be recorded; the stream can be used as before.
        """
        self.drop_graph()
        graph = ctypes.c_void_p()
        self._cuda("cuStreamBeginCapture_v2", self.handle, 1)  # other threads may do as they like
        try:
            try:
                work()
            except BaseException:
                with contextlib.suppress(WorkError):  # it says no more than that something failed
                    self._cuda("cuStreamEndCapture", self.handle, ctypes.byref(graph))
                raise
            self._cuda("cuStreamEndCapture", self.handle, ctypes.byref(graph))
            self._graph = self._cuda.handle("cuGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0))
        finally:
            if graph.value:
                self._cuda("cuGraphDestroy", graph)

    def replay(self) -> None:
        """Put the graph on the stream."""
        assert self._graph is not None
        self._cuda("cuGraphLaunch", self._graph, self.handle)

    def drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            self._cuda("cuGraphExecDestroy", graph)

    def close(self) -> None:
        """Raises nothing: what was wrong has been told before."""
        with contextlib.suppress(WorkError):
            self.drop_graph()
        for event in self._events:
            with contextlib.suppress(WorkError):
                self._cuda("cuEventDestroy_v2", event)
        if self.handle.value:
            with contextlib.suppress(WorkError):
                self._cuda("cuStreamDestroy_v2", self.handle)
        self._events, self.handle = [], ctypes.c_void_p()
