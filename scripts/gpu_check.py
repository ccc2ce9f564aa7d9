"""Every public model as a TensorRT plan, built, run on this machine's GPU and held against ONNX Runtime.

The half of gpu_check.sh that is written in Python; see there. ``stage`` collects the models, ``run`` checks them,
``peer`` times ONNX Runtime with one of its own providers.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

MODELS = (
    "mobilenet_v2",
    "efficientnet_lite0",
    "pp_lcnet_orientation",
    "pp_ocr_cls",
    "pp_ocrv6_det",
    "pp_ocrv6_rec",
    "picodet_layout",
    "yolov8n_nudenet",
    "yolox_ddddocr",
    "mtcnn_pnet",
    "mtcnn_rnet",
    "mtcnn_onet",
    "silero_vad",
    "magika",
)
"""Those that TensorRT takes: real weights, each from a public package."""

PRECISIONS = ("fp32", "fp16", "int8")
STREAMS = (1, 2, 4)
PEERS = {"CUDA": "CUDAExecutionProvider", "RTX provider": "NvTensorRTRTXExecutionProvider"}
CALIBRATION_SAMPLES = 16
BUILD_S, RUN_S, PEER_S = 420.0, 120.0, 120.0
"""What one build, one run of a plan and one provider may take: nothing of it may use up a lease."""


@dataclass(frozen=True)
class Peer:
    """ONNX Runtime on the same prepared model: times of whole runs as the host sees them, or why there are none."""

    p50_ms: float | None = None
    per_second: dict[int, float] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Row:
    """One model in one precision. ``state``: ``built``, ``refused`` (the target or the format does not take it, with
    the reason), ``failed``; after the run ``pass``, ``fail`` or ``inconclusive``. Errors are relative L2 against
    ONNX Runtime on the original; ``latency_p50_ms`` is the host's, copies included, ``compute_p50_ms`` the plan alone;
    ``took_s`` all that was done for the row.
    """

    model: str
    precision: str
    state: str
    reason: str = ""
    build_s: float | None = None
    plan_bytes: int | None = None
    layers: int | None = None
    prepared_error: float | None = None
    error: float | None = None
    latency_p50_ms: float | None = None
    compute_p50_ms: float | None = None
    per_second: dict[int, float] = field(default_factory=dict)
    peers: dict[str, Peer] = field(default_factory=dict)
    took_s: float = 0.0


def stage(arguments: argparse.Namespace) -> int:
    """Fetch the models and copy the cache's folders of them, so that nothing has to be fetched there."""
    from mobilekit import zoo

    target = arguments.folder / "cache" / "zoo"
    target.mkdir(parents=True, exist_ok=True)
    total = 0
    for model in arguments.models:
        path = zoo.fetch(model).path
        shutil.copytree(path.parent, target / path.parent.name, dirs_exist_ok=True)
        size = sum(file.stat().st_size for file in path.parent.iterdir())
        total += size
        print(f"  {model}: {size / 1e6:.1f} MB", file=sys.stderr)
    (arguments.folder / "models.json").write_text(json.dumps(list(arguments.models)) + "\n")
    (arguments.folder / "python-version").write_text(f"{sys.version_info[0]}.{sys.version_info[1]}\n")
    print(f"{len(arguments.models)} models, {total / 1e6:.1f} MB", file=sys.stderr)
    return 0


def _models(arguments: argparse.Namespace) -> Sequence[str]:
    if arguments.models:
        return tuple(arguments.models)
    staged = Path(__file__).with_name("models.json")
    return tuple(json.loads(staged.read_text())) if staged.is_file() else MODELS


