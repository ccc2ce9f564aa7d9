"""Commands in forked copies of a process that has imported everything: a thousandth of what starting Python costs.

What a command starts itself (:class:`mobilekit.child.Child`) is forked too. The copies have bounded memory and time,
a folder of their own to run in, and a private one for temporary files.
"""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import ncnn  # noqa: F401
import numpy as np  # noqa: F401
import onnx.inliner
import onnx.reference  # noqa: F401
import onnxruntime  # noqa: F401

import mobilekit
from mobilekit import child, child_server
from mobilekit.cli import main

__all__ = ["Done", "run"]

for _module in pkgutil.walk_packages(mobilekit.__path__, "mobilekit."):
    if not _module.name.endswith("__main__"):
        importlib.import_module(_module.name)

gc.collect()
gc.freeze()

MEMORY_BYTES = 6 << 30
"""Address space of each process; the libraries alone take more than one GB of it."""

LIMIT_S = 10.0


@dataclass(frozen=True)
class Done:
    """``code`` is negative for a signal, ``None`` where the time was up; ``left``: files in places not theirs;
    ``cpu_s``: processor time of the command and the children that it waited for."""

    code: int | None
    stdout: str
    stderr: str
    seconds: float
    cpu_s: float
    left: tuple[str, ...]


class _Forked:
    """What :class:`mobilekit.child.Child` needs of a ``subprocess.Popen``."""

    def __init__(self, pid: int, stdin: int, stdout: int) -> None:
        self.pid = pid
        self.stdin, self.stdout = os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb")
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self) -> int:
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code


def _start(self: Any) -> _Forked:
    """Stands in for ``Child._start``."""
    (ours_in, theirs_out), (theirs_in, ours_out) = os.pipe(), os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.close(ours_in)
        os.close(ours_out)
        stderr = os.open(self._folder.path / "stderr", os.O_WRONLY | os.O_CREAT, 0o600)
        os.environ["TMPDIR"], tempfile.tempdir = str(self._folder.path), None
        for source, target in ((theirs_in, 0), (theirs_out, 1), (stderr, 2)):
            os.dup2(source, target)
        sys.stdin = os.fdopen(0, "r")
        try:
            child_server._main(self._folder.path, parent, self._memory_bytes, self._preload)
        finally:
            os._exit(0)
    with suppress(ProcessLookupError):
        os.setpgid(pid, pid)  # both do it: Child.close ends the group, maybe before the copy has begun to run
    os.close(theirs_in)
    os.close(theirs_out)
    self._process = _Forked(pid, ours_out, ours_in)
    return self._process


def run(arguments: Sequence[str], folder: Path, allowed: Sequence[str] = ("models",), limit_s: float = LIMIT_S) -> Done:
    """``mobilekit`` with these arguments in ``folder``, where only ``allowed`` may be afterwards."""
    with tempfile.TemporaryDirectory(prefix="mobilekit-fuzz-") as name:
        private = Path(name)
        (private / "tmp").mkdir()
        started = time.monotonic()
        code, cpu_s = _forked(arguments, folder, private, limit_s)
        seconds = time.monotonic() - started
        left = [f"tmp/{path.name}" for path in (private / "tmp").iterdir()] if code is not None and code >= 0 else []
        left += [path.name for path in folder.iterdir() if path.name not in allowed]
        texts = [(private / stream).read_bytes().decode("utf-8", "replace") for stream in ("stdout", "stderr")]
        crash = private / "state" / "crashes" / "last.txt"
        if crash.is_file():
            texts[1] += crash.read_text()
        return Done(code, texts[0], texts[1], seconds, cpu_s, tuple(left))


def _forked(arguments: Sequence[str], folder: Path, private: Path, limit_s: float) -> tuple[int | None, float]:
    gc.collect()  # a session of ONNX Runtime that is collected in the copy waits for threads that are not there
    gc.freeze()  # nor need copies look at what is here again
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.environ |= {"TMPDIR": str(private / "tmp"), "MOBILEKIT_STATE": str(private / "state"), "COLUMNS": "200"}
            tempfile.tempdir = None
            os.chdir(folder)
            for stream, number in (("stdout", 1), ("stderr", 2)):
                os.dup2(os.open(private / stream, os.O_WRONLY | os.O_CREAT, 0o600), number)
            child.Child._start = _start  # type: ignore[method-assign,assignment]
            sys.argv = ["mobilekit", *arguments]
            code = 255
            try:
                main.run()
            except SystemExit as leaving:
                code = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
            except BaseException:
                import traceback

                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    return _waited(pid, limit_s)


def _waited(pid: int, limit_s: float) -> tuple[int | None, float]:
    handle = os.pidfd_open(pid)
    try:
        ended = bool(select.select([handle], [], [], limit_s)[0])
    finally:
        os.close(handle)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    _, status, used = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status) if ended else None, used.ru_utime + used.ru_stime


def emptied(folder: Path) -> Path:
    """``folder``, new and empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
