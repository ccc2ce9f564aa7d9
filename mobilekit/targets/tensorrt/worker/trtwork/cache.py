"""Kernels that were compiled or timed, kept from one process to the next."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import write_whole
from .cuda import driver_version

KEPT = 64


class Cache:
    """A file of kernels, kept for each GPU, driver and version of TensorRT in mobilekit's cache folder. One that cannot
    be read or written is one that holds nothing."""

    def __init__(self, trt: Any, gpu: Mapping[str, Any], name: str) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        root = Path(os.environ.get("MOBILEKIT_CACHE") or f"{home}/mobilekit") / "tensorrt"
        place = f"{gpu['name']}-{gpu['compute_capability']}"
        parts = (place, f"driver-{driver_version() or 'unknown'}", trt.__name__, trt.__version__, name)
        self.path = root.joinpath(*(re.sub(r"[^A-Za-z0-9._-]+", "-", part) for part in parts))
        self.old = b""
        with contextlib.suppress(OSError):
            self.old = self.path.read_bytes()
        self.taken = False

    def report(self, made: Any) -> dict[str, Any]:
        """Keep what ``made``, a cache of TensorRT's, holds; whether all that was needed was there."""
        memory = made.serialize()
        new = b"" if memory is None else bytes(memoryview(memory))
        problem = ""
        if new and new != self.old:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self.path, new)
                self._prune()
            except OSError as error:
                problem = str(error)
        hit = self.taken and len(new) == len(self.old)
        sizes = {"before_bytes": len(self.old), "after_bytes": len(new)}
        return dict(sizes, path=str(self.path), hit=hit, problem=problem)

    def _prune(self) -> None:
        """The longest unwritten go."""
        files = sorted(self.path.parent.glob("*" + self.path.suffix), key=lambda file: file.stat().st_mtime)
        for file in files[:-KEPT]:
            file.unlink()
