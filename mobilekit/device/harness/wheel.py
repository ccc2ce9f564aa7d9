"""One wheel with built harnesses, their licences and the virtual device's root: installed instead of building.

The wheel is plain data (``mobilekit_harness/ABI/mobilekit-harness``), so one ``py3-none-any`` file serves every host.
The same binaries give the same bytes: entries are sorted and carry no times.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

from mobilekit.device.harness.build import PROGRAM, BuiltHarness, build_harness
from mobilekit.device.harness.locate import WHEEL_PACKAGE
from mobilekit.device.harness.source import NCNN_VERSION, ncnn_source
from mobilekit.errors import SetupError
from mobilekit.paths import atomic_file
from mobilekit.progress import SILENT, Progress

__all__ = ["make_wheel"]

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip entry can carry
_WHEEL = b"Wheel-Version: 1.0\nGenerator: mobilekit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_NOTICE = f"""\
mobilekit-harness (Apache-2.0) is one static program for each ABI. Linked into it:

ncnn {NCNN_VERSION}, BSD 3-Clause and others: see ncnn-LICENSE.txt. Source: the sdist of ncnn {NCNN_VERSION} on PyPI.

The C and C++ runtime of its compiler, named in wheel.json:
  gcc: libstdc++ and libgomp (GPL-3.0 with the GCC Runtime Library Exception), glibc (LGPL-2.1-or-later)
  zig: libc++ (Apache-2.0 with LLVM exceptions), musl (MIT)
  NDK: libc++ and libomp (Apache-2.0 with LLVM exceptions)

To link it again with another glibc: `mobilekit harness build` makes it from source.

root-*.tar, where present, is the virtual device's root; the licences of its programs are in it under
system/etc/licences.
"""


def make_wheel(folder: Path, abis: Sequence[str], *, toolchain: str = "auto", progress: Progress = SILENT) -> Path:
    """Build (or take from the cache) a harness for each of ``abis`` and pack them into ``folder``; the wheel's path.

    A root that cannot be had here is left out, with a note. Raises what
    :func:`~mobilekit.device.harness.build.build_harness` raises, and :class:`~mobilekit.errors.StorageError`.
    """
    harnesses = {
        abi: build_harness(abi, toolchain=toolchain, static_only=toolchain == "auto", progress=progress)
        for abi in dict.fromkeys(abis)
    }
    version = importlib.metadata.version("mobilekit")
    licence = ncnn_source(progress) / "LICENSE.txt"
    members: dict[str, tuple[bytes, int]] = {
        f"{WHEEL_PACKAGE}/__init__.py": (b'"""Data of mobilekit: harnesses for devices."""\n', 0o644),
        f"{WHEEL_PACKAGE}/wheel.json": (_facts(harnesses), 0o644),
    }
    for abi, harness in harnesses.items():
        members[f"{WHEEL_PACKAGE}/{abi}/{PROGRAM}"] = (harness.path.read_bytes(), 0o755)
        root = _root(abi, progress)
        if root is not None:
            members[f"{WHEEL_PACKAGE}/root-{abi}.tar"] = (root.read_bytes(), 0o644)
    info = f"{WHEEL_PACKAGE}-{version}.dist-info"
    members[f"{info}/licenses/ncnn-LICENSE.txt"] = (licence.read_bytes(), 0o644)
    members[f"{info}/licenses/NOTICE.txt"] = (_NOTICE.encode(), 0o644)
    members[f"{info}/METADATA"] = (_metadata(version), 0o644)
    members[f"{info}/WHEEL"] = (_WHEEL, 0o644)
    path = folder / f"{WHEEL_PACKAGE}-{version}-py3-none-any.whl"
    progress.step(f"packing {path.name}")
    with atomic_file(path) as temporary:
        _write(temporary, members, f"{info}/RECORD")
    return path


def _facts(harnesses: dict[str, BuiltHarness]) -> bytes:
    rows = {
        abi: {
            "toolchain": harness.toolchain,
            "static": harness.static,
            "vulkan": harness.vulkan,
            "sha256": hashlib.sha256(harness.path.read_bytes()).hexdigest(),
        }
        for abi, harness in sorted(harnesses.items())
    }
    return (json.dumps({"schema_version": 1, "ncnn": NCNN_VERSION, "harnesses": rows}, indent=2) + "\n").encode()


def _root(abi: str, progress: Progress) -> Path | None:
    from mobilekit.device.virtual.rootfs import ensure_root

    try:
        return ensure_root(abi, progress)
    except SetupError as error:
        progress.note(f"the wheel has no virtual device's root for {abi}: {error.message}")
        return None


def _metadata(version: str) -> bytes:
    lines = (
        "Metadata-Version: 2.4",
        "Name: mobilekit-harness",
        f"Version: {version}",
        "Summary: Built harnesses that run ncnn models on devices, for mobilekit",
        "License-Expression: Apache-2.0 AND BSD-3-Clause",
        "License-File: ncnn-LICENSE.txt",
        "License-File: NOTICE.txt",
        "Requires-Python: >=3.11",
    )
    return ("\n".join(lines) + "\n").encode()


def _write(path: Path, members: dict[str, tuple[bytes, int]], record: str) -> None:
    rows = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:

        def add(name: str, data: bytes, mode: int) -> None:
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = (0o100000 | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)

        for name, (data, mode) in sorted(members.items()):
            add(name, data, mode)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(data)}")
        rows.append(f"{record},,")
        add(record, ("\n".join(rows) + "\n").encode(), 0o644)
