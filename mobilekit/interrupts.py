"""Ctrl-C and a polite kill: one exception that unwinds from wherever the signal came, and that nothing loses.

Python runs a signal's handler between any two instructions, and what it raises there may be lost: in a finaliser or a
callback from C it is printed and forgotten, C code and a bare ``except`` clear it, and between a child's start and the
line that remembers the child it loses the child. In the first lines of a native module, which call Python and do not
expect it, it ends the process. So the exception waits while something is :func:`held`, finalised or loaded, and is
raised again every quarter of a second until it unwinds; :func:`settle`, at the top, ends that.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import ExtensionFileLoader
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import subprocess

__all__ = ["Interrupted", "end", "held", "install", "leave", "settle", "started"]

_AGAIN_S = 0.25
_END_S = 5.0
_KILLS = (signal.SIGTERM, signal.SIGHUP)
_FINALISERS = (weakref.finalize.__call__.__code__, weakref.finalize._exitfunc.__code__)  # type: ignore[attr-defined]

_LOADERS = (ExtensionFileLoader.create_module.__code__, ExtensionFileLoader.exec_module.__code__)


class Interrupted(BaseException):
    """A signal asked the program to end. Not ``KeyboardInterrupt``, which Python and libraries treat in ways of their
    own, nor ``SystemExit``, which a user's module may raise."""


class _Interruption:
    """Signals belong to the process, and so does this: the one that came (0: none), and how often it is held.
    ``code``: what the program ends with, once that is known."""

    def __init__(self) -> None:
        self.number = 0
        self.held = 0
        self.code: int | None = None

    def came(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number
        if number in _KILLS:  # some send it twice; an impatient Ctrl-C counts
            _handle(_KILLS, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S, _AGAIN_S)
        self.deliver(frame)

    def again(self, _: int, frame: FrameType | None) -> None:
        if not _unwinding():
            self.deliver(frame)

    def deliver(self, frame: FrameType | None) -> None:
        if not self.held and not _breaks(frame):
            raise Interrupted


_interruption = _Interruption()


def install() -> None:
    """From here on SIGINT, SIGTERM and SIGHUP raise :class:`Interrupted`, but for those that the parent had ignored
    (``nohup``, a shell's background job)."""
    signal.signal(signal.SIGALRM, _interruption.again)
    _handle((signal.SIGINT, *_KILLS), _interruption.came)
    sys.unraisablehook = _unraised


def settle() -> int:
    """At the top: the signal that came, or 0; from here on none interrupts."""
    _handle((signal.SIGINT, *_KILLS), signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return _interruption.number


def leave(code: int = 0) -> NoReturn:
    """End the program with exit code ``code``, or the one of the signal that came."""
    number = settle()
    if number == signal.SIGINT:
        print("interrupted", file=sys.stderr, flush=True)
    _interruption.code = 128 + number if number else code
    sys.exit(_interruption.code)


def end() -> None:
    """The last exit handler, so the first that a program registers: after :func:`leave` the process is gone here.

    What Python would do yet is to free every object and to run what native libraries tear down: it takes longer than
    many a command did, and has crashed after good answers.
    """
    if _interruption.code is None:
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # a full disk, a closed pipe: Python says so, and has an exit code for it
        return
    os._exit(_interruption.code)


@contextmanager
def held() -> Iterator[None]:
    """An interruption waits until the block has ended: for a child's start, until somebody knows of the child."""
    if threading.current_thread() is not threading.main_thread():  # where signals never come
        yield
        return
    _interruption.held += 1
    try:
        yield
    finally:
        _interruption.held -= 1
    if _interruption.number and not _unwinding():
        _interruption.deliver(None)


@contextmanager
def started(command: Sequence[str | os.PathLike[str]], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """``subprocess.Popen`` without input, in a session of its own; it and what it started end with the block."""
    import subprocess

    process: subprocess.Popen[Any] | None = None
    try:
        with held():
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
        yield process
    finally:
        if process is not None:
            # Politely first: ninja's compilers are in groups of their own, and end when it tells them.
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_END_S if number == signal.SIGTERM else None)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()


def _handle(numbers: Sequence[int], handler: Any) -> None:
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _unwinding() -> bool:
    """Whether this runs within the cleaning up after an interruption."""
    error = sys.exception()
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None


def _breaks(frame: FrameType | None) -> bool:
    """Whether Python would print and forget an exception raised here, a finaliser's work half done, or C would not
    survive it, a native module half loaded."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code in _FINALISERS or frame.f_code in _LOADERS:
            return True
        frame = frame.f_back
    return False


def _unraised(given: sys.UnraisableHookArgs) -> None:
    if not isinstance(given.exc_value, Interrupted):  # that one comes again
        sys.__unraisablehook__(given)
