"""The child's side of :mod:`mobilekit.child`: ``python child_server.py FOLDER PARENT MEMORY_BYTES [MODULE ...]``.

A file that is run by its path and imports little, since each child pays for it: the package is found beside it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilekit.errors import MobilekitError

__all__ = ["read_message", "write_message"]

_ARRAY = "\0npy"
_PR_SET_PDEATHSIG = 1
_SIGKILL = 9


def write_message(stem: Path, value: Any) -> None:
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


def read_message(stem: Path) -> Any:
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
        except MemoryError:
            hint = "close other programs, or use a machine with more memory"
            return {"error": {"type": "ChildError", "message": "there was not enough memory", "hint": hint}}
        except Exception as error:
            from mobilekit.errors import MobilekitError

            if isinstance(error, MobilekitError):
                return {"error": self._ours(error)}
            return {"error": {"type": type(error).__name__, "message": str(error), "hint": ""}}

    @staticmethod
    def _ours(error: MobilekitError) -> dict[str, Any]:
        from mobilekit.errors import UnsupportedModelError

        told: dict[str, Any] = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
        if isinstance(error, UnsupportedModelError):
            told["findings"] = [
                {"node": f.node, "op": f.op, "reason": f.reason, "remedy": f.remedy} for f in error.findings
            ]
        return told

    def _do(self, request: Mapping[str, Any]) -> Any:
        arguments = request["arguments"]
        if "function" in request:
            return _resolve(request["function"])(**arguments)
        if "create" in request:
            self._object = _resolve(request["create"])(**arguments)
            return None
        return getattr(self._object, request["method"])(**arguments)


def _main(folder: Path, parent: int, memory_bytes: int, preload: Sequence[str]) -> None:
    import resource

    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    granted = resource.getrlimit(resource.RLIMIT_DATA)[1]  # the user's own limit may be lower
    most = memory_bytes if granted == resource.RLIM_INFINITY else min(memory_bytes, granted)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    # Native libraries print to stdout; the pipe there is for answers only.
    answers = os.dup(1)
    os.dup2(2, 1)
    for module in preload:
        # What is wrong with it is told by the request that needs it.
        with suppress(Exception):
            importlib.import_module(module)
    server = _Server()
    for line in sys.stdin:
        number = int(line)
        answer = server.answer(read_message(folder / f"request{number}"))
        try:
            write_message(folder / f"answer{number}", answer)
        except OSError as error:
            text = f"cannot write the answer: {error.strerror}"
            write_message(folder / f"answer{number}", {"error": {"type": "StorageError", "message": text, "hint": ""}})
        os.write(answers, b".")


if __name__ == "__main__":
    if (root := str(Path(__file__).parent.parent)) not in sys.path:
        sys.path.insert(0, root)
    _main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    # Native libraries' exit handlers have crashed after good answers.
    os._exit(0)
