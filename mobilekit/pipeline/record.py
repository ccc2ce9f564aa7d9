"""``mobilekit reference record``: a reference's answers, kept for machines that cannot compute them."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import UsageError
from mobilekit.paths import atomic_dir
from mobilekit.pipeline.place_plan import worker_host
from mobilekit.pipeline.reference import ONNXRUNTIME, open_reference
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunOptions

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle
    from mobilekit.runners.ort import OrtRunner
    from mobilekit.targets.tensorrt.host import Hello
    from mobilekit.tensors import NamedTensors
    from mobilekit.validate.inputs import Sample
    from mobilekit.validate.recording import RecordingManifest

__all__ = ["PROVIDERS", "RecordOptions", "RecordReport", "record_reference", "show_recording"]

PROVIDERS = {"cpu": ONNXRUNTIME, "cuda": "onnxruntime-cuda", "tensorrt": "tensorrt"}
"""What ``--provider`` names, as :func:`~mobilekit.pipeline.reference.open_reference` calls it."""

_AT_ONCE = 32
"""Inner tensors fetched by one run: the model runs once for each so many, and memory holds no more."""

_TYPES = {
    "tensor(float16)",
    "tensor(float)",
    "tensor(double)",
    "tensor(bool)",
    *(f"tensor({sign}int{bits})" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """``inputs``: a folder as ``validate`` takes it, else ``samples`` seeded ones. ``intermediates``: every tensor that
    the original model computes on its way is recorded, too. ``on``: another machine (``"ssh://user@host"``) that runs
    the plan, with one of ``remote_pythons``; ``plugins``: creators, ``module:Class``, that it needs. ``replace`` allows
    to overwrite what is no recording."""

    inputs: Path | None = None
    samples: int = 3
    seed: int = 0
    intermediates: bool = False
    provider: str = "cpu"
    timeout_s: float = 300.0
    replace: bool = False
    on: str | None = None
    remote_pythons: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordReport:
    folder: Path
    manifest: RecordingManifest
    size_bytes: int


def record_reference(
    bundle: str | Path, output: str | Path, options: RecordOptions | None = None, progress: Progress = SILENT
) -> RecordReport:
    """Write the recording ``output``, whole or not at all; one sample is in memory at a time.

    Raises :class:`UsageError` for inputs that do not fit, an unknown provider or an output folder that holds something
    else, and what the reference raises.
    """
    from mobilekit import __version__
    from mobilekit.bundle import open_bundle
    from mobilekit.validate.recording import Provider, RecordedModel, RecordingWriter, model_files

    options = options or RecordOptions()
    folder = Path(output)
    if options.provider not in PROVIDERS:
        raise UsageError(f"there is no provider {options.provider!r}", hint=f"one of {', '.join(PROVIDERS)}")
    if options.intermediates and options.provider != "cpu":
        raise UsageError(
            f"intermediate tensors are recorded from ONNX Runtime on the CPU, not from {options.provider}",
            hint="leave --intermediates out, or record with --provider cpu",
        )
    if options.provider != "tensorrt" and (options.on is not None or options.plugins):
        raise UsageError("--on and --plugin are for TensorRT plans", hint="add --provider tensorrt")
    opened = open_bundle(Path(bundle))
    _check_output(folder, opened, replace=options.replace)
    samples = _samples(opened, options)
    with ExitStack() as stack:
        host = (
            None if options.on is None else worker_host(options.on, pythons=options.remote_pythons, progress=progress)
        )
        which = PROVIDERS[options.provider]
        reference = stack.enter_context(open_reference(opened, which, progress, host=host, plugins=options.plugins))
        inner = _Inner(stack.enter_context(_inner(opened))) if options.intermediates else None
        writer = RecordingWriter(stack.enter_context(atomic_dir(folder)))
        for sample in samples:
            progress.step(f"recording {sample.name}")
            writer.add("input", sample.tensors)
            answer = reference.answer(sample.tensors, options.timeout_s)
            writer.add("output", answer)
            if inner is not None:
                for tensors in inner.of(sample.tensors, [*sample.tensors, *answer], options.timeout_s):
                    writer.add("intermediate", tensors)
            writer.end_sample(sample.name, reference.doubt(sample.tensors, answer, options.timeout_s))
        facts = reference.facts
        manifest = writer.finish(
            __version__,
            RecordedModel(id=opened.manifest.model.id, sha256=opened.manifest.model.sha256, files=model_files(opened)),
            Provider(
                name=facts.name,
                version=facts.version,
                machine=f"{platform.system()} {platform.machine()}" if host is None else _machine(host.hello()),
                gpu=facts.gpu,
                versions=dict(_versions()) if host is None else _versions_there(host.hello()),
            ),
            seed=options.seed if options.inputs is None else None,
            left_out={} if inner is None else inner.left_out,
        )
    return RecordReport(folder, manifest, writer.size_bytes)


def show_recording(folder: str | Path) -> RecordReport:
    """What is in a recording, all of it checked. Raises :class:`~mobilekit.errors.BundleError`."""
    from mobilekit.validate.recording import open_recording

    recording = open_recording(Path(folder))
    size = sum(tensor.size_bytes for sample in recording.manifest.samples for tensor in sample.tensors)
    return RecordReport(recording.root, recording.manifest, size)


def _check_output(folder: Path, bundle: Bundle, *, replace: bool) -> None:
    from mobilekit.bundle import check_outside, is_bundle
    from mobilekit.validate.recording import is_recording

    check_outside(folder)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder} is not a folder", hint="give another folder with -o")
    if is_bundle(folder) or bundle.root.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{folder} holds a bundle", hint="give another folder with -o")
    if folder.is_dir() and any(folder.iterdir()) and not is_recording(folder) and not replace:
        raise UsageError(
            f"{folder} holds something that is not a recording", hint="give another folder with -o, or add --force"
        )


def _samples(bundle: Bundle, options: RecordOptions) -> Iterator[Sample]:
    from mobilekit.validate.inputs import samples_of

    if options.inputs is None and options.samples < 1:
        raise UsageError("there is nothing to record: no samples", hint="give --samples 1 or more")
    return samples_of(bundle.manifest, options.inputs, seed=options.seed, count=options.samples)


def _inner(bundle: Bundle) -> OrtRunner:
    from mobilekit.runners.ort import OrtRunner

    # Without optimisations: each tensor is what its own node makes of the ones before.
    return OrtRunner(bundle.source, fixed=bundle.fixed(), free=bundle.free, optimise=False, inner=True)


class _Inner:
    """The tensors that a model computes on its way."""

    def __init__(self, runner: OrtRunner) -> None:
        self._runner = runner
        kinds = dict(runner.tensors())
        self._names = [name for name, kind in kinds.items() if kind in _TYPES]
        self.left_out = {name: f"a {kind}" for name, kind in kinds.items() if kind not in _TYPES}

    def of(self, inputs: NamedTensors, known: Sequence[str], timeout_s: float) -> Iterator[NamedTensors]:
        names = [name for name in self._names if name not in set(known)]
        for begin in range(0, len(names), _AT_ONCE):
            yield self._runner.some(names[begin : begin + _AT_ONCE], inputs, RunOptions(timeout_s=timeout_s))


def _machine(hello: Hello) -> str:
    return f"{hello.system} {hello.machine}"


def _versions_there(hello: Hello) -> dict[str, str]:
    from mobilekit.targets.tensorrt.flavour import FLAVOURS

    found = {flavour.packages[0]: hello.flavours[name] for name, flavour in FLAVOURS.items() if name in hello.flavours}
    return {**found, "numpy": hello.numpy, "driver": hello.driver}


def _versions() -> Mapping[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("onnxruntime", "onnxruntime-gpu", "onnx", "numpy", "tensorrt", "tensorrt-rtx"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
