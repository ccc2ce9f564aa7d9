"""``mobilekit parity``: the same pictures prepared by Pillow, as by OpenCV and by ncnn on the device, and what the
differences do to the model, apart from the model's own error."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobilekit.errors import BundleError, UsageError
from mobilekit.pipeline.place import open_pixels
from mobilekit.pipeline.reference import ONNXRUNTIME, open_reference
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunOptions

if TYPE_CHECKING:
    from mobilekit.bundle import Manifest, TensorInfo
    from mobilekit.device.harness.pixels import PixelRequest
    from mobilekit.preprocess import Preprocess
    from mobilekit.report.parity import (
        CauseReport,
        Effect,
        PairReport,
        ParityReport,
        PathName,
        PixelDifference,
        SamplePair,
    )
    from mobilekit.runners.base import PixelRunner
    from mobilekit.tensors import Array, NamedTensors
    from mobilekit.validate.parity import Cause, Difference
    from mobilekit.validate.task import TaskMetric

__all__ = ["ParityOptions", "parity_of_bundle"]

Seen = Callable[[str, "Mapping[PathName, Array]", "tuple[PathName, PathName]"], None]

_EXPLAINED_PICTURES = 3
_METRICS = {"classification": "top1", "detection": "detect", "recognition": "text"}


@dataclass(frozen=True, slots=True)
class ParityOptions:
    """``inputs``: a folder of pictures. ``app``: a folder with the tensor that an app made of each, ``cat.npy`` for
    ``cat.jpg``. ``metrics``: as of ``validate``; without one, that of the model's task. The rest as in
    :class:`~mobilekit.pipeline.validate.ValidateOptions`."""

    inputs: Path | None = None
    app: Path | None = None
    metrics: tuple[str, ...] = ()
    seed: int = 0
    threads: int = 0
    precision: Literal["fp32", "fp16"] | None = None
    timeout_s: float = 300.0
    wait_s: float = 600.0


def parity_of_bundle(
    bundle: str | Path,
    device: str | None = None,
    options: ParityOptions | None = None,
    progress: Progress = SILENT,
    seen: Seen | None = None,
) -> ParityReport:
    """Prepare every picture of ``options.inputs`` in each way, and run the model on each tensor.

    ``device`` as :func:`~mobilekit.pipeline.place.open_pixels` takes it. ``seen`` is called with each picture's name,
    its pixels by the way that prepared them, and the two ways that the report is about.

    Raises :class:`UsageError` where there are no pictures, the bundle does not say how they become an input, or no
    input takes one; and what opening the bundle and the device raise.
    """
    from mobilekit import __version__
    from mobilekit.bundle import open_bundle
    from mobilekit.report.parity import ParityReport, sentence
    from mobilekit.runners.batch import of_one_sample
    from mobilekit.validate.inputs import seeded_inputs
    from mobilekit.validate.parity import Explainer

    options = options or ParityOptions()
    opened = open_bundle(Path(bundle))
    if opened.manifest.ncnn is None:
        raise BundleError(f"{opened.root} holds no ncnn model", hint="export it with --target ncnn")
    manifest = of_one_sample(opened.manifest)
    spec, info, size = _picture_input(manifest)
    files = _pictures(options.inputs)
    made_by_app = None if options.app is None else _of_app(options.app, files, info)
    arithmetic = options.precision or opened.manifest.ncnn.precision
    others = {
        name: array
        for name, array in seeded_inputs(manifest.inputs, seed=options.seed, preprocess=spec).items()
        if name != info.name
    }
    found = _Found(spec, info, _metrics(options.metrics, manifest, size), strict=bool(options.metrics))
    explainers: dict[PathName, Explainer] = {}
    subject: tuple[PathName, PathName] = ("pillow", "app" if made_by_app is not None else "ncnn")
    with (
        open_reference(opened, ONNXRUNTIME, progress) as reference,
        open_pixels(opened, device, wait_s=options.wait_s, progress=progress) as (runner, facts),
    ):
        run = RunOptions(
            threads=options.threads or int(facts.virtual), fp16=arithmetic == "fp16", timeout_s=options.timeout_s
        )
        with progress.task("preparing pictures in every way", len(files)) as bar:
            for path in files:
                pixels, tensors = _prepared(path, spec, info, size, runner, run)
                if made_by_app is not None:
                    tensors["app"] = made_by_app(path)
                for way in ("ncnn", "app"):
                    if way in tensors and len(found.samples) < _EXPLAINED_PICTURES:
                        explainers.setdefault(way, Explainer(spec, info.shape)).add(pixels, tensors[way])
                answers = {
                    way: reference.answer({**others, info.name: tensor}, options.timeout_s)
                    for way, tensor in tensors.items()
                }
                there = runner.run({**others, info.name: tensors["pillow"]}, run).outputs
                if seen is not None:
                    seen(path.name, {way: _shown(t, spec, info) for way, t in tensors.items()}, subject)
                found.add(path.name, (pixels.shape[1], pixels.shape[0]), tensors, answers, there)
                bar.advance()
        against = reference.facts
    causes = {way: _cause(explainer.cause()) for way, explainer in explainers.items()}
    pairs = found.pairs(causes)
    pair = next(pair for pair in pairs if (pair.first, pair.second) == subject)
    effects, agreement, changed = found.of_model()
    larger, told = sentence(pair, effects, changed, len(files))
    return ParityReport(
        mobilekit_version=__version__,
        model=manifest.model.id,
        model_sha256=manifest.model.sha256,
        device=facts,
        reference=against,
        precision=arithmetic,
        input=info.name,
        preprocess=_described(spec, info),
        samples=len(files),
        pairs=pairs,
        subject=subject,
        model_effects=effects,
        model_agreement=agreement,
        model_changed=changed,
        larger=larger,
        sentence=told,
    )


def _prepared(
    path: Path, spec: Preprocess, info: TensorInfo, size: tuple[int, int], runner: PixelRunner, run: RunOptions
) -> tuple[Array, dict[PathName, Array]]:
    """A picture's pixels, ``(H, W, 3) uint8``, and the model's input that Pillow, OpenCV and ncnn make of them."""
    from mobilekit.preprocess import canvas_of, read_pixels, tensor_of
    from mobilekit.validate.parity import opencv_canvas

    height, width = size
    pixels = read_pixels(path)
    own = canvas_of(pixels, spec, height, width, str(path))
    canvas = opencv_canvas(pixels, spec, height, width)
    if min(pixels.shape[:2]) < 2:
        raise UsageError(
            f"{path} is {pixels.shape[1]}x{pixels.shape[0]}, and ncnn resizes none so narrow", hint="leave it out"
        )
    planes = runner.pixels(pixel_request(pixels, spec, height, width), run).tensor
    return pixels, {
        "pillow": tensor_of(own, spec, info.shape, info.dtype),
        "opencv": tensor_of(canvas, spec, info.shape, info.dtype),
        "ncnn": _of_planes(planes, spec, info),
    }


def pixel_request(pixels: Array, spec: Preprocess, height: int, width: int) -> PixelRequest:
    """What an app would ask of ncnn for ``spec``: ncnn subtracts and multiplies, pixels being 0 to 255, so
    ``(p * scale - mean) / std`` is ``(p - mean / scale) * (scale / std)``. ncnn has a bilinear filter only."""
    from mobilekit.device.harness.pixels import PixelRequest
    from mobilekit.preprocess import placement

    if spec.scale == 0:
        raise UsageError("the preprocessing multiplies every pixel by 0", hint="correct its scale, and export again")
    place = placement(spec, (pixels.shape[1], pixels.shape[0]), height, width)
    channels = 1 if spec.color == "GRAY" else 3
    mean, std = ([values[i % len(values)] for i in range(channels)] for values in (spec.mean, spec.std))
    return PixelRequest(
        pixels=pixels,
        resized=(place.width, place.height),
        size=(width, height),
        place=(place.left, place.top),
        order=spec.color,
        pad=spec.pad_value,
        mean=tuple(value / spec.scale for value in mean),
        norm=tuple(spec.scale / value for value in std),
    )


def _of_planes(planes: Array, spec: Preprocess, info: TensorInfo) -> Array:
    """ncnn's (C, H, W) float32 as the model takes it."""
    import numpy as np

    arranged = planes if spec.layout == "NCHW" else planes.transpose(1, 2, 0)
    kind = np.dtype(info.dtype)
    if kind.kind != "f":
        limits = np.iinfo(kind)
        arranged = np.clip(np.rint(arranged.astype(np.float64)), limits.min, limits.max)
    made: Array = np.ascontiguousarray(arranged.reshape(info.shape), dtype=kind)
    return made


