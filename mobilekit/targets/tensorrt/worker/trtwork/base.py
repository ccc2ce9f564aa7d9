"""What every part uses: the protocol's version, errors, progress, files that are whole."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

PROTOCOL = 1


class WorkError(Exception):
    """Why a job was not done. ``kind``: no-gpu, no-tensorrt, driver, memory, cuda, plan-version, plan-device,
    plan-corrupt, shape, input, build, storage, protocol or internal."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind, self.message, self.hint = kind, message, hint


def say(step: str) -> None:
    sys.stderr.write(json.dumps({"step": step}) + "\n")
    sys.stderr.flush()


def write_whole(path: Path, data: Any) -> None:
    """All of it or nothing, whoever writes at the same time."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        if temporary.exists():
            temporary.unlink()
