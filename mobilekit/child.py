"""Run our functions in a child process, so that native code that dies or hangs cannot take the command with it.

``call("mobilekit.passes.simplify:run_onnxsim", {...}, what=...)`` runs one function and ends;
:class:`Child` keeps one object alive over many calls (a model is loaded once). Both start
:mod:`mobilekit.child_server`. Arguments and results are JSON-able values in which numpy arrays may stand anywhere;
arrays travel as ``.npy`` files in a private temporary folder, which is the child's ``TMPDIR``, too. Errors of
:mod:`mobilekit.errors` raised there are raised again here; a signal, a time limit and a lack of memory become
:class:`~mobilekit.errors.ChildError`. The child dies with its parent.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from mobilekit import child_server, errors, interrupts
from mobilekit.child_server import read_message, write_message
from mobilekit.errors import ChildCrashError, ChildError, ChildTimeoutError, MobilekitError, UnsupportedModelError
from mobilekit.paths import Scratch

__all__ = ["Child", "call", "physical_memory_bytes"]


def physical_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def call(
    function: str,
    arguments: Mapping[str, Any],
    *,
    what: str,
    timeout_s: float = 600.0,
    memory_bytes: int | None = None,
) -> Any:
    """Call ``"package.module:function"`` with keyword ``arguments``, in a process of its own.

    ``what`` names the work in messages ("running the model on the ncnn wheel"). ``memory_bytes`` bounds the child's
    private memory (default: nine tenths of this machine's). Raises what the function raised if that is one of
    :mod:`mobilekit.errors`, :class:`ChildCrashError` on a signal, :class:`ChildTimeoutError` past ``timeout_s``.
    """
    with Child(what=what, memory_bytes=memory_bytes) as child:
        return child.request({"function": function, "arguments": arguments}, timeout_s)


class Child:
    """An object that lives in a child process: made by :meth:`create`, its methods called by :meth:`call`.

    ``preload``: modules that it imports before it is asked for anything, so that :meth:`start` gains time.
    ``env``: what its environment has beside ours; what the user has set comes first.
    """

    def __init__(
        self,
        *,
        what: str,
        memory_bytes: int | None = None,
        preload: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._what = what
        self._preload = tuple(preload)
        self._env = dict(env or {})
        self._memory_bytes = memory_bytes or physical_memory_bytes() * 9 // 10
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Scratch("child")
        self._count = 0

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the process, where that has not been done: it imports what it needs while we do other things."""
        if self._process is None:
            self._start()

    def create(self, factory: str, arguments: Mapping[str, Any], *, timeout_s: float = 600.0) -> Any:
        """Make the object: ``"package.module:Class"`` called with keyword ``arguments``."""
        return self.request({"create": factory, "arguments": arguments}, timeout_s)

    def call(self, method: str, arguments: Mapping[str, Any], *, timeout_s: float = 600.0) -> Any:
        return self.request({"method": method, "arguments": arguments}, timeout_s)

    def request(self, message: Mapping[str, Any], timeout_s: float) -> Any:
        self.begin(message)
        return self.finish(timeout_s)

    def begin(self, message: Mapping[str, Any]) -> None:
        """Ask without waiting for the answer, which :meth:`finish` gives: the child works meanwhile."""
        process = self._process or self._start()
        self._count += 1
        assert process.stdin is not None
        try:
            write_message(self._folder.path / f"request{self._count}", message)
            with suppress(BrokenPipeError):
                process.stdin.write(f"{self._count}\n".encode())
                process.stdin.flush()
        except BaseException:
            self.close()
            raise

    def finish(self, timeout_s: float) -> Any:
        """The answer to what :meth:`begin` asked; ``timeout_s`` counts from here."""
        process = self._process
        assert process is not None, "nothing was asked"
        folder = self._folder.path
        try:
            if not self._wait_for_answer(process, timeout_s):
                hint = "raise the limit with --timeout, or use a smaller input"
                raise ChildTimeoutError(self._what, limit_s=timeout_s, hint=hint)
        except BaseException:
            self.close()
            raise
        stem = folder / f"answer{self._count}"
        if not Path(f"{stem}.json").exists():
            returncode = process.wait()
            said = self._last_lines()
            self.close()
            if returncode < 0:
                raise ChildCrashError(self._what, signal=-returncode, hint=said)
            raise ChildError(f"{self._what} ended with exit code {returncode} and no answer", hint=said)
        answer = read_message(stem)
        for leftover in [*folder.glob(f"request{self._count}.*"), *folder.glob(f"answer{self._count}.*")]:
            leftover.unlink()
        if "error" in answer:
            raise _revive(answer["error"], self._what)
        return answer["value"]

    def _start(self) -> subprocess.Popen[bytes]:
        # By its path, without that folder on sys.path (-P): `-m` would import more before it begins.
        command = [sys.executable, "-P", child_server.__file__]
        command += [str(self._folder.path), str(os.getpid()), str(self._memory_bytes), *self._preload]
        with (self._folder.path / "stderr").open("wb") as stderr, interrupts.held():
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                # numpy's BLAS starts a thread a core when it is imported: a third of what that takes.
                # What it leaves in its temporary folder goes with ours.
                env={"OPENBLAS_NUM_THREADS": "1", **self._env, **os.environ, "TMPDIR": str(self._folder.path)},
            )
        return self._process

    def _wait_for_answer(self, process: subprocess.Popen[bytes], timeout_s: float) -> bool:
        """True once the child has answered, or closed its pipe by ending; False past the limit."""
        assert process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            if select.select([process.stdout], [], [], left)[0]:
                os.read(process.stdout.fileno(), 64)
                return True
        return False

    def _last_lines(self, count: int = 3) -> str:
        with suppress(OSError):
            text = (self._folder.path / "stderr").read_bytes()[-2000:].decode("utf-8", "replace")
            return "\n".join(text.strip().splitlines()[-count:])
        return ""

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        self._folder.cleanup()


def _revive(error: Mapping[str, Any], what: str) -> MobilekitError:
    kind = getattr(errors, str(error["type"]), None)
    if kind is UnsupportedModelError:
        findings = [errors.Finding(**finding) for finding in error["findings"]]
        return UnsupportedModelError(error["message"], findings=findings, hint=error["hint"])
    if isinstance(kind, type) and issubclass(kind, MobilekitError):
        revived = kind.__new__(kind)
        MobilekitError.__init__(revived, error["message"], hint=error["hint"])
        return revived
    return ChildError(f"{what} failed: {error['type']}: {error['message']}", hint=error["hint"])