def _shown(tensor: Array, spec: Preprocess, info: TensorInfo) -> Array:
    """Pixels of 0 to 255, RGB or grey, whatever the model's order."""
    from mobilekit.validate.parity import levels_of

    levels: Array = levels_of(tensor, spec, info.shape)
    return levels[:, :, ::-1] if spec.color == "BGR" else levels


def _picture_input(manifest: Manifest) -> tuple[Preprocess, TensorInfo, tuple[int, int]]:
    """The preprocessing, the input that it is for, and that one's height and width."""
    from mobilekit.preprocess import picture_size
    from mobilekit.tensors import format_shape
    from mobilekit.validate.inputs import picture_input

    if not any(len(info.shape) in (3, 4) for info in manifest.inputs):
        shown = ", ".join(f"{info.name} {format_shape(info.shape)}" for info in manifest.inputs)
        raise UsageError(f"no input of this model takes a picture ({shown})", hint="parity is for models of pictures")
    spec = manifest.preprocess
    if spec is None:
        raise UsageError(
            "the bundle does not say how a picture becomes the model's input",
            hint="export it with --preprocess FILE.toml; most zoo models bring their own",
        )
    name = picture_input(manifest.inputs, spec)
    info = next((info for info in manifest.inputs if info.name == name), None)
    if info is None:
        raise UsageError(f"the preprocessing is for an input {spec.input!r}, which takes no picture")
    _, height, width = picture_size(spec, info.shape)
    return spec, info, (height, width)


