"""One command over ssh: its bytes in and out, its exit code, and what an end without one means."""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from mobilekit.errors import SshError

__all__ = ["LOST", "Session"]

LOST = 255
"""ssh's own exit code where the connection, not the command, failed."""

_TAIL_BYTES = 8192
_NOISE_BYTES = 1 << 20
_PIECE_BYTES = 1 << 18


class Session:
    """A running ``ssh`` whose remote command says ``mark`` on a line of its own before anything else.

    What comes before is a login shell's noise (an ``echo`` in ``.bashrc``) and is dropped. Closing the session ends
    ssh, and with it the remote command's standard input. ``heard`` is given each line of stderr, on a
    thread; those for which it is true are not kept.
    """

    def __init__(
        self, argv: Sequence[str], mark: str, *, serial: str, heard: Callable[[str], bool] | None = None
    ) -> None:
        self._serial = serial
        self._heard = heard
        self._mark = f"{mark}\n".encode()
        self.started = False
        """Whether the mark came: the other side runs the command."""
        self._buffer = b""
        self._tail = b""
        # A session of its own: the terminal's Ctrl-C is for us, and ssh has no terminal to ask for passwords at.
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self._errors = threading.Thread(target=self._drain, daemon=True)
        self._errors.start()

    def _drain(self) -> None:
        assert self.process.stderr is not None
        left = b""
        with suppress(OSError, ValueError):
            while piece := os.read(self.process.stderr.fileno(), 65536):
                *lines, left = (left + piece).split(b"\n")
                if len(left) > _TAIL_BYTES:
                    lines.append(left)
                    left = b""
                for line in lines:
                    self._keep(line)
        self._keep(left)

    def _keep(self, line: bytes) -> None:
        if not line or (self._heard is not None and self._heard(line.decode("utf-8", "replace").strip())):
            return
        self._tail = (self._tail + line + b"\n")[-_TAIL_BYTES:]

    @property
    def stderr(self) -> str:
        return self._tail.decode("utf-8", "replace").replace("\r", "").strip()

    def begin(self, deadline: float) -> bool:
        """Wait for the mark; False where the session ended before it. Raises ``TimeoutError`` past ``deadline``."""
        while not self.started:
            piece = self._receive(deadline)
            if not piece:
                return False
            self._buffer += piece
            _, found, after = self._buffer.partition(self._mark)
            if found:
                self.started, self._buffer = True, after
            elif len(self._buffer) > _NOISE_BYTES:
                raise SshError(
                    "log in",
                    serial=self._serial,
                    stderr="its login shell prints without end",
                    hint="its start files must be silent where there is no terminal",
                )
        return True

    def read(self, deadline: float) -> bytes:
        """The next bytes after the mark; ``b""`` at their end. Raises ``TimeoutError`` past ``deadline``."""
        if not self.begin(deadline):
            return b""
        piece, self._buffer = self._buffer, b""
        return piece or self._receive(deadline)

    def _receive(self, deadline: float) -> bytes:
        assert self.process.stdout is not None
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
            raise TimeoutError
        return os.read(self.process.stdout.fileno(), _PIECE_BYTES)

    def readline(self, deadline: float, limit: int = 1 << 24) -> bytes:
        """The next line without its end; ``b""`` where the stream ended before one."""
        line = b""
        while b"\n" not in line:
            piece = self.read(deadline)
            if not piece or len(line) > limit:
                return b""
            line += piece
        line, _, rest = line.partition(b"\n")
        self._buffer = rest + self._buffer
        return line

    def write(self, data: bytes) -> None:
        """To the command's standard input; one that no longer reads is no error: its exit code says why."""
        assert self.process.stdin is not None
        view = memoryview(data)
        with suppress(BrokenPipeError):
            while view:
                view = view[self.process.stdin.write(view) or 0 :]

    def converse(self, feed: Iterable[bytes], sink: Callable[[bytes], object], deadline: float) -> int:
        """Send all of ``feed`` while ``sink`` takes what comes; the exit code. Raises ``TimeoutError``."""
        failed: list[BaseException] = []

        def send() -> None:
            assert self.process.stdin is not None
            try:
                for piece in feed:
                    self.write(piece)
            except BaseException as error:
                failed.append(error)
            self.process.stdin.close()

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        try:
            while piece := self.read(deadline):
                sink(piece)
            return self.wait(deadline)
        finally:
            if self.process.poll() is None:
                self.process.kill()  # a sender that is stuck ends with it
            sender.join()
            self.close()
            if failed:
                raise failed[0]

    def wait(self, deadline: float) -> int:
        try:
            code = self.process.wait(max(deadline - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        self._errors.join(1)
        return code

    def close(self, patience_s: float = 0.0) -> None:
        """End of input; past ``patience_s`` ssh is killed."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(patience_s)
        except BaseException as error:  # an impatient Ctrl-C, too
            self.process.kill()
            self.process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        self._errors.join(1)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
