"""Where a harness for an ABI is: an override, an installed ``mobilekit-harness`` wheel, the cache, else a build."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mobilekit.device.harness.build import PROGRAM, BuiltHarness, build_harness, built_harnesses
from mobilekit.device.harness.toolchains import ABIS, host_abi
from mobilekit.errors import SetupError, UsageError
from mobilekit.progress import SILENT, Progress

__all__ = ["WHEEL_PACKAGE", "find_harness", "locate_harness", "locate_vulkan", "own_layers", "present_harnesses"]

WHEEL_PACKAGE = "mobilekit_harness"
_OVERRIDE = "MOBILEKIT_HARNESS_DIR"
_OWN_LAYERS = re.compile(rb"mobilekit-layers:((?: Mk\w+)+)\0")  # android-harness/layers/src/mobilekit_layers.cpp


def locate_harness(abi: str, *, static_only: bool = False, vulkan: bool = False) -> Path | None:
    """A harness for ``abi`` that is on this machine already, or ``None``; builds and fetches nothing.

    ``static_only`` leaves out NDK builds, which need Android's own linker (the virtual device has none). ``vulkan``:
    one for this machine's Vulkan driver.
    """
    if abi not in ABIS:
        raise UsageError(f"unknown ABI {abi!r}", hint=f"one of {', '.join(ABIS)}")
    present = built_harnesses(abi, vulkan=True) if vulkan else _present(abi)
    return next((found.path for found in present if found.static or not static_only), None)


def find_harness(
    abi: str, progress: Progress = SILENT, build: bool = True, *, static_only: bool = False, vulkan: bool = False
) -> Path:
    """Like :func:`locate_harness`; where there is none it is built, or with ``build=False`` :class:`SetupError`."""
    found = locate_harness(abi, static_only=static_only, vulkan=vulkan)
    if found is not None:
        return found
    if not build:
        flavour = " --vulkan" if vulkan else ""
        raise SetupError(f"there is no harness for {abi} yet", hint=f"mobilekit harness build --abi {abi}{flavour}")
    return build_harness(abi, static_only=static_only, vulkan=vulkan, progress=progress).path


def locate_vulkan() -> Path | None:
    """A harness on this machine that computes on its GPU."""
    abi = host_abi()
    return None if abi is None else locate_harness(abi, vulkan=True)


def present_harnesses(abi: str) -> tuple[BuiltHarness, ...]:
    """All harnesses for ``abi`` on this machine, in the order in which they are taken."""
    return (*_present(abi), *built_harnesses(abi, vulkan=True))


def own_layers(program: Path) -> tuple[str, ...]:
    """mobilekit's own layer types that a harness has, read out of the file: it may be for another machine."""
    found = _OWN_LAYERS.search(program.read_bytes())
    return () if found is None else tuple(found[1].decode().split())


def _present(abi: str) -> Iterator[BuiltHarness]:
    if override := os.environ.get(_OVERRIDE):
        path = Path(override) / abi / PROGRAM
        if not path.is_file():
            raise SetupError(f"{_OVERRIDE} is {override}, which has no {abi}/{PROGRAM}", hint=f"unset {_OVERRIDE}")
        yield BuiltHarness(abi, path, "given", static=True, vulkan=False)
    spec = importlib.util.find_spec(WHEEL_PACKAGE)
    if spec is not None and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0])
        path = folder / abi / PROGRAM
        if path.is_file():
            try:
                facts = json.loads((folder / "wheel.json").read_text())["harnesses"][abi]
                described = BuiltHarness(abi, path, facts["toolchain"], facts["static"], facts["vulkan"])
            except (OSError, ValueError, KeyError, TypeError):
                described = BuiltHarness(abi, path, "unknown", static=True, vulkan=False)
            yield described
    yield from built_harnesses(abi)