def _pictures(folder: Path | None) -> list[Path]:
    from mobilekit.validate.inputs import PICTURE_SUFFIXES, is_litter

    if folder is None:
        raise UsageError("parity needs pictures", hint="--inputs DIR with some that the model is for")
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", hint="--inputs takes a folder of pictures")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())
    files = [path for path in files if not is_litter(path.name)]
    if not files:
        raise UsageError(
            f"{folder} holds no pictures", hint="tensors (.npy) do not tell how they were made: give the pictures"
        )
    return files


def _of_app(folder: Path, files: Sequence[Path], info: TensorInfo) -> Callable[[Path], Array]:
    """Reads the app's tensor of a picture; all are looked for, first."""
    import numpy as np

    from mobilekit.tensors import format_shape, load_npy

    lacking = [path.name for path in files if not (folder / f"{path.stem}.npy").is_file()]
    if lacking:
        raise UsageError(
            f"{folder} lacks a tensor for {', '.join(lacking[:5])}",
            hint=f"write what the app feeds the model for it as {Path(lacking[0]).stem}.npy",
        )

    def read(path: Path) -> Array:
        file = folder / f"{path.stem}.npy"
        array = load_npy(file)
        if array.size != np.prod(info.shape) or tuple(n for n in array.shape if n > 1) != tuple(
            n for n in info.shape if n > 1
        ):
            raise UsageError(
                f"{file} has the shape {format_shape(array.shape)}, the input {info.name!r} takes {info.describe()}",
                hint="dump the tensor in the model's own layout; what lies in memory otherwise is then told",
            )
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise UsageError(f"{file} holds {array.dtype} values that are no finite numbers")
        made: Array = np.ascontiguousarray(array.reshape(info.shape), dtype=info.dtype)
        return made

    return read


def _metrics(asked: Sequence[str], manifest: Manifest, size: tuple[int, int]) -> tuple[TaskMetric, ...]:
    from mobilekit.validate.task import parse_metric

    names = asked or [_METRICS.get(manifest.task, "top1")]
    return tuple(parse_metric(name, size) for name in names)


def _described(spec: Preprocess, info: TensorInfo) -> str:
    from mobilekit.tensors import format_shape

    def values(numbers: Sequence[float]) -> str:
        return ", ".join(f"{number:g}" for number in numbers)

    how = f"{spec.resize}{f' {spec.resize_to}' if spec.resize_to else ''}, {spec.interpolation}"
    return (
        f"{spec.color} {spec.layout} {format_shape(info.shape)}, {how}, scale {spec.scale:g}, "
        f"mean {values(spec.mean)}, std {values(spec.std)}"
    )


