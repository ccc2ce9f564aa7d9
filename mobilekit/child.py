"""Run our functions in a child process, so that native code that dies or hangs cannot take the command with it.

``call("mobilekit.passes.simplify:run_onnxsim", {...}, what=...)`` runs one function and ends;
:class:`Child` keeps one object alive over many calls (a model is loaded once). Both start
``python -m mobilekit.child``. Arguments and results are JSON-able values in which numpy arrays may stand anywhere;
arrays travel as ``.npy`` files in a private temporary folder. Errors of :mod:`mobilekit.errors` raised there are
raised again here; a signal, a time limit and a lack of memory become :class:`~mobilekit.errors.ChildError`.
The child dies with its parent.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from mobilekit import errors
from mobilekit.errors import ChildCrashError, ChildError, ChildTimeoutError, MobilekitError, UnsupportedModelError

__all__ = ["Child", "call", "physical_memory_bytes"]

_ARRAY = "\0npy"
_PR_SET_PDEATHSIG = 1


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
    """An object that lives in a child process: made by :meth:`create`, its methods called by :meth:`call`."""

    def __init__(self, *, what: str, memory_bytes: int | None = None) -> None:
        self._what = what
        self._memory_bytes = memory_bytes or physical_memory_bytes() * 9 // 10
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="mobilekit-child-")
        self._count = 0

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def create(self, factory: str, arguments: Mapping[str, Any], *, timeout_s: float = 600.0) -> Any:
        """Make the object: ``"package.module:Class"`` called with keyword ``arguments``."""
        return self.request({"create": factory, "arguments": arguments}, timeout_s)

    def call(self, method: str, arguments: Mapping[str, Any], *, timeout_s: float = 600.0) -> Any:
        return self.request({"method": method, "arguments": arguments}, timeout_s)

    def request(self, message: Mapping[str, Any], timeout_s: float) -> Any:
        process = self._process or self._start()
        self._count += 1
        folder = Path(self._folder.name)
        _write(folder / f"request{self._count}", message)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(f"{self._count}\n".encode())
                process.stdin.flush()
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
        answer = _read(stem)
        for leftover in [*folder.glob(f"request{self._count}.*"), *folder.glob(f"answer{self._count}.*")]:
            leftover.unlink()
        if "error" in answer:
            raise _revive(answer["error"], self._what)
        return answer["value"]

    def _start(self) -> subprocess.Popen[bytes]:
        arguments = [self._folder.name, str(os.getpid()), str(self._memory_bytes)]
        with (Path(self._folder.name) / "stderr").open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mobilekit.child", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
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
            text = (Path(self._folder.name) / "stderr").read_bytes()[-2000:].decode("utf-8", "replace")
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


def _write(stem: Path, value: Any) -> None:
    """``stem.json`` plus one ``stem.N.npy`` an array; the JSON appears last, whole."""
    arrays: list[Any] = []
    np = sys.modules.get("numpy")  # a value can be an array only if somebody has imported numpy

    def pack(item: Any) -> Any:
        if np is not None and isinstance(item, np.ndarray):
            arrays.append(item)
            return {_ARRAY: len(arrays) - 1}
        if np is not None and isinstance(item, np.generic):
            return item.item()
        if isinstance(item, Mapping):
            return {str(key): pack(inner) for key, inner in item.items()}
        if isinstance(item, list | tuple):
            return [pack(inner) for inner in item]
        return str(item) if isinstance(item, Path) else item

    text = json.dumps(pack(value))
    for index, array in enumerate(arrays):
        array_file = f"{stem}.{index}.npy"
        sys.modules["numpy"].save(array_file, array, allow_pickle=False)
    temporary = Path(f"{stem}.json.part")
    temporary.write_text(text)
    temporary.replace(f"{stem}.json")


def _read(stem: Path) -> Any:
    def unpack(item: Any) -> Any:
        if isinstance(item, dict):
            if item.keys() == {_ARRAY}:
                import numpy as np

                return np.load(f"{stem}.{int(item[_ARRAY])}.npy", allow_pickle=False)
            return {key: unpack(inner) for key, inner in item.items()}
        if isinstance(item, list):
            return [unpack(inner) for inner in item]
        return item

    return unpack(json.loads(Path(f"{stem}.json").read_text()))


def _resolve(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


class _Server:
    """The child's side: one object, and the answers to what is asked of it."""

    def __init__(self) -> None:
        self._object: Any = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return {"value": self._do(request)}
        except UnsupportedModelError as error:
            findings = [{"node": f.node, "op": f.op, "reason": f.reason, "remedy": f.remedy} for f in error.findings]
            return {"error": {**self._error(type(error).__name__, error.message, error.hint), "findings": findings}}
        except MobilekitError as error:
            return {"error": self._error(type(error).__name__, error.message, error.hint)}
        except MemoryError:
            hint = "close other programs, or use a machine with more memory"
            return {"error": self._error("ChildError", "there was not enough memory", hint)}
        except Exception as error:
            return {"error": self._error(type(error).__name__, str(error), "")}

    def _do(self, request: Mapping[str, Any]) -> Any:
        arguments = request["arguments"]
        if "function" in request:
            return _resolve(request["function"])(**arguments)
        if "create" in request:
            self._object = _resolve(request["create"])(**arguments)
            return None
        return getattr(self._object, request["method"])(**arguments)

    @staticmethod
    def _error(kind: str, message: str, hint: str) -> dict[str, Any]:
        return {"type": kind, "message": message, "hint": hint}


def _main(folder: Path, parent: int, memory_bytes: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    # Native libraries print to stdout; the pipe there is for answers only.
    answers = os.dup(1)
    os.dup2(2, 1)
    server = _Server()
    for line in sys.stdin:
        number = int(line)
        answer = server.answer(_read(folder / f"request{number}"))
        try:
            _write(folder / f"answer{number}", answer)
        except OSError as error:
            text = f"cannot write the answer: {error.strerror}"
            _write(folder / f"answer{number}", {"error": {"type": "StorageError", "message": text, "hint": ""}})
        os.write(answers, b".")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    # Native libraries' exit handlers have crashed after good answers.
    os._exit(0)
