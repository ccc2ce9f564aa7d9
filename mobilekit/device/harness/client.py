"""Talking to a harness: one session loads a model once and streams inputs through it."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from mobilekit.device.base import Device
from mobilekit.device.harness import protocol
from mobilekit.device.harness.launch import Running, launch_local, launch_on_device
from mobilekit.device.harness.pixels import PIXELS_VERSION, PixelRequest, encode_pixels
from mobilekit.device.harness.protocol import ErrorCode, LoadOptions, MessageType, ServerHello
from mobilekit.device.harness.reports import GpuList, HarnessInfo, InferReport, LoadReport, PixelsReport, parse
from mobilekit.errors import (
    DeviceError,
    DeviceLostError,
    HarnessCrashError,
    HarnessError,
    HarnessTimeoutError,
    ProtocolError,
    SetupError,
)

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = ["NO_GPU_HINT", "HarnessSession"]

NO_GPU_HINT = (
    "on this machine: mobilekit harness build --vulkan, and without a GPU sudo apt install mesa-vulkan-drivers; "
    "on a phone: a harness built by the NDK (ANDROID_NDK_HOME)"
)
"""For a place that has no GPU, as far as the harness there can tell."""

_T = TypeVar("_T")
_CHUNK = 1 << 20
_GRACE_S = 5.0
_CLIENT = "mobilekit"


class HarnessSession:
    """A harness that runs from ``with`` to the end of the block, on a device or (:meth:`connect_local`) here.

    ``remote_executable`` must be on the device and executable. Every method raises
    :class:`~mobilekit.errors.HarnessCrashError` where the harness died of a signal,
    :class:`~mobilekit.errors.HarnessTimeoutError` where it did not answer in time (it is ended then),
    :class:`~mobilekit.errors.ProtocolError` on bytes that are no valid frame,
    :class:`~mobilekit.errors.DeviceLostError` where the device or adb went away, and
    :class:`~mobilekit.errors.HarnessError` with the harness's own words where it refused or failed. After any of
    the first four the session is over. Leaving the block always ends the remote process and removes the forward.
    """

    def __init__(
        self,
        device: Device,
        remote_executable: str,
        *,
        start_timeout_s: float = 30.0,
        idle_timeout_s: float = 300.0,
    ) -> None:
        self._start_timeout_s = start_timeout_s
        self._launch: Callable[[], Running] = lambda: launch_on_device(
            device, remote_executable, start_timeout_s=start_timeout_s, idle_timeout_s=idle_timeout_s
        )
        self._running: Running | None = None
        self._hello: ServerHello | None = None
        self._inbox = bytearray()
        self._pixels_version: int | None = None

    @classmethod
    def connect_local(
        cls,
        executable: Path,
        *,
        emulator: Sequence[str] = (),
        start_timeout_s: float = 30.0,
        idle_timeout_s: float = 300.0,
        memory_bytes: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> HarnessSession:
        """A session with a harness on this machine; ``emulator`` goes before it (``["qemu-aarch64-static"]``).

        ``memory_bytes`` bounds its private memory. ``environment``: what it is given beside ours, which comes first.
        """
        session = cls.__new__(cls)
        session._start_timeout_s = start_timeout_s
        session._launch = lambda: launch_local(
            executable,
            emulator=emulator,
            start_timeout_s=start_timeout_s,
            idle_timeout_s=idle_timeout_s,
            memory_bytes=memory_bytes,
            environment=environment,
        )
        session._running = None
        session._hello = None
        session._inbox = bytearray()
        session._pixels_version = None
        return session

    def __enter__(self) -> HarnessSession:
        self._running = self._launch()
        try:
            body = protocol.encode_hello(self._running.token, _CLIENT)
            self._hello = protocol.decode_hello_ok(
                self._request(MessageType.HELLO, body, MessageType.HELLO_OK, self._start_timeout_s)
            )
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def hello(self) -> ServerHello:
        """Versions, ABI and frame limit, as the harness said them at the start."""
        if self._hello is None:
            raise HarnessError("the harness session has not been started")
        return self._hello

    def require_layers(self, types: Collection[str]) -> None:
        """Raise :class:`HarnessError` where this harness lacks one of mobilekit's own layer ``types``."""
        missing = sorted(set(types) - set(self.hello.own_layers))
        if missing:
            raise HarnessError(
                f"the harness ({self.hello.harness_version}) has no layer {', '.join(missing)}, which the model needs: "
                "it is of another version than the mobilekit that exported the model",
                hint="mobilekit harness build; where MOBILEKIT_HARNESS_DIR or a mobilekit-harness wheel gives the "
                "harness, renew that",
            )

    def info(self, *, timeout_s: float = 30.0) -> HarnessInfo:
        body = self._request(MessageType.INFO, b"", MessageType.INFO_OK, timeout_s)
        return self._decoded(lambda: parse(HarnessInfo, protocol.decode_json(body)))

    def gpus(self, *, timeout_s: float = 60.0) -> GpuList:
        """The GPUs there, which starts their drivers."""
        body = self._request(MessageType.GPUS, b"", MessageType.GPUS_OK, timeout_s)
        return self._decoded(lambda: parse(GpuList, protocol.decode_json(body)))

    def load(
        self, param: str, bin_: str, options: LoadOptions | None = None, *, timeout_s: float = 300.0
    ) -> LoadReport:
        """Load a model from absolute paths on the device; it takes the place of the one before.

        With ``options.vulkan``, :class:`~mobilekit.errors.SetupError` where the build or the machine has no GPU.
        """
        request = protocol.encode_load(param, bin_, options or LoadOptions())
        body = self._request(MessageType.LOAD, request, MessageType.LOAD_OK, timeout_s)
        return self._decoded(lambda: parse(LoadReport, protocol.decode_json(body)))

    def infer(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] = (),
        *,
        warmup: int = 0,
        iterations: int = 1,
        layer_times: bool = False,
        timeout_s: float = 600.0,
    ) -> InferReport:
        """Run the loaded model ``warmup`` + ``iterations`` times on the same inputs.

        ``inputs`` by blob name, float32 or int32 in ncnn's axis order; any blob may be fed, not only a model input.
        ``outputs``: blob names, inner ones too; empty means the model's own. ``layer_times`` adds two clock readings
        for each layer to the latencies.
        """
        request = protocol.encode_infer(inputs, outputs, warmup=warmup, iterations=iterations, layer_times=layer_times)
        return self._inferred(self._request(MessageType.INFER, request, MessageType.INFER_OK, timeout_s), outputs)

    def infer_each(
        self, inputs: Iterable[Mapping[str, Array]], outputs: Sequence[str] = (), *, timeout_s: float = 600.0
    ) -> Generator[InferReport, None, None]:
        """One run on each of ``inputs``, in order. The next is on its way while the harness computes, so that the
        device waits for nobody; nothing else may be asked of the session until the iterator is exhausted or closed."""
        waiting = 0
        try:
            for each in inputs:
                self._ask(MessageType.INFER, protocol.encode_infer(each, outputs), timeout_s)
                waiting += 1
                if waiting > 1:
                    waiting -= 1
                    yield self._inferred(self._answer(MessageType.INFER, MessageType.INFER_OK, timeout_s), outputs)
            while waiting:
                waiting -= 1
                yield self._inferred(self._answer(MessageType.INFER, MessageType.INFER_OK, timeout_s), outputs)
        finally:
            # What was asked and not fetched must not be taken for the answer to something else.
            for _ in range(waiting):
                with suppress(DeviceError):
                    self._answer(MessageType.INFER, MessageType.INFER_OK, timeout_s)

    def _inferred(self, body: bytes, outputs: Sequence[str]) -> InferReport:
        def decode() -> InferReport:
            report, arrays = protocol.decode_infer_ok(body)
            if outputs and list(arrays) != list(outputs):
                raise ProtocolError(f"the harness returned {list(arrays)}, asked for were {list(outputs)}")
            return parse(InferReport, {**report, "outputs": arrays})

        return self._decoded(decode)

    def pixels(self, request: PixelRequest, *, timeout_s: float = 60.0) -> PixelsReport:
        """A picture as ncnn makes a tensor of it; needs no model. :class:`HarnessError` for sizes that it refuses."""
        if self._pixels_version is None:
            self._pixels_version = self.info().pixels_version
        if self._pixels_version != PIXELS_VERSION:
            raise HarnessError(
                "this harness does not take pictures as this mobilekit gives them",
                hint="mobilekit harness build; where MOBILEKIT_HARNESS_DIR or a mobilekit-harness wheel gives the "
                "harness, renew that",
            )
        body = self._request(MessageType.PIXELS, encode_pixels(request), MessageType.PIXELS_OK, timeout_s)

        def decode() -> PixelsReport:
            report, tensors = protocol.decode_infer_ok(body)
            return parse(PixelsReport, {**report, "tensor": tensors.get("pixels")})

        return self._decoded(decode)

    def interrupt(self) -> None:
        """Break the connection, from another thread than the one that waits for an answer, which then gets an error."""
        running = self._running
        if running is not None:
            with suppress(OSError):
                running.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Say goodbye where that is still possible, and end everything. May be called again."""
        if self._running is None:
            return
        try:
            self._request(MessageType.BYE, b"", MessageType.BYE_OK, 2.0)
        except DeviceError:
            pass
        finally:
            self._abandon()

    def _abandon(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.cleanup()

    def _decoded(self, decode: Callable[[], _T]) -> _T:
        try:
            return decode()
        except ProtocolError:
            self._abandon()
            raise

    def _request(self, kind: MessageType, body: bytes, answer: MessageType, timeout_s: float) -> bytes:
        begun = time.monotonic()
        self._ask(kind, body, timeout_s)
        return self._answer(kind, answer, timeout_s, begun)

    def _ask(self, kind: MessageType, body: bytes, timeout_s: float) -> None:
        if self._hello is not None and len(body) > self._hello.max_frame_bytes:
            raise HarnessError(f"a request of {len(body)} bytes; the harness takes {self._hello.max_frame_bytes}")
        with self._talking(kind, timeout_s) as (running, deadline):
            self._send(running, protocol.encode_frame(kind, body), deadline)

    def _answer(self, kind: MessageType, answer: MessageType, timeout_s: float, begun: float | None = None) -> bytes:
        with self._talking(kind, timeout_s, begun) as (running, deadline):
            header = protocol.decode_header(
                self._receive(running, protocol.HEADER_BYTES, deadline), max_frame=protocol.DEFAULT_MAX_FRAME
            )
            reply = self._receive(running, header.length, deadline)
            if header.type == MessageType.ERROR:
                self._raise_remote(running, reply)
            if header.type != answer:
                raise ProtocolError(f"{running.what} answered {kind.name} with a message of type {header.type:#x}")
            return reply

    @contextmanager
    def _talking(
        self, kind: MessageType, timeout_s: float, begun: float | None = None
    ) -> Iterator[tuple[Running, float]]:
        running = self._running
        if running is None:
            raise HarnessError("the harness session is over", hint="start a new one")
        try:
            yield running, (time.monotonic() if begun is None else begun) + timeout_s
        except TimeoutError:
            self._abandon()
            raise HarnessTimeoutError(
                f"{running.what} did not answer {kind.name} within {timeout_s:g} s and was ended",
                hint="raise the limit with --timeout, or use a smaller model",
            ) from None
        except (OSError, EOFError) as error:
            failure = self._why_it_ended(running, kind, error)
            self._abandon()
            raise failure from None
        except ProtocolError:
            self._abandon()
            raise
        except (HarnessError, SetupError):
            raise
        except BaseException:  # Ctrl-C in the middle of a frame
            self._abandon()
            raise

    def _raise_remote(self, running: Running, reply: bytes) -> None:
        error = protocol.decode_error(reply)
        text = f"{running.what}: {error.message}"
        if error.code in (ErrorCode.FRAME, ErrorCode.TOKEN, ErrorCode.VERSION):
            raise ProtocolError(text)
        if error.code == ErrorCode.GPU:
            raise SetupError(text, hint=NO_GPU_HINT)
        said = running.process.stderr_tail().strip() if error.code in (ErrorCode.MODEL, ErrorCode.INFERENCE) else ""
        raise HarnessError(text, hint="\n".join(said.splitlines()[-5:]))

    def _why_it_ended(self, running: Running, kind: MessageType, error: Exception) -> Exception:
        """The connection closed: the harness died, ended by itself, or the way to it is gone."""
        deadline = time.monotonic() + _GRACE_S
        try:
            while (code := running.process.poll()) is None and time.monotonic() < deadline:
                time.sleep(0.02)
        except DeviceLostError as lost:
            return lost
        said = "\n".join(running.process.stderr_tail().strip().splitlines()[-5:])
        if code is None:
            return DeviceLostError(
                f"{running.what}: the connection broke during {kind.name} ({error})",
                hint="is the device still connected? adb devices",
            )
        if code > 128:
            return HarnessCrashError(f"{running.what}, during {kind.name},", signal=code - 128, hint=said)
        return HarnessError(f"{running.what} ended with exit code {code} during {kind.name}", hint=said)

    def _send(self, running: Running, data: bytes, deadline: float) -> None:
        """What the harness says meanwhile is taken in: one that cannot get rid of an answer takes nothing."""
        connection = running.connection
        ready = select.poll()
        ready.register(connection, select.POLLIN | select.POLLOUT)
        view = memoryview(data)
        while view:
            events = sum(event for _, event in ready.poll(1000 * _left(deadline)))
            connection.settimeout(_left(deadline))
            if events & select.POLLIN:
                self._take(connection, _CHUNK)
            elif events:
                view = view[connection.send(view[:_CHUNK]) :]

    def _receive(self, running: Running, size: int, deadline: float) -> bytes:
        while len(self._inbox) < size:
            running.connection.settimeout(_left(deadline))
            self._take(running.connection, min(size - len(self._inbox), _CHUNK))
        data = bytes(memoryview(self._inbox)[:size])
        del self._inbox[:size]
        return data

    def _take(self, connection: socket.socket, most: int) -> None:
        data = connection.recv(most)
        if not data:
            raise EOFError("the connection was closed")
        self._inbox += data


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
