"""Run a bundle on this machine or a device: a picture or arrays in, an answer in words or arrays out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobilekit.bundle import Bundle, Manifest, TensorInfo, open_bundle
from mobilekit.errors import BundleError, UsageError
from mobilekit.metrics.classify import Answer, classify, is_probabilities
from mobilekit.pipeline.place import LOCAL, choose_target, open_place
from mobilekit.pipeline.place_plan import PREPARED, inputs_of_plan, open_plan, plan_of, worker_host
from mobilekit.pipeline.settings import run_options, setting_at
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import Runner, RunnerInfo, RunOptions
from mobilekit.tensors import format_shape, load_npy, save_npy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mobilekit.report.model import DeviceFacts
    from mobilekit.targets.base import TargetName
    from mobilekit.tensors import Array, NamedTensors

__all__ = ["CONNECTED", "OutputSummary", "RunReport", "RunSettings", "file_names", "run"]

CONNECTED = "connected"
"""The device that is: :class:`RunSettings`."""

RunnerName = Literal["local", "reference", "tensorrt", "prepared"]


@dataclass(frozen=True, slots=True)
class RunSettings:
    """``runner``: ``local`` is the bundle's ncnn model through the ncnn wheel, ``reference`` the original model in
    ONNX Runtime, ``tensorrt`` the bundle's plan on the first GPU, ``prepared`` what that was built from, in ONNX
    Runtime; ``None``: the first of ``local`` and ``tensorrt`` that the bundle has. ``tuned``: ``local`` as ``mobilekit
    tune`` found it fastest on such a machine. ``top``: how many answers of a
    classifier. ``output``: a folder for the raw outputs. ``shapes``: what pictures become, by input, where the bundle's
    sizes are free; otherwise its default. ``plugins``: creators, ``module:Class``, that the plan needs.
    ``on``: another machine (``"ssh://user@host"``) that runs the plan, with one of ``remote_pythons``. ``vulkan``: the
    ncnn model on the GPU of what runs it. ``device``: where the ncnn model runs instead of on this machine, as
    :func:`~mobilekit.pipeline.place.open_place` names devices, :data:`CONNECTED` for the one that is; of a plan, its
    GPU.
    ``wait_s``: how long for a device that another holds."""

    device: str | None = None
    wait_s: float = 600.0
    runner: RunnerName | None = None
    top: int = 5
    output: Path | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    threads: int = 0
    tuned: bool = True
    timeout_s: float = 300.0
    plugins: tuple[str, ...] = ()
    vulkan: bool = False
    on: str | None = None
    remote_pythons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutputSummary:
    """One output; the statistics are over its finite values, ``None`` where it has none. ``file`` holds it raw."""

    dtype: str
    shape: tuple[int, ...]
    minimum: float | None
    maximum: float | None
    mean: float | None
    not_finite: int
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class RunReport:
    """``answers`` (best first) of a classifier, from ``answered_by``; ``scores`` says what the model gave:
    ``probabilities``, or ``logits``, which went through softmax here. ``batch``: how many samples, run one after
    another, ``latency_ms`` is for. ``layers_on_cpu``: see :class:`~mobilekit.runners.base.RunResult`."""

    bundle: Path
    model: str
    runner: RunnerInfo
    inputs: Mapping[str, Path]
    outputs: Mapping[str, OutputSummary]
    tensors: NamedTensors
    latency_ms: float
    answers: tuple[Answer, ...] = ()
    answered_by: str = ""
    scores: Literal["", "probabilities", "logits"] = ""
    batch: int = 1
    layers_on_cpu: Mapping[str, int] = field(default_factory=dict)


def run(
    path: Path, inputs: Sequence[str], settings: RunSettings | None = None, progress: Progress = SILENT
) -> RunReport:
    """Run the bundle at ``path`` once on ``inputs``: ``NAME=FILE``, a ``.npy`` array as it is or a picture.

    A bare ``FILE`` goes to the only input; of several, a picture to the one that the preprocessing names. Raises
    :class:`UsageError` for inputs that do not fit, :class:`BundleError` for a damaged bundle or labels that do not
    fit its classes, :class:`~mobilekit.errors.ChildError` where native code dies or hangs.
    """
    settings = settings or RunSettings()
    if settings.output is not None and settings.output.exists() and not settings.output.is_dir():
        raise UsageError(f"{settings.output} is not a folder", hint="name another folder with -o")
    bundle = open_bundle(path)
    manifest = bundle.manifest
    plan_first = settings.on is not None or (manifest.ncnn is None and manifest.tensorrt is not None)
    name = settings.runner or ("tensorrt" if plan_first else "local")
    if settings.device is not None:
        name = _at_device(bundle, settings, settings.device)
    if settings.on is not None and name != "tensorrt":
        raise UsageError("another machine runs TensorRT plans", hint="leave --on out, or add --target tensorrt")
    if settings.vulkan and name != "local":
        raise UsageError("--vulkan is for the ncnn model", hint="leave it out, or --runner local")
    on_plan = name in ("tensorrt", "prepared")
    labels = _labels(bundle)
    files = _assign(inputs, manifest)
    known = inputs_of_plan(manifest, plan_of(bundle)) if on_plan else manifest.inputs
    infos = _sized(known, settings.shapes)
    tensors = {name: _load(file, infos[name], manifest) for name, file in files.items()}
    for given, array in tensors.items():
        if bad := _not_finite(array):
            # ncnn's activations and maxima may swallow a NaN, so that the answer looks like one.
            progress.note(f"the input {given!r} holds {bad} values that are NaN or infinite: do not trust the answer")
    progress.step("running the model")
    with _runner(bundle, name, settings, progress) as (runner, facts):
        if facts is None:
            options = RunOptions(threads=settings.threads, timeout_s=settings.timeout_s)
        else:
            tuned = settings.tuned and not settings.vulkan
            setting, _ = setting_at(manifest, facts, threads=settings.threads, tuned=tuned, progress=progress)
            options = replace(run_options(setting, timeout_s=settings.timeout_s), vulkan=settings.vulkan)
        result = runner.run(tensors, options)
        who = runner.info()
    outputs = {info.name: result.outputs[info.name] for info in manifest.outputs}
    saved = _save(outputs, settings.output) if settings.output is not None else {}
    summaries = {name: _summary(array, saved.get(name)) for name, array in outputs.items()}
    classes = _classes(manifest)
    answers: tuple[Answer, ...] = ()
    kind: Literal["", "probabilities", "logits"] = ""
    if classes is not None:
        scores = outputs[classes.name]
        answers = tuple(classify(scores, labels or None, top=settings.top))
        kind = "probabilities" if is_probabilities(scores) else "logits"
    return RunReport(
        bundle=bundle.root,
        model=manifest.model.id,
        runner=who,
        inputs=files,
        outputs=summaries,
        tensors=outputs,
        latency_ms=min(result.latencies_ns, default=0) / 1e6,
        answers=answers,
        answered_by=classes.name if classes else "",
        scores=kind,
        batch=_samples(bundle) if name == "local" else 1,
        layers_on_cpu=result.layers_on_cpu,
    )


def _at_device(bundle: Bundle, settings: RunSettings, device: str) -> RunnerName:
    if settings.runner in ("reference", "prepared"):
        raise UsageError(f"the runner {settings.runner!r} is this machine's", hint="leave --device out")
    targets: Mapping[str | None, TargetName] = {"local": "ncnn", "tensorrt": "tensorrt"}
    if choose_target(bundle, targets.get(settings.runner), device) == "ncnn":
        return "local"
    return "prepared" if device == PREPARED else "tensorrt"


def _samples(bundle: Bundle) -> int:
    artifact = bundle.manifest.ncnn
    return 1 if artifact is None or artifact.batch is None else artifact.batch.size


def file_names(names: Sequence[str]) -> dict[str, str]:
    """A distinct, harmless file name ``*.npy`` for each tensor name, whatever characters that holds."""
    taken: set[str] = set()
    result: dict[str, str] = {}
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip(".")[:100] or "output"
        candidate, count = stem, 1
        # Some file systems take two names that differ in case only for one.
        while candidate.lower() in taken:
            count += 1
            candidate = f"{stem}-{count}"
        taken.add(candidate.lower())
        result[name] = f"{candidate}.npy"
    return result


def _assign(inputs: Sequence[str], manifest: Manifest) -> dict[str, Path]:
    """Which file goes to which input, in the model's order; each input exactly once."""
    names = [info.name for info in manifest.inputs]
    listed = ", ".join(names)
    chosen: dict[str, Path] = {}
    for text in inputs:
        name, file = _split(text, manifest)
        if name not in names:
            raise UsageError(f"the model has no input {name!r}", hint=f"its inputs: {listed}")
        if name in chosen:
            raise UsageError(f"input {name!r} is given twice: {chosen[name]} and {file}", hint=f"its inputs: {listed}")
        chosen[name] = file
    missing = [name for name in names if name not in chosen]
    if missing:
        what = ", ".join(f"{name} ({_info(manifest, name).describe()})" for name in missing)
        raise UsageError(f"no file is given for the input {what}", hint="--input NAME=FILE, once for each input")
    return {name: chosen[name] for name in names}


