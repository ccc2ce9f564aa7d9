"""What one inference costs in arm64 instructions, counted by qemu: exact and the same each time, where an emulator's
latencies are noise."""

from __future__ import annotations

import os
import re
import resource
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit import interrupts
from mobilekit.child import physical_memory_bytes
from mobilekit.device.harness.protocol import LoadOptions
from mobilekit.device.virtual.plugin import Plugin, build_plugin
from mobilekit.errors import HarnessCrashError, HarnessError, HarnessTimeoutError
from mobilekit.paths import Scratch

if TYPE_CHECKING:
    from mobilekit.tensors import Array

__all__ = ["CLASSES", "Counted", "count_instructions"]

CLASSES = ("other", "neon", "fp16", "fp16-convert", "dotprod", "fhm", "bf16", "i8mm", "sve")
"""Those of ``android-harness/qemu/isa.h``, in its order."""

_ATTEMPTS = 3

_COUNT = re.compile(r"^mobilekit-count((?: \d+)+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Counted:
    """Of one inference on one thread. ``by_class``: the same instructions by :data:`CLASSES`."""

    total: int
    by_class: Mapping[str, int]


def count_instructions(
    harness: Path,
    param: Path,
    weights: Path,
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    options: LoadOptions | None = None,
    *,
    cpu: str = "",
    timeout_s: float = 600.0,
) -> Counted:
    """Run the arm64 ``harness`` on one thread under qemu and count what its second inference executes.

    Counted is what a latency covers: from the first input set to the last output taken. The first inference is left
    out, since ncnn makes some things once. ``inputs`` by blob name, in ncnn's dims; ``cpu``: qemu's ``-cpu``.
    Names of blobs and layers are replaced by numbers, sizes of inputs left out, and file names are fixed: what is kept
    of them decides what malloc does, up to 0.04% of the instructions of the very same network.

    Raises what :func:`~mobilekit.device.virtual.plugin.build_plugin` does, :class:`HarnessError` where the model does
    not run, :class:`HarnessTimeoutError`, :class:`HarnessCrashError`.
    """
    import numpy as np

    plugin = build_plugin()
    with Scratch("count") as folder:
        names = _renamed(param, folder / "model.param")
        (folder / "model.bin").symlink_to(weights.resolve())
        arguments = ["run", "--param", "model.param", "--bin", "model.bin", "--out", "out", "--threads", "1"]
        arguments += ["--warmup", "1", "--iterations", "1", *_flags(options or LoadOptions())]
        for index, (blob, array) in enumerate(inputs.items()):
            np.save(folder / f"{index}.npy", array)
            arguments += ["--input", f"{names.get(blob, blob)}={index}.npy"]
        for blob in outputs:
            arguments += ["--output", names.get(blob, blob)]
        (folder / "harness").symlink_to(harness.resolve())
        said = _attempts(lambda: _run(plugin, cpu, arguments, folder, timeout_s))
    readings = [[int(number) for number in line.split()] for line in _COUNT.findall(said)]
    if len(readings) < 2:
        raise HarnessError("qemu counted nothing", hint="is qemu-aarch64 built with plugins? " + said[-300:])
    # The clock's last two readings are around the one timed inference.
    total, *classes = (after - before for before, after in zip(*readings[-2:], strict=True))
    return Counted(total, dict(zip(CLASSES, classes, strict=True)))


def _attempts(run: Callable[[], str]) -> str:
    """Two of some hundred runs of one right model were aborted under qemu 7.2 with a plugin, without a word. Counts are
    exact, so that another attempt answers the same."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(HarnessCrashError):
            return run()
    return run()


def _run(plugin: Plugin, cpu: str, arguments: Sequence[str], folder: Path, timeout_s: float) -> str:
    """What the program and the plugin say on stderr."""
    command = [plugin.qemu, *(["-cpu", cpu] if cpu else []), "-plugin", str(plugin.path), "./harness", *arguments]
    environment = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with interrupts.started(command, cwd=folder, env=environment, text=True, errors="replace", **streams) as process:
        try:
            most = physical_memory_bytes() * 9 // 10
            with suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (most, most))
            said: str = process.communicate(timeout=timeout_s)[1]
        except subprocess.TimeoutExpired:
            raise HarnessTimeoutError(
                f"counting instructions took longer than {timeout_s:g} s and was ended",
                hint="raise the limit with --timeout, or use a smaller model",
            ) from None
    if process.returncode == 0:
        return said
    words = "\n".join(line for line in said.splitlines() if not line.startswith("mobilekit-count "))[-1000:]
    if process.returncode < 0:
        raise HarnessCrashError(
            "the harness, while its instructions were counted,", signal=-process.returncode, hint=words
        )
    raise HarnessError("the harness did not run where its instructions are counted", hint=words)


def _flags(options: LoadOptions) -> list[str]:
    """``mobilekit-harness run``'s own words for the options."""
    flags = ["--fp16"] if options.fp16_arithmetic else ["--fp16-storage"] if options.fp16_storage else []
    words = {
        "--bf16": options.bf16_storage,
        "--no-int8": not options.int8_inference,
        "--no-winograd": not options.winograd,
        "--no-sgemm": not options.sgemm,
        "--no-packing": not options.packing,
        "--any-input-shape": options.any_input_shape,
    }
    return flags + [word for word, on in words.items() if on]


def _renamed(param: Path, to: Path) -> dict[str, str]:
    """Copy ``param`` with numbers for names and without the sizes of inputs, which nothing on a CPU goes by; say which
    blob is which. One not written line by line is copied as it is."""
    text = param.read_text("utf-8")
    lines = text.split("\n")
    names: dict[str, str] = {}
    try:
        for index, line in enumerate(lines[2:]):
            words = line.split()
            if words:
                end = 4 + int(words[2]) + int(words[3])
                words[4:end] = [names.setdefault(word, str(len(names))) for word in words[4:end]]
                kept = words[2 : end if words[0] == "Input" else None]
                lines[index + 2] = " ".join([words[0], str(index), *kept])
    except (ValueError, IndexError):
        to.write_text(text, "utf-8")
        return {}
    to.write_text("\n".join(lines), "utf-8")
    return names
