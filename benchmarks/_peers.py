"""What the comparisons with pnnx share: the public models, where the peers' programs are, how each one is called."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _timing import Cost, run_process

__all__ = [
    "MODELS",
    "Job",
    "Peer",
    "clean_env",
    "command",
    "counting_harness",
    "instructions",
    "machine",
    "prepare_peers",
]

PNNX = "20261020"
MODELS = (
    "pp_lcnet_orientation",
    "pp_ocr_cls",
    "pp_ocrv6_det",
    "picodet_layout",
    "yolov8n_nudenet",
    "yolox_ddddocr",
    "mtcnn_pnet",
    "mtcnn_rnet",
    "mtcnn_onet",
    "mobilenet_v2",
    "efficientnet_lite0",
)


@dataclass(frozen=True, slots=True)
class Peer:
    """Where the peers' programs are."""

    onnxsim: Path
    pnnx: Path


def prepare_peers() -> Peer:
    """Fetch pnnx's wheel and make onnxsim's environment, once, under the user's cache folder."""
    from mobilekit.paths import cache_dir

    base = cache_dir("benchmarks")
    binary = base / f"pnnx-{PNNX}" / "pnnx" / "pnnx"
    if not binary.is_file():
        with tempfile.TemporaryDirectory() as folder:
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, f"pnnx=={PNNX}"]
            subprocess.run(pip, check=True)
            wheel = next(Path(folder).glob("*.whl"))
            with zipfile.ZipFile(wheel) as archive:
                archive.extract("pnnx/pnnx", base / f"pnnx-{PNNX}")
        binary.chmod(0o755)
    venv = base / "onnxsim"
    if not (venv / "bin" / "onnxsim").is_file():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin" / "pip", "install", "-q", "onnxsim", "onnxruntime"], check=True)
    return Peer(venv / "bin" / "onnxsim", binary)


def counting_harness() -> Path:
    """The arm64 harness whose instructions are counted; says what is missing where they cannot be."""
    from mobilekit.device.harness.locate import find_harness
    from mobilekit.device.virtual.plugin import build_plugin

    build_plugin()
    return find_harness("arm64-v8a")


def instructions(
    harness: Path, param: Path, weights: Path, inputs: Mapping[str, Any], outputs: Sequence[str]
) -> int | None:
    """Of one inference on one thread; ``None`` where the model does not run. Inputs are in ncnn's dims."""
    from mobilekit.device.virtual.instructions import count_instructions
    from mobilekit.errors import DeviceError

    try:
        return count_instructions(harness, param, weights, inputs, outputs).total
    except DeviceError:
        return None


def machine() -> dict[str, Any]:
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    cpu = model.group(1) if model else platform.processor() or platform.machine()
    python = platform.python_version()
    return {"cpu": cpu, "cores": os.cpu_count(), "python": python, "pnnx": PNNX, "command": command()}


def command() -> str:
    """How this program was called, but for where its results go."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    at = words.index("--json") if "--json" in words else len(words)
    return " ".join(["python", *words[:at], *words[at + 2 :]])


def clean_env() -> dict[str, str]:
    """As a user has it: the installed package is what runs, and Python keeps what it has compiled."""
    dropped = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    return kept | {"ORT_DISABLE_TELEMETRY": "1"}  # no benchmark talks to anybody, onnxsim's ONNX Runtime neither


_DESCRIBE = """
import json, sys
from mobilekit import zoo
from mobilekit.importers.onnx import load
resolved = zoo.resolve(sys.argv[1])
defaults = resolved.entry.inputs if resolved.entry else {}
specs = load(resolved.path).inputs
print(json.dumps([str(resolved.path), {s.name: defaults.get(s.name) or s.static_shape() for s in specs}]))
"""
"""The file and the input shapes of a model, said by a process of its own: see run_process."""


class Job:
    """One model in ``folder``, and both chains on it: ``ours`` writes ``folder/ours``, theirs ``folder/sim.ncnn.*``."""

    def __init__(self, model: str, peer: Peer, folder: Path) -> None:
        described = subprocess.run(
            [sys.executable, "-c", _DESCRIBE, model], check=True, capture_output=True, text=True, env=clean_env()
        )
        path, shapes = json.loads(described.stdout)
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._folder = folder
        original = folder / "model.onnx"
        shutil.copyfile(path, original)
        self._ours: list[str | Path] = [Path(sys.executable).parent / "mobilekit", "export", original]
        self._ours += ["-o", folder / "ours"]
        self._sim: list[str | Path] = [peer.onnxsim, original, folder / "sim.onnx"]
        for key, shape in self.shapes.items():
            self._ours += ["--input-shape", f"{key}:{'x'.join(map(str, shape))}"]
            self._sim += ["--overwrite-input-shape", f"{key}:{','.join(map(str, shape))}"]
        shapes = ",".join(f"[{','.join(map(str, shape))}]f32" for shape in self.shapes.values())
        # fp16=0: both store float weights.
        self._pnnx: list[str | Path] = [peer.pnnx, folder / "sim.onnx", f"inputshape={shapes}", "fp16=0"]

    def ours(self, *options: str) -> Cost:
        return run_process([*self._ours, *options], cwd=self._folder, env=clean_env())

    def onnxsim(self) -> Cost:
        return run_process(self._sim, cwd=self._folder, env=clean_env())

    def pnnx(self) -> Cost:
        """After :meth:`onnxsim`. Its exit code says nothing about whether it could convert."""
        return run_process(self._pnnx, cwd=self._folder, env=clean_env())
