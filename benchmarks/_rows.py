"""Rows of a long benchmark, kept as they come, so that what was stopped goes on where it was.

A row holds as long as nothing has changed that could change it: the library's rooms that convert and judge, the zoo,
the harness's sources, and the versions of what computes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["Rows", "code_digest"]

_ROOT = Path(__file__).resolve().parents[1]
_SOURCES = ("mobilekit", "model_zoo", "android-harness/src", "android-harness/layers", "tests/planted")
_NO_SAY = ("mobilekit/cli", "mobilekit/report", "mobilekit/history", "mobilekit/device")
"""What prints, keeps and carries: no verdict depends on it."""
_COMPUTE = ("ncnn", "numpy", "onnx", "onnxruntime")


def code_digest(extra: Iterable[Path] = ()) -> str:
    """Of all that a row depends on; ``extra`` files beside the library's own."""
    digest = hashlib.sha256(repr([(name, version(name)) for name in _COMPUTE]).encode())
    files = [path for folder in _SOURCES for path in (_ROOT / folder).rglob("*") if path.is_file()]
    for path in sorted([*files, *(each.resolve() for each in extra)]):
        name = path.relative_to(_ROOT).as_posix()
        if path.suffix != ".pyc" and not name.startswith(_NO_SAY):
            digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


class Rows:
    """A file of JSON lines, appended to; of each key the last row counts, if it is of this code."""

    def __init__(self, path: Path, code: str) -> None:
        self._path, self._code = path, code
        self._known: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text("utf-8").splitlines():
                row = json.loads(line)
                if row["code"] == code:
                    self._known[row["key"]] = row["row"]

    def get(self, key: str) -> dict[str, Any] | None:
        return self._known.get(key)

    def add(self, key: str, row: dict[str, Any]) -> dict[str, Any]:
        self._known[key] = row
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"code": self._code, "key": key, "row": row}) + "\n")
        return row