def _split(text: str, manifest: Manifest) -> tuple[str, Path]:
    """``(input name, file)``; tensor names may hold ``=``, and so may paths."""
    names = [info.name for info in manifest.inputs]
    named = [name for name in names if text.startswith(f"{name}=")]
    if named:
        name = max(named, key=len)
        return name, Path(text[len(name) + 1 :])
    before, equals, after = text.partition("=")
    if equals and not Path(text).exists():
        return before, Path(after)
    picture = not text.endswith(".npy")
    if len(names) == 1:
        return names[0], Path(text)
    if picture and manifest.preprocess is not None and manifest.preprocess.input:
        return manifest.preprocess.input, Path(text)
    raise UsageError(
        f"the model has {len(names)} inputs, and {text} could be any of them",
        hint=f"--input NAME={text}; its inputs: {', '.join(names)}",
    )


def _info(manifest: Manifest, name: str) -> TensorInfo:
    return next(info for info in manifest.inputs if info.name == name)


def _sized(inputs: Sequence[TensorInfo], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, TensorInfo]:
    """The inputs by name, with the shapes asked for in place of the default ones."""
    infos = {info.name: info for info in inputs}
    for name, shape in shapes.items():
        if name not in infos:
            raise UsageError(f"the model has no input {name!r}", hint=f"its inputs: {', '.join(infos)}")
        problem = infos[name].misfit(shape)
        if problem is not None:
            hint = "give a shape of that kind" if infos[name].free else "export with --dynamic for many sizes"
            raise UsageError(f"--input-shape of {name!r} does not fit: {problem}", hint=hint)
        infos[name] = replace(infos[name], shape=shape)
    return infos