@dataclass
class _Found:
    """What the pictures gave so far. ``strict``: a metric that the user asked for must suit."""

    spec: Preprocess
    info: TensorInfo
    metrics: tuple[TaskMetric, ...]
    strict: bool
    samples: list[str] = field(default_factory=list)
    by_pair: dict[tuple[PathName, PathName], list[SamplePair]] = field(default_factory=dict)
    model: list[tuple[str, dict[str, float], dict[str, float]]] = field(default_factory=list)

    def add(
        self,
        name: str,
        size: tuple[int, int],
        tensors: Mapping[PathName, Array],
        answers: Mapping[PathName, NamedTensors],
        there: NamedTensors,
    ) -> None:
        from mobilekit.report.parity import SamplePair
        from mobilekit.validate.parity import difference

        for first, second in itertools.combinations(tensors, 2):
            apart = difference(tensors[first], tensors[second], self.spec, self.info.shape)
            one = SamplePair(
                sample=name,
                width=size[0],
                height=size[1],
                difference=_pixel_difference(apart, self.spec),
                effects=_moved(answers[second], answers[first]),
                agreement=self._agreement(answers[second], answers[first]),
            )
            self.by_pair.setdefault((first, second), []).append(one)
        own = answers["pillow"]
        self.model.append((name, _moved(there, own), self._agreement(there, own)))
        self.samples.append(name)

    def _agreement(self, actual: NamedTensors, expected: NamedTensors) -> dict[str, float]:
        try:
            return {metric.name: metric(actual, expected) for metric in self.metrics}
        except UsageError:
            if self.strict:
                raise
            # The task's own metric does not suit these outputs; nobody asked for it.
            self.metrics = ()
            return {}

    def pairs(self, causes: Mapping[PathName, CauseReport]) -> tuple[PairReport, ...]:
        from mobilekit.report.parity import PairReport

        made = []
        for (first, second), samples in self.by_pair.items():
            worst = max(samples, key=lambda one: one.difference.max_levels)
            agreement, changed = _agreed([one.agreement for one in samples])
            made.append(
                PairReport(
                    first=first,
                    second=second,
                    max_levels=worst.difference.max_levels,
                    mean_levels=statistics.fmean(one.difference.mean_levels for one in samples),
                    relative_l2=max(one.difference.relative_l2 for one in samples),
                    worst_sample=worst.sample,
                    worst=worst.difference,
                    effects=_effects([(one.sample, one.effects) for one in samples]),
                    agreement=agreement,
                    changed=changed,
                    cause=causes.get(second) if first == "pillow" else None,
                    samples=tuple(samples),
                )
            )
        return tuple(made)

    def of_model(self) -> tuple[tuple[Effect, ...], dict[str, float], dict[str, int]]:
        effects = _effects([(name, moved) for name, moved, _ in self.model])
        return effects, *_agreed([agreement for *_, agreement in self.model])


def _pixel_difference(apart: Difference, spec: Preprocess) -> PixelDifference:
    from mobilekit.report.parity import PixelDifference

    channel = "grey" if spec.color == "GRAY" else spec.color[apart.channel]
    return PixelDifference(**{**asdict(apart), "channel": channel})


def _moved(actual: NamedTensors, expected: NamedTensors) -> dict[str, float]:
    """Relative L2 of each output that says something."""
    from mobilekit.metrics.tensors import compare

    errors = {name: compare(actual[name], expected[name]) for name in expected}
    return {name: error.relative_l2 for name, error in errors.items() if error.evidence}


def _effects(found: Sequence[tuple[str, dict[str, float]]]) -> tuple[Effect, ...]:
    from mobilekit.report.parity import Effect

    names = dict.fromkeys(name for _, moved in found for name in moved)
    made = []
    for name in names:
        values = [(moved[name], sample) for sample, moved in found if name in moved]
        top, sample = max(values)
        middle = statistics.median(value for value, _ in values)
        made.append(Effect(output=name, median=middle, largest=top, worst_sample=sample))
    return tuple(made)


def _agreed(found: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, int]]:
    """Each metric's mean, and how many pictures are below 1; of those that every picture has."""
    names = [name for name in found[0] if all(name in one for one in found)]
    means = {name: statistics.fmean(one[name] for one in found) for name in names}
    return means, {name: sum(one[name] < 1 - 1e-9 for one in found) for name in names}


def _cause(cause: Cause) -> CauseReport:
    from mobilekit.report.parity import CauseReport

    if not cause.known:
        text = f"none of the usual causes explains how the pixels differ ({cause.levels:.2g} grey levels RMS)"
    elif not cause.deviations:
        text = f"the pixels are prepared alike but for rounding ({cause.levels:.2g} grey levels RMS)"
    else:
        text = (
            f"most likely cause of the pixels' difference: {' and '.join(cause.deviations)}, which explains "
            f"{cause.explained:.1%} of it ({cause.levels:.3g} grey levels RMS, {cause.left_levels:.2g} left)"
        )
    return CauseReport(**asdict(cause), text=text)