def build(model: str, precision: str, bundle: Path, flavour: str | None, level: int | None = None) -> Row:
    """Export ``model``; what it is built from is held against the original on the way. Whatever goes wrong with one
    model is a row like others."""
    from mobilekit.errors import MobilekitError, UnsupportedModelError, VerificationError
    from mobilekit.pipeline.export import ExportOptions, export_model
    from mobilekit.targets.tensorrt import TensorRTOptions

    started = time.perf_counter()
    try:
        settings = TensorRTOptions(
            precision=precision,  # type: ignore[arg-type]
            flavour=flavour,  # type: ignore[arg-type]
            calibration=_calibration(bundle) if precision == "int8" else None,
            optimization_level=level,
            timeout_s=BUILD_S,
        )
        options = ExportOptions(targets=("tensorrt",), tensorrt=settings, replace=True, timeout_s=BUILD_S)
        report = export_model(model, bundle, options)
    except UnsupportedModelError as error:
        first = error.findings[0]
        return Row(model, precision, "refused", f"{first.op} at {first.node}: {first.reason}")
    except VerificationError as error:
        return Row(model, precision, "refused" if precision == "int8" else "failed", error.message.splitlines()[-1])
    except MobilekitError as error:
        return Row(model, precision, "failed", error.message)
    except Exception as error:
        return Row(model, precision, "failed", f"{type(error).__name__}: {error}")
    plan = report.manifest.tensorrt
    assert plan is not None
    return Row(
        model,
        precision,
        "built",
        build_s=round(time.perf_counter() - started, 3),
        plan_bytes=plan.plan_bytes,
        layers=plan.layer_count,
        prepared_error=max((error.relative_l2 for error in report.tensorrt_errors.values()), default=None),
    )


def _calibration(bundle: Path) -> Path:
    """Inputs to take int8's ranges from: of the kind, but not the very ones, that the check feeds."""
    from mobilekit.bundle import open_bundle
    from mobilekit.tensors import save_npy
    from mobilekit.validate.inputs import seeded_samples

    manifest = open_bundle(bundle.with_name(bundle.name.replace("-int8", "-fp32"))).manifest
    folder = bundle.with_name(f"{bundle.name}-calibration")
    shutil.rmtree(folder, ignore_errors=True)
    samples = seeded_samples(manifest.inputs, seed=1000, count=CALIBRATION_SAMPLES, preprocess=manifest.preprocess)
    for index, sample in enumerate(samples):
        for name, array in sample.tensors.items():
            plain = name.replace("/", "_").replace(":", "_")
            file = folder / f"{index:03}.npy" if len(sample.tensors) == 1 else folder / f"{index:03}" / f"{plain}.npy"
            file.parent.mkdir(parents=True, exist_ok=True)
            save_npy(file, array)
    return folder


class ObstacleError(Exception):
    """Why no plan at all can be run here, as far as the first that was tried tells."""


def run_plan(row: Row, bundle: Path, device: str = "gpu") -> Row:
    """Run the bundle's plan, hold it against ONNX Runtime on the original, and time it and its peers.

    Raises :class:`ObstacleError` where it is the machine that is in the way.
    """
    from mobilekit.errors import MobilekitError
    from mobilekit.pipeline.validate import ValidateOptions, validate_bundle

    try:
        options = ValidateOptions(target="tensorrt", streams=STREAMS, timeout_s=RUN_S)
        report = validate_bundle(bundle, device, options)
    except MobilekitError as error:
        if error.exit_code == 4:
            raise ObstacleError(f"{error.message}; {error.hint}" if error.hint else error.message) from error
        return replace(row, state="failed", reason=error.message)
    except Exception as error:
        return replace(row, state="failed", reason=f"{type(error).__name__}: {error}")
    gpu = report.gpu
    return replace(
        row,
        state=report.verdict.value,
        reason="" if report.verdict.exit_code == 0 else report.sentence,
        error=max(output.relative_l2 for output in report.outputs),
        latency_p50_ms=report.latency.p50_ms if report.latency is not None else None,
        compute_p50_ms=gpu.compute.p50_ms if gpu is not None else None,
        per_second={each.streams: round(each.per_second, 2) for each in gpu.throughput} if gpu is not None else {},
        peers={name: _peer(bundle, provider) for name, provider in PEERS.items() if provider in _providers()},
    )


