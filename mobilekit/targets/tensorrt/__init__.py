"""The TensorRT target: ONNX graph in, a prepared ONNX, a plan and what the optimiser did out."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mobilekit.errors import BuildError, ChildCrashError, ChildError, Finding, UnsupportedModelError
from mobilekit.paths import storage_errors
from mobilekit.progress import SILENT, Progress
from mobilekit.targets.tensorrt.answers import Built, Checked, Inspected, Problem, parse_answer
from mobilekit.targets.tensorrt.host import LocalHost, WorkerHost, job_folder

if TYPE_CHECKING:
    from mobilekit.bundle import TensorRTArtifact
    from mobilekit.targets.tensorrt.flavour import Flavour
    from mobilekit.targets.tensorrt.prepare import Profile

__all__ = ["LAYERS", "MODEL", "PLAN", "Precision", "TensorRTOptions", "build", "check", "inspect"]

Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8"]

MODEL = "tensorrt/model.onnx"
PLAN = "tensorrt/model.plan"
LAYERS = "tensorrt/layers.json"


@dataclass(frozen=True, slots=True)
class TensorRTOptions:
    """How to build a plan.

    ``compute_capabilities`` ("8.6") are the GPUs an RTX plan is for, none for TensorRT's own choice;
    ``workspace_bytes`` bounds scratch memory on the GPU (0: no bound of ours); ``optimization_level`` is TensorRT's,
    0 to 5; ``flavour`` overrides the choice between full TensorRT and RTX. ``plugins`` are plugin creators,
    ``module:Class``, which the process that builds imports: code, so they come from the user and from no file.
    ``timeout_s`` bounds one build. ``on`` is another machine that builds, ``"ssh://user@host"``, with one of
    ``remote_pythons`` (none: those that are usual); ``remote_quota_bytes`` bounds what is kept there.
    """

    precision: Precision = "fp32"
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    compute_capabilities: tuple[str, ...] = ()
    workspace_bytes: int = 0
    optimization_level: int | None = None
    flavour: Literal["rtx", "full"] | None = None
    calibration: Path | None = None
    calibration_method: str = "minmax"
    plugins: tuple[str, ...] = ()
    timeout_s: float = 1800.0
    on: str | None = None
    remote_pythons: tuple[str, ...] = ()
    remote_quota_bytes: int | None = None


def check(
    model: Path, flavour: Flavour, options: TensorRTOptions, host: WorkerHost | None = None
) -> tuple[Finding, ...]:
    """Every node of the prepared ONNX ``model`` that TensorRT's parser does not take. ``host``: where, else here."""
    files = {path.name: path for path in _with_weights(model)}
    arguments = {"module": flavour.module, "onnx": model.name, "plugins": list(options.plugins)}
    with job_folder("check", arguments, files) as folder:
        answer = parse_answer(Checked, *_perform(folder, "parser", flavour, options, host))
    return tuple(_finding(problem) for problem in answer.problems)


def build(
    root: Path, flavour: Flavour, options: TensorRTOptions, host: WorkerHost | None = None, progress: Progress = SILENT
) -> TensorRTArtifact:
    """Build ``root/tensorrt/model.plan`` from the prepared ONNX beside it, and write what the optimiser did.

    ``host``: the machine that builds, freshly opened; this one where none is given. Same ONNX, same version: same
    bytes with RTX. A full TensorRT plan is chosen by timing: only with the kernels it remembers in the user's cache
    folder it comes out the same again. Raises :class:`UnsupportedModelError` where the builder names a node,
    :class:`BuildError` where it fails otherwise, and what the disk says.
    """
    from mobilekit.bundle import TensorRTArtifact
    from mobilekit.targets.tensorrt.layers import read_engine, read_layers

    model = root / MODEL
    arguments = {
        "module": flavour.module,
        "onnx": model.name,
        "plan": "model.plan",
        "profiles": {
            name: [list(profile.low), list(profile.best), list(profile.high)]
            for name, profile in options.profiles.items()
        },
        "compute_capabilities": list(options.compute_capabilities),
        "workspace_bytes": options.workspace_bytes,
        "optimization_level": options.optimization_level,
        "plugins": list(options.plugins),
        "tf32": options.precision != "fp32",  # else TensorRT's fp32 is none
    }
    with job_folder("build", arguments, {path.name: path for path in _with_weights(model)}) as folder:
        answer = parse_answer(Built, *_perform(folder, "builder", flavour, options, host, progress))
        if answer.problems:
            _refuse(answer.problems, flavour, options)
        if not (folder / "model.plan").is_file():
            raise ChildError(f"{flavour.product}'s builder gave no plan and no reason")
        with storage_errors(root):
            shutil.move(folder / "model.plan", root / PLAN)
    layers, bindings = read_layers(answer.log)
    told = [asdict(binding) for binding in bindings]
    if not layers and answer.engine is not None:  # another form of log than RTX's
        told = [asdict(binding) for binding in answer.engine.bindings]
        try:
            layers = read_engine(answer.engine.information)
        except ValueError as error:
            progress.note(f"what the plan says of its layers cannot be read: {error}")
    sidecar = {
        "schema_version": "1.0",
        "flavour": flavour.name,
        "version": answer.version,
        "layers": [asdict(layer) for layer in layers],
        "bindings": told,
        "warnings": answer.warnings,
    }
    with storage_errors(root):
        (root / LAYERS).write_text(json.dumps(sidecar, indent=1) + "\n", encoding="utf-8")
    if answer.timing_cache is not None:
        progress.note(f"kernel timings: {'all known' if answer.timing_cache.hit else 'measured and kept'}")
    return TensorRTArtifact(
        onnx=MODEL,
        plan=PLAN,
        layers=LAYERS,
        flavour=flavour.name,
        version=answer.version,
        precision=options.precision,
        compute_capabilities=options.compute_capabilities,
        profiles={name: (p.low, p.best, p.high) for name, p in options.profiles.items()},
        layer_count=len(layers),
        plan_bytes=(root / PLAN).stat().st_size,
        workspace_bytes=options.workspace_bytes,
        optimization_level=options.optimization_level,
        reproducible=flavour.name == "rtx",
        gpu=f"{answer.gpu.name}, compute capability {answer.gpu.compute_capability}" if answer.gpu else "",
    )