def _load(file: Path, info: TensorInfo, manifest: Manifest) -> Array:
    if file.suffix == ".npy":
        return _fitting(load_npy(file), info, file)
    spec = manifest.preprocess
    if spec is None:
        raise UsageError(
            f"the bundle does not say how {file} becomes the input {info.name!r}",
            hint="give a .npy file, or export with --preprocess",
        )
    if spec.input and spec.input != info.name:
        raise UsageError(
            f"the bundle prepares pictures for the input {spec.input!r}, not for {info.name!r}",
            hint=f"--input {info.name}=FILE.npy",
        )
    from mobilekit.preprocess import load_picture

    return load_picture(file, spec, info.shape, info.dtype)


def _fitting(array: Array, info: TensorInfo, file: Path) -> Array:
    """``array`` in the input's element type; no axis is added, cut or guessed."""
    import numpy as np

    wanted = np.dtype(info.dtype)
    if info.misfit(array.shape) is not None:
        raise UsageError(
            f"{file} has shape {format_shape(array.shape)}, but the input {info.name!r} takes {info.describe()}",
            hint="give an array of that shape, or export with another --input-shape",
        )
    if array.dtype == wanted:
        return array
    # Floating point may be rounded; integers must come through as they are; neither becomes the other.
    kinds = {"f": "f", "i": "iu", "u": "iu"}.get(wanted.kind, "")
    if array.dtype.kind not in kinds:
        fits = False
    elif wanted.kind == "f":
        fits = bool(np.array_equal(np.isfinite(array), np.abs(array) <= np.finfo(wanted).max))
    else:
        fits = bool(array.min() >= np.iinfo(wanted).min and array.max() <= np.iinfo(wanted).max)
    if not fits:
        raise UsageError(
            f"{file} holds {array.dtype} values, but the input {info.name!r} takes {info.dtype}",
            hint=f"convert it: array.astype('{info.dtype}')",
        )
    return array.astype(wanted)


