"""arm64 instructions of one inference, counted by qemu-user: exact and repeatable where latencies would be noise."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Counter"]

_SOURCE = Path(__file__).with_name("count_instructions.c")


def _shorten(param: Path, to: Path) -> dict[str, str]:
    """Copy ``param`` with numbers for names, and say which is which.

    Names longer than 15 bytes lie in the heap, and with them malloc takes other paths in every layer: up to 0.01% of
    the instructions of the very same network.
    """
    lines = param.read_text().splitlines()
    names: dict[str, str] = {}
    for index, line in enumerate(lines[2:]):
        words = line.split()
        if words:
            end = 4 + int(words[2]) + int(words[3])
            words[4:end] = [names.setdefault(word, str(len(names))) for word in words[4:end]]
            lines[index + 2] = " ".join([words[0], str(index), *words[2:]])
    to.write_text("\n".join(lines) + "\n")
    return names


class Counter:
    """Runs the arm64 harness on one thread under ``qemu-aarch64`` with a plugin that counts; see ``missing``."""

    def __init__(self) -> None:
        from mobilekit.device.harness.locate import find_harness
        from mobilekit.paths import cache_dir
        from mobilekit.progress import SILENT

        self.missing = next((tool for tool in ("qemu-aarch64", "cc") if shutil.which(tool) is None), "")
        if self.missing:
            return
        self._harness = find_harness("arm64-v8a", SILENT, build=True)
        self._plugin = cache_dir("benchmarks") / "count_instructions.so"
        command = ["cc", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-o", self._plugin, _SOURCE]
        subprocess.run(command, check=True)

    def count(self, param: Path, weights: Path, inputs: Mapping[str, Any], outputs: Sequence[str]) -> int | None:
        """Instructions of the second inference; ``None`` where the model does not run. Inputs are in ncnn's dims."""
        import numpy as np

        with tempfile.TemporaryDirectory() as folder:
            short = Path(folder) / "model.param"
            names = _shorten(param, short)
            command = [
                "qemu-aarch64",
                "-plugin",
                self._plugin,
                self._harness,
                "run",
                "--param",
                short,
                "--bin",
                weights,
            ]
            command += ["--out", f"{folder}/out", "--threads", "1", "--warmup", "1", "--iterations", "1"]
            for index, (blob, array) in enumerate(inputs.items()):
                np.save(f"{folder}/{index}.npy", array)
                command += ["--input", f"{names[blob]}={folder}/{index}.npy"]
            for blob in outputs:
                command += ["--output", names[blob]]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        counts = [int(number) for number in re.findall(r"^count (\d+)$", done.stderr, re.MULTILINE)]
        # The clock's last two readings are around the one timed inference.
        return counts[-1] - counts[-2] if done.returncode == 0 and len(counts) > 1 else None
