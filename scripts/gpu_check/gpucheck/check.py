"""The rows that are known and those that are to be done, on this machine."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gpucheck.rows import PRECISIONS, STREAMS, Row, read_row
from gpucheck.work import ObstacleError, build, run_plan


def choose(flavour: str | None) -> tuple[Any, str | None, str]:
    """What this machine is, the flavour to build with, and why nothing can be run here (empty where it can)."""
    from mobilekit.errors import NoDeviceError
    from mobilekit.targets.tensorrt.flavour import FLAVOURS
    from mobilekit.targets.tensorrt.gpus import local_gpus
    from mobilekit.targets.tensorrt.host import LocalHost

    hello = LocalHost().hello()
    try:
        gpu = local_gpus()[0]
    except NoDeviceError as error:
        return hello, flavour or ("rtx" if "rtx" in hello.flavours else None), f"{error.message}; {error.hint}"
    if flavour is not None:
        return hello, flavour, ""
    served = gpu.compute_capability in FLAVOURS["rtx"].architectures
    return hello, "full" if "full" in hello.flavours and not (served and "rtx" in hello.flavours) else "rtx", ""


def unserved(hello: Any, flavour: str | None) -> str:
    """That TensorRT for RTX is not said to serve this machine's GPU; empty where it is, or is not what builds."""
    from mobilekit.targets.tensorrt.flavour import FLAVOURS

    gpu = hello.gpus[0] if hello.gpus else None
    if flavour != "rtx" or gpu is None or gpu.compute_capability in FLAVOURS["rtx"].architectures:
        return ""
    broken = f": {hello.broken['full']}" if "full" in hello.broken else ""
    return (
        f"TensorRT for RTX is not said to serve {gpu.name} (compute capability {gpu.compute_capability}), and full "
        f"TensorRT is not installed{broken}; lay its wheels into wheels/"
    )


class Check:
    """The rows that are known, what is to be done for those that are not, and the file that holds them: written after
    every row, so that whatever ends the process, ``--resume`` goes on there."""

    def __init__(
        self,
        output: Path,
        models: Sequence[str],
        precisions: Sequence[str],
        *,
        flavour: str | None = None,
        level: int | None = None,
        budget_s: float | None = None,
        resume: bool = False,
        rehearse: bool = False,
    ) -> None:
        # The script has installed the packages before: that counts, too.
        began = float(os.environ.get("GPU_CHECK_BEGAN", "inf"))
        self.started = time.monotonic() - max(0.0, time.time() - began)
        self.hello, self.flavour, self.obstacle = choose(flavour)
        self.remark = unserved(self.hello, self.flavour)
        self.device = "prepared" if rehearse else "gpu"
        if rehearse:
            self.obstacle = ""
        self.level = level
        self.budget_s = budget_s
        self.executed = not (self.obstacle or rehearse)
        self.file = output / "gpu_check.json"
        self.bundles = output / "bundles"
        self.bundles.mkdir(parents=True, exist_ok=True)
        # By precision: what a lease ends before is int8 of some models, and not every format of the last ones.
        self.wanted = [(model, precision) for precision in precisions for model in models]
        self.rows: dict[tuple[str, str], Row] = {}
        self.facts = self._facts()
        if resume:
            self.rows = self._earlier()
        elif self.file.exists():
            self.file.unlink()

    def _facts(self) -> dict[str, Any]:
        """What rows of one table have in common."""
        return {
            "gpu": [asdict(gpu) for gpu in self.hello.gpus[:1]],
            "driver": self.hello.driver,
            "cuda": self.hello.cuda,
            "machine": f"{self.hello.system} {self.hello.machine}",
            "versions": dict(_versions(self.hello)),
            "flavour": self.flavour,
            "opt_level": self.level,
            "streams": list(STREAMS),
        }

    def _earlier(self) -> dict[tuple[str, str], Row]:
        from mobilekit.errors import UsageError

        if not self.file.is_file():
            return {}
        told = json.loads(self.file.read_text())
        if other := [name for name, value in self.facts.items() if told.get(name) != value]:
            raise UsageError(
                f"{self.file} was begun with another {other[0]}: {told.get(other[0])}, not {self.facts[other[0]]}",
                hint="begin anew without --resume, or name another folder with -o",
            )
        rows = [read_row(row) for row in told["rows"]]
        return {(row.model, row.precision): row for row in rows}

    def pending(self) -> list[tuple[str, str]]:
        """What is missing, then what failed before."""

        def missing(key: tuple[str, str]) -> bool:
            row = self.rows.get(key)
            return row is None or (row.state == "built" and not self.obstacle)

        failed = [key for key in self.wanted if key in self.rows and self.rows[key].state == "failed"]
        return [key for key in self.wanted if missing(key)] + failed

    def in_time(self) -> bool:
        """Whether the next row, if it takes as long as the longest so far, ends within the budget."""
        longest = max((row.took_s for row in self.rows.values()), default=0.0)
        return self.budget_s is None or time.monotonic() - self.started + longest <= self.budget_s

    def do(self, model: str, precision: str) -> None:
        began = time.monotonic()
        row = self.rows.get((model, precision))
        bundle = self.bundles / f"{model}-{precision}"
        if row is None or row.state != "built" or not bundle.is_dir():
            row = self._build(model, precision, bundle)
        if row.state == "built" and not self.obstacle:
            try:
                row = run_plan(row, bundle, self.device)
            except ObstacleError as obstacle:
                row = replace(row, state="failed", reason=str(obstacle))
                if not any(each.state in ("pass", "fail", "inconclusive") for each in self.rows.values()):
                    # Nor would the others.
                    self.obstacle, self.executed = "; ".join(filter(None, (str(obstacle), self.remark))), False
        self.rows[model, precision] = replace(row, took_s=round(time.monotonic() - began, 3))
        print(f"{model} {precision}: {row.state} {row.reason}".rstrip(), file=sys.stderr, flush=True)
        self.write()

    def _build(self, model: str, precision: str, bundle: Path) -> Row:
        exact = self.bundles / f"{model}-fp32"
        if precision == "int8" and not exact.is_dir():  # calibration looks there for the inputs
            built = build(model, "fp32", exact, self.flavour, self.level)
            if built.state != "built":
                return replace(built, precision=precision)
        return build(model, precision, bundle, self.flavour, self.level)

    def ordered(self) -> list[Row]:
        """Those of one model beside each other."""
        models = list(dict.fromkeys(model for model, _ in self.wanted))
        keys = [(model, precision) for model in models for precision in PRECISIONS]
        return [self.rows[key] for key in keys if key in self.rows and key in self.wanted]

    def write(self) -> None:
        """``executed``: whether the plans ran; where not, times are absent and nothing is said of the GPU."""
        missing = [" ".join(key) for key in self.wanted if key not in self.rows]
        told = {
            "what": "scripts/gpu_check.sh",
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "executed": self.executed,
            **self.facts,
            "missing": missing,
            "rows": [asdict(row) for row in self.rows.values()],
        }
        part = self.file.with_name(f"{self.file.name}.part")
        part.write_text(json.dumps(told, indent=1) + "\n")
        part.replace(self.file)


def _versions(hello: Any) -> Mapping[str, str]:
    import numpy
    import onnxruntime

    from mobilekit import __version__

    return {
        "mobilekit": __version__,
        **{f"TensorRT {name}": version for name, version in hello.flavours.items()},
        "ONNX Runtime": onnxruntime.__version__,
        "numpy": numpy.__version__,
        "Python": platform.python_version(),
    }
