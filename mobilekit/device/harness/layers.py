"""The sources of mobilekit's own ncnn layers, for the user's app."""

from __future__ import annotations

import shutil
from pathlib import Path

from mobilekit.errors import UsageError
from mobilekit.paths import atomic_dir, data_dir

__all__ = ["copy_layers"]

_HEADER = "mobilekit_layers.h"


def copy_layers(folder: Path) -> tuple[Path, ...]:
    """Copy header, sources, CMakeLists.txt, README and sample to ``folder``; the paths, relative to it, sorted.

    A folder from an earlier copy is replaced. Raises :class:`UsageError` where ``folder`` is something else.
    """
    if folder.exists() and not (folder / _HEADER).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder} holds other things than mobilekit's layers", hint="name another folder with -o")
    with atomic_dir(folder) as temporary:
        shutil.copytree(data_dir("android-harness") / "layers", temporary, dirs_exist_ok=True)
        return tuple(sorted(path.relative_to(temporary) for path in temporary.rglob("*") if path.is_file()))