def _providers() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def _peer(bundle: Path, provider: str) -> Peer:
    """In a process of its own: providers have ended more than themselves."""
    command = [sys.executable, __file__, "peer", str(bundle), provider]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PEER_S, check=False)
        told = json.loads(done.stdout.strip().splitlines()[-1])
        return Peer(told["p50_ms"], {int(streams): rate for streams, rate in told["per_second"].items()})
    except (subprocess.TimeoutExpired, IndexError, KeyError, ValueError) as error:
        said = done.stderr.strip().splitlines() if not isinstance(error, subprocess.TimeoutExpired) else []
        return Peer(problem=said[-1] if said else str(error))


def peer(arguments: argparse.Namespace) -> int:
    """Time the bundle's prepared model with one provider of ONNX Runtime; one JSON line."""
    import onnxruntime

    from mobilekit.bundle import open_bundle
    from mobilekit.validate.inputs import seeded_inputs

    manifest = open_bundle(arguments.bundle).manifest
    assert manifest.tensorrt is not None
    session = onnxruntime.InferenceSession(
        str(arguments.bundle / manifest.tensorrt.onnx), providers=[arguments.provider, "CPUExecutionProvider"]
    )
    if arguments.provider not in session.get_providers():
        print(f"{arguments.provider} does not start here", file=sys.stderr)
        return 4
    feeds = seeded_inputs(manifest.inputs, seed=0, preprocess=manifest.preprocess)
    print(json.dumps(measure(lambda: session.run(None, feeds))))
    return 0


