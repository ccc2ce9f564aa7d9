"""Run a function of ours in a child process, so that native code that dies or hangs cannot take the command with it.

``call("mobilekit.runners.ncnn_host:infer", {...})`` starts ``python -m mobilekit.child``, which imports the module,
calls the function with the request and sends back what it returns. Requests and results are JSON-able values in
which numpy arrays may stand anywhere; arrays travel as ``.npy`` files in a private temporary folder. Errors of
:mod:`mobilekit.errors` that the function raises are raised again in the caller; a signal, a time limit and a lack
of memory become :class:`~mobilekit.errors.ChildError`. The child dies with its parent.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mobilekit import errors
from mobilekit.errors import ChildCrashError, ChildError, ChildTimeoutError, MobilekitError

__all__ = ["call", "physical_memory_bytes"]

_ARRAY = "\0npy"
_PR_SET_PDEATHSIG = 1


def physical_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def call(
    function: str,
    request: Mapping[str, Any],
    *,
    what: str,
    timeout_s: float = 600.0,
    memory_bytes: int | None = None,
) -> Any:
    """Call ``"package.module:function"`` with ``request`` as keyword arguments, in a process of its own.

    ``what`` names the work in messages ("running the model on the ncnn wheel"). ``memory_bytes`` bounds the child's
    private memory (default: nine tenths of this machine's). Raises what the function raised if that is one of
    :mod:`mobilekit.errors`, :class:`ChildCrashError` on a signal, :class:`ChildTimeoutError` past ``timeout_s``.
    """
    limit = memory_bytes or physical_memory_bytes() * 9 // 10
    with tempfile.TemporaryDirectory(prefix="mobilekit-child-") as name:
        folder = Path(name)
        _write(folder / "request", {"function": function, "arguments": dict(request), "memory_bytes": limit})
        with (folder / "stderr").open("w+b") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "mobilekit.child", str(folder), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
            try:
                returncode = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                raise ChildTimeoutError(
                    what, limit_s=timeout_s, hint="raise the limit with --timeout, or use a smaller input"
                ) from None
            finally:
                if process.poll() is None:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - 2000))
            said = stderr.read().decode("utf-8", "replace").strip()
        if returncode < 0:
            raise ChildCrashError(what, signal=-returncode, hint=_last_lines(said))
        answer = _read(folder / "answer") if (folder / "answer.json").exists() else None
        if not isinstance(answer, dict) or returncode != 0:
            raise ChildError(f"{what} ended with exit code {returncode} and no answer", hint=_last_lines(said))
        if "error" in answer:
            raise _revive(answer["error"], what)
        return answer["value"]


def _last_lines(text: str, count: int = 3) -> str:
    return "\n".join(text.splitlines()[-count:])


def _revive(error: Mapping[str, Any], what: str) -> MobilekitError:
    kind = getattr(errors, str(error["type"]), None)
    if kind is errors.UnsupportedModelError:
        findings = [errors.Finding(**finding) for finding in error["findings"]]
        return errors.UnsupportedModelError(error["message"], findings=findings, hint=error["hint"])
    if isinstance(kind, type) and issubclass(kind, MobilekitError):
        revived = kind.__new__(kind)
        MobilekitError.__init__(revived, error["message"], hint=error["hint"])
        return revived
    return ChildError(f"{what} failed: {error['type']}: {error['message']}", hint=error["hint"])


def _write(stem: Path, value: Any) -> None:
    import numpy as np

    arrays: list[Any] = []

    def pack(item: Any) -> Any:
        if isinstance(item, np.ndarray):
            arrays.append(item)
            return {_ARRAY: len(arrays) - 1}
        if isinstance(item, np.generic):
            return item.item()
        if isinstance(item, Mapping):
            return {str(key): pack(inner) for key, inner in item.items()}
        if isinstance(item, list | tuple):
            return [pack(inner) for inner in item]
        if isinstance(item, Path):
            return str(item)
        return item

    text = json.dumps(pack(value))
    for index, array in enumerate(arrays):
        np.save(f"{stem}.{index}.npy", array, allow_pickle=False)
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


def _main(folder: Path, parent: int) -> int:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            return 1
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = _read(folder / "request")
    resource.setrlimit(resource.RLIMIT_DATA, (request["memory_bytes"], request["memory_bytes"]))
    module, _, name = request["function"].partition(":")
    try:
        value = getattr(importlib.import_module(module), name)(**request["arguments"])
    except MobilekitError as error:
        answer: dict[str, Any] = {"error": {"type": type(error).__name__, "message": error.message, "hint": error.hint}}
        if isinstance(error, errors.UnsupportedModelError):
            answer["error"]["findings"] = [
                {"node": f.node, "op": f.op, "reason": f.reason, "remedy": f.remedy} for f in error.findings
            ]
    except MemoryError:
        hint = "close other programs, or use a machine with more memory"
        answer = {"error": {"type": "ChildError", "message": "not enough memory", "hint": hint}}
    except Exception as error:
        answer = {"error": {"type": type(error).__name__, "message": str(error), "hint": ""}}
    else:
        answer = {"value": value}
    _write(folder / "answer", answer)
    return 0


if __name__ == "__main__":
    code = _main(Path(sys.argv[1]), int(sys.argv[2]))
    # Native libraries' exit handlers have crashed after a good answer; the answer is already on disk.
    os._exit(code)
