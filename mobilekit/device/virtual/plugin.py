"""The qemu plugin that counts instructions (``android-harness/qemu``): which qemu takes plugins, and building it."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mobilekit.device.virtual.machine import is_static
from mobilekit.errors import BuildError, MissingToolError
from mobilekit.paths import atomic_file, cache_dir, data_dir

__all__ = ["Plugin", "build_plugin", "plugin_api"]

_COMPILERS = ("cc", "gcc", "clang")
_SOURCES = ("count.c", "isa.h")


@dataclass(frozen=True, slots=True)
class Plugin:
    """``qemu`` emulates arm64 programs and takes ``path`` as its ``-plugin``."""

    qemu: str
    path: Path


def build_plugin() -> Plugin:
    """Compile the plugin, or take it from the cache. A second or so.

    Raises :class:`MissingToolError` where there is no qemu that takes plugins, or no C compiler, :class:`BuildError`
    where compiling fails.
    """
    qemu = shutil.which("qemu-aarch64")
    # A static qemu cannot load anything: the virtual device's own does not do.
    if qemu is None or is_static(Path(qemu)):
        raise MissingToolError(
            "exact instruction counts need a qemu-aarch64 that loads plugins", hint="sudo apt-get install qemu-user"
        )
    compiler = next((found for name in _COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise MissingToolError("exact instruction counts need a C compiler", hint="sudo apt-get install gcc")
    folder = data_dir("android-harness") / "qemu"
    flags = ["-O2", "-shared", "-fPIC", "-fvisibility=hidden", f"-DQEMU_API={plugin_api(_version(qemu))}"]
    key = hashlib.sha256(repr((compiler, flags)).encode())
    for name in _SOURCES:
        key.update((folder / name).read_bytes())
    path = cache_dir("qemu-plugin") / f"count-{key.hexdigest()[:16]}.so"
    if not path.is_file():
        with atomic_file(path) as temporary:
            command = [compiler, *flags, "-o", str(temporary), str(folder / "count.c")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise BuildError("the instruction counter could not be compiled", hint=done.stderr.strip()[-1000:])
    return Plugin(qemu, path)


def plugin_api(version: str) -> int:
    """The version of the plugin API to compile for, given what ``qemu-aarch64 --version`` prints."""
    found = re.search(r"version (\d+)\.(\d+)", version)
    release = (int(found[1]), int(found[2])) if found else (0, 0)
    return 1 if release < (9, 0) else 2 if release < (9, 1) else 3


def _version(qemu: str) -> str:
    try:
        done = subprocess.run([qemu, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingToolError(f"{qemu} could not run: {error}", hint="sudo apt-get install qemu-user") from error
    return done.stdout