def measure(once: Callable[[], object], *, rounds: int = 100, seconds: float = 1.0) -> dict[str, Any]:
    """The median of ``rounds`` runs in milliseconds, and runs a second from each number of threads."""
    for _ in range(10):
        once()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        once()
        times.append(time.perf_counter() - started)

    def keep_on(until: float) -> int:
        count = 0
        while time.perf_counter() < until:
            once()
            count += 1
        return count

    rates = {}
    for streams in STREAMS:
        with ThreadPoolExecutor(streams) as pool:
            started = time.perf_counter()
            count = sum(pool.map(keep_on, [started + seconds] * streams))
            rates[streams] = round(count / (time.perf_counter() - started), 2)
    return {"p50_ms": sorted(times)[rounds // 2] * 1e3, "per_second": rates}


def table(rows: Sequence[Row]) -> str:
    """For a terminal and for Markdown alike."""
    names = sorted({name for row in rows for name in row.peers})
    head = ["model", "precision", "result", "error", "prepared", "p50 ms", "plan ms"]
    head += [f"{streams}/s" for streams in STREAMS] + [f"{name} p50 ms" for name in names] + ["plan MB", "build s"]
    lines = [head]
    for row in rows:
        peers = [row.peers.get(name, Peer()) for name in names]
        lines.append(
            [row.model, row.precision, row.state, _error(row.error), _error(row.prepared_error)]
            + [_number(row.latency_p50_ms, 3), _number(row.compute_p50_ms, 3)]
            + [_number(row.per_second.get(streams), 0) for streams in STREAMS]
            + [_number(found.p50_ms, 3) for found in peers]
            + [_number(row.plan_bytes / 1e6 if row.plan_bytes else None, 1), _number(row.build_s, 1)]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    text += [f"{row.model} {row.precision}: {row.reason}" for row in rows if row.reason]
    return "\n".join(text)


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


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
    if served and "rtx" in hello.flavours:
        return hello, "rtx", ""
    if "full" in hello.flavours:
        return hello, "full", ""
    return (
        hello,
        "rtx",
        f"TensorRT for RTX does not serve {gpu.name} (compute capability {gpu.compute_capability}), and full TensorRT "
        "is not installed; lay its wheels into wheels/, or try with --flavour rtx all the same",
    )


class Check:
    """The rows that are known, what is to be done for those that are not, and the file that holds them: written after
    every row, so that whatever ends the process, ``--resume`` goes on there."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.started = time.monotonic()
        self.hello, self.flavour, self.obstacle = choose(arguments.flavour)
        self.device = "prepared" if arguments.rehearse else "gpu"
        if arguments.rehearse:
            self.obstacle = ""
        self.level: int | None = arguments.opt_level
        self.budget_s: float | None = arguments.budget
        self.executed = not (self.obstacle or arguments.rehearse)
        self.file: Path = arguments.output / "gpu_check.json"
        self.bundles: Path = arguments.output / "bundles"
        self.bundles.mkdir(parents=True, exist_ok=True)
        # By precision: what a lease ends before is int8 of some models, and not every format of the last ones.
        self.wanted = [(model, precision) for precision in arguments.precisions for model in _models(arguments)]
        self.rows: dict[tuple[str, str], Row] = {}
        self.facts = self._facts()
        if arguments.resume:
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
        rows = [
            Row(
                **{**row, "peers": {name: Peer(p["p50_ms"], _rates(p["per_second"]), p["problem"])
                                    for name, p in row["peers"].items()},
                   "per_second": _rates(row["per_second"])}
            )
            for row in told["rows"]
        ]  # fmt: skip
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
                    self.obstacle, self.executed = str(obstacle), False  # nor would the others
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


def _rates(told: Mapping[str, float]) -> dict[int, float]:
    return {int(streams): rate for streams, rate in told.items()}


def run(arguments: argparse.Namespace) -> int:
    check = Check(arguments)
    print(", ".join(f"{name} {version}" for name, version in check.facts["versions"].items() if version),
          file=sys.stderr)  # fmt: skip
    todo = check.pending()
    while todo and check.in_time():
        check.do(*todo.pop(0))
    check.write()
    rows = check.ordered()
    print(table(rows))
    print(check.file, file=sys.stderr)
    left = [key for key in check.wanted if key not in check.rows]
    if left:
        print(f"{len(left)} of {len(check.wanted)} are left: run it again with --resume", file=sys.stderr)
    states = {row.state for row in rows}
    if check.obstacle:
        print(f"error: {check.obstacle}\nhint: the plans were built and what they are built from verified; none was "
              "executed", file=sys.stderr)  # fmt: skip
    if "failed" in states or "fail" in states:
        return 4 if check.obstacle and "fail" not in states else 1
    if check.obstacle:
        return 4
    return 3 if "inconclusive" in states or left or arguments.rehearse else 0


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


def _seconds(text: str) -> float:
    """``540``, ``540s``, ``9m``."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("s", "m") else (text, "s")
    try:
        seconds = float(number) * (60 if unit == "m" else 1)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: 540s, 9m")
    return seconds


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(part for part in text.split(",") if part)
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return parse


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu_check", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    staging = commands.add_parser("stage", help="collect the models")
    staging.add_argument("folder", type=Path)
    staging.add_argument("--models", type=_names(MODELS), default=MODELS)
    checking = commands.add_parser("run", help="build, run and compare")
    checking.add_argument("--models", "--only", type=_names(MODELS), default=(), help="default: all that were staged")
    checking.add_argument("--precisions", type=_names(PRECISIONS), default=PRECISIONS)
    checking.add_argument("--flavour", choices=("rtx", "full"), help="default: rtx where it serves the GPU, else full")
    checking.add_argument("--opt-level", type=int, choices=range(6), help="TensorRT's own; a low one builds faster")
    checking.add_argument("--resume", action="store_true", help="keep the rows of an earlier run and go on behind them")
    checking.add_argument("--budget", type=_seconds, help="9m, 540s: begin no row that would not end in that time")
    checking.add_argument(
        "--rehearse", action="store_true", help="ONNX Runtime runs what the plans are built from: no GPU, no proof"
    )
    checking.add_argument("-o", "--output", type=Path, default=Path(__file__).with_name("results"))
    peering = commands.add_parser("peer", help="time ONNX Runtime with one provider")
    peering.add_argument("bundle", type=Path)
    peering.add_argument("provider")
    arguments = parser.parse_args(argv)
    from mobilekit.errors import MobilekitError

    try:
        return {"stage": stage, "run": run, "peer": peer}[arguments.command](arguments)
    except MobilekitError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
