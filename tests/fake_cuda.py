"""A ``libcuda.so.1`` of GPUs that only copy memory, for tests of what stands before any kernel (``fake_cuda.c``)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["build", "environment"]


def build(folder: Path) -> Path:
    """Compile it into ``folder``, with gcc."""
    source = Path(__file__).with_suffix(".c")
    command = [
        "gcc",
        "-shared",
        "-fPIC",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-o",
        str(folder / "libcuda.so.1"),
        str(source),
    ]
    subprocess.run(command, check=True)
    return folder


def environment(folder: Path, **settings: int | str) -> dict[str, str]:
    """For a child process that shall find it; ``settings`` are INIT, GPUS, BYTES and FAIL, see the C file."""
    return os.environ | {"LD_LIBRARY_PATH": str(folder)} | {f"FAKE_CUDA_{k}": str(v) for k, v in settings.items()}