def _classes(manifest: Manifest) -> TensorInfo | None:
    """The output that holds a classifier's scores, one a class; ``None`` where there is none."""
    if manifest.task != "classification" or not manifest.outputs:
        return None
    first = manifest.outputs[0]
    return first if math.prod(first.shape) == max(first.shape, default=1) > 1 and not first.free else None


def _labels(bundle: Bundle) -> tuple[str, ...]:
    """The bundle's class names; :class:`BundleError` where their number is not that of its classes."""
    info = _classes(bundle.manifest)
    if info is None:
        return ()
    try:
        labels = bundle.labels()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"the labels in {bundle.root} cannot be read: {error}", hint="export again") from error
    count = max(info.shape, default=1)
    if labels and len(labels) != count:
        raise BundleError(
            f"the bundle has {len(labels)} labels, but its output {info.name!r} has {count} classes",
            hint="export again with --labels and a file of one line for each class",
        )
    return labels


@contextmanager
def _runner(
    bundle: Bundle, name: RunnerName, settings: RunSettings, progress: Progress
) -> Iterator[tuple[Runner, DeviceFacts | None]]:
    """What computes; with what it runs on, where that is ncnn."""
    if name in ("tensorrt", "prepared"):
        from mobilekit.targets.tensorrt.gpus import GPU
        from mobilekit.targets.tensorrt.runner import GpuOptions

        host = None
        if settings.on is not None:
            host = worker_host(settings.on, pythons=settings.remote_pythons, progress=progress)
        at_hand = settings.device in (None, CONNECTED)
        where = PREPARED if name == "prepared" else GPU if at_hand else settings.device
        with open_plan(bundle, where, GpuOptions(plugins=settings.plugins), progress, host) as (runner, _):
            yield runner, None
        return
    if name == "reference":
        from mobilekit.runners.ort import OrtRunner

        with OrtRunner(bundle.source, threads=settings.threads, fixed=bundle.fixed(), free=bundle.free) as original:
            yield original, None
        return
    device = None if settings.device == CONNECTED else settings.device or LOCAL
    with open_place(
        bundle, device, target="ncnn", wait_s=settings.wait_s, vulkan=settings.vulkan, progress=progress
    ) as found:
        yield found


def _not_finite(array: Array) -> int:
    import numpy as np

    return int(np.count_nonzero(~np.isfinite(array))) if array.dtype.kind == "f" else 0


def _save(outputs: NamedTensors, folder: Path) -> dict[str, Path]:
    files = {name: folder / file for name, file in file_names(list(outputs)).items()}
    for name, file in files.items():
        save_npy(file, outputs[name])
    return files


def _summary(array: Array, file: Path | None) -> OutputSummary:
    import numpy as np

    values = np.asarray(array, dtype=np.float64)
    finite = values[np.isfinite(values)]
    low, high, mean = (float(f(finite)) for f in (np.min, np.max, np.mean)) if finite.size else (None, None, None)
    return OutputSummary(str(array.dtype), array.shape, low, high, mean, int(values.size - finite.size), file)