def inspect(
    plan: Path, flavour: Flavour, host: WorkerHost, *, device: int = 0, plugins: Sequence[str] = (), timeout_s: float
) -> Inspected:
    """What ``plan`` says of itself, loaded on GPU ``device`` of ``host``. Raises what running it raises."""
    arguments = {"module": flavour.module, "plan": "model.plan", "device": device, "plugins": list(plugins)}
    what = f"{flavour.product}'s inspector"
    with job_folder("inspect", arguments, {"model.plan": plan}) as folder:
        return parse_answer(Inspected, host.perform(folder, what=what, timeout_s=timeout_s), what)


def _with_weights(model: Path) -> list[Path]:
    """The model and the file that its weights stand in, where there is one."""
    return sorted(model.parent.glob(f"{model.name}*"))


def _perform(
    folder: Path,
    part: str,
    flavour: Flavour,
    options: TensorRTOptions,
    host: WorkerHost | None,
    progress: Progress = SILENT,
) -> tuple[dict[str, Any], str]:
    """The answer, and who gave it."""
    what = f"{flavour.product}'s {part}"
    try:
        if host is not None:
            return host.perform(folder, what=what, timeout_s=options.timeout_s, progress=progress), what
        with LocalHost() as here:
            return here.perform(folder, what=what, timeout_s=options.timeout_s, progress=progress), what
    except ChildCrashError as error:
        raise BuildError(
            f"{flavour.product} {flavour.version()} died of {error.args[0].rsplit(' ', 1)[-1]} on this model",
            hint="nothing was written; a custom operator that it takes for a plugin does that",
        ) from error


def _refuse(problems: Sequence[Problem], flavour: Flavour, options: TensorRTOptions) -> None:
    if any(problem.node for problem in problems):
        raise UnsupportedModelError(
            f"{flavour.product} cannot build this model; nothing was written",
            findings=[_finding(problem) for problem in problems],
        )
    reason = problems[0].reason
    # RTX says that of a limit that what is kept between layers does not fit in, too.
    if options.workspace_bytes and ("workspace" in reason.lower() or "OutOfMemory" in reason):
        raise BuildError(
            f"{flavour.product} cannot make do with {options.workspace_bytes} bytes of workspace for this model: "
            f"{reason}",
            hint="give it more with --workspace, or leave the limit out",
        )
    raise BuildError(
        f"{flavour.product} could not build the plan: {reason}", hint="try --precision fp32 or another opset"
    )


_REMEDIES = {
    "If": "fix the input that decides it with --input NAME=VALUE",
    "DynamicQuantizeLinear": "start from the float model and use --precision int8 --calib DIR",
    "ConvInteger": "start from the float model and use --precision int8 --calib DIR",
    "MatMulInteger": "start from the float model and use --precision int8 --calib DIR",
    "QuantizeLinear": "quantise the float model symmetrically (zero points 0): --precision int8 --calib DIR",
    "DequantizeLinear": "quantise the float model symmetrically (zero points 0): --precision int8 --calib DIR",
    "QLinearConv": "quantise the float model to Q/DQ pairs: --precision int8 --calib DIR",
    "QLinearMatMul": "quantise the float model to Q/DQ pairs: --precision int8 --calib DIR",
}


_ASSERTION = re.compile(r'&& "(.+)"\s*$|^Assertion failed: \(?.*?[)\w]: ([A-Z].*)$', re.DOTALL)


def _finding(problem: Problem) -> Finding:
    op, reason = problem.op, problem.reason
    remedy = _REMEDIES.get(op, "change or cut the model there, or export for another target")
    if "Plugin not found" in reason:  # how the parser says that it has never heard of an operator
        reason = "TensorRT has no such operator"
        remedy = "write it as an ONNX local function, or with full TensorRT give a --plugin (docs/tensorrt.md)"
    elif "plugin creator" in reason:  # NonZero
        reason = "full TensorRT has a plugin for it, which TensorRT for RTX does not take"
        remedy = "build with --flavour full where the GPU is, or cut the model there"
    elif reason in ("false", ""):
        reason = "TensorRT's parser does not take it"
    elif (said := _ASSERTION.search(reason)) is not None:  # the condition is C++, the sentence behind it is for people
        reason = next(text for text in said.groups() if text)
    return Finding(problem.node or "the model", op or "?", reason, remedy)
