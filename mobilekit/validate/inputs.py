"""What the model is fed in a validation: seeded tensors that look like its real inputs, or the user's own files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import UsageError
from mobilekit.paths import readable
from mobilekit.tensors import format_shape, load_npy

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy as np
    import numpy.typing as npt

    from mobilekit.bundle import Manifest, TensorInfo
    from mobilekit.preprocess import Preprocess
    from mobilekit.tensors import Array

    Floats: TypeAlias = "npt.NDArray[np.float64]"

__all__ = [
    "PICTURE_SUFFIXES",
    "Sample",
    "file_samples",
    "is_litter",
    "picture_input",
    "sample_names",
    "samples_of",
    "seeded_inputs",
    "seeded_samples",
]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".tif", ".tiff")
_SMALL_INT = 8
_LITTER = ("__macosx", "@eadir", "desktop.ini", "ehthumbs.db", "icon\r", "thumbs.db")


@dataclass(frozen=True, slots=True)
class Sample:
    """One set of inputs, by ONNX name; ``name`` says where it came from ("seed 0", "cat.png")."""

    name: str
    tensors: dict[str, Array]


def seeded_inputs(specs: Sequence[TensorInfo], *, seed: int, preprocess: Preprocess | None = None) -> dict[str, Array]:
    """A tensor for every input, the same for the same seed, name, shape and dtype, whatever the order.

    * the picture input that ``preprocess`` describes: pixels with the 1/f spectrum of natural pictures, 0 to 255,
      with a black and a white area, through its scale, mean and std;
    * other floating-point inputs: standard normal, in sounds with a quiet stretch and one of zeros
      (:func:`mobilekit.validate.synthetic.is_sound`); ``uint8``: such pixels; ``int8``: the whole range;
    * other integers: 0 to 7 (ids and indices of nearly any model), less where their ``limit`` is (0 or 1 of a
      mask); 0 or 1 where the name says ``mask``, of whatever type; ``bool``: even odds.

    Raises :class:`UsageError` for a dtype that no rule covers.
    """
    picture = picture_input(specs, preprocess)
    tensors: dict[str, Array] = {}
    for spec in specs:
        rng = _generator(seed, spec.name)
        if preprocess is not None and spec.name == picture:
            tensors[spec.name] = _normalised_pixels(rng, spec, preprocess)
        else:
            tensors[spec.name] = _random(rng, spec)
    return tensors


def seeded_samples(
    specs: Sequence[TensorInfo],
    *,
    seed: int,
    count: int,
    preprocess: Preprocess | None = None,
    sizes: Sequence[Mapping[str, tuple[int, ...]]] = (),
) -> Iterator[Sample]:
    """``count`` samples of :func:`seeded_inputs` with the seeds ``seed``, ``seed + 1``, and so on.

    ``sizes`` holds input shapes by name, for inputs with free axes: the samples take them in turn.
    """
    for index, number in enumerate(range(seed, seed + count)):
        shapes = sizes[index % len(sizes)] if sizes else {}
        chosen = [replace(spec, shape=shapes.get(spec.name, spec.shape)) for spec in specs]
        free = [format_shape(spec.shape) for spec in chosen if spec.free]
        name = f"seed {number}" + (f" ({', '.join(free)})" if free else "")
        yield Sample(name, seeded_inputs(chosen, seed=number, preprocess=preprocess))


def samples_of(manifest: Manifest, folder: Path | None, *, seed: int, count: int) -> Iterator[Sample]:
    """The user's own from ``folder``, else ``count`` seeded ones, as ``manifest`` describes the inputs."""
    if folder is not None:
        return file_samples(folder, manifest.inputs, preprocess=manifest.preprocess)
    return seeded_samples(manifest.inputs, seed=seed, count=count, preprocess=manifest.preprocess, sizes=manifest.sizes)


def picture_input(specs: Iterable[TensorInfo], preprocess: Preprocess | None) -> str | None:
    """Name of the input that ``preprocess`` is for: the one it names, else the first that could be a picture."""
    if preprocess is None:
        return None
    names = [spec.name for spec in specs if len(spec.shape) in (3, 4)]
    if preprocess.input:
        return preprocess.input if preprocess.input in names else None
    return names[0] if names else None


def _generator(seed: int, name: str) -> np.random.Generator:
    import numpy as np

    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return np.random.Generator(
        np.random.PCG64([abs(seed), int(seed < 0), *np.frombuffer(digest, dtype="<u4").tolist()])
    )


def _is_mask(spec: TensorInfo) -> bool:
    return "mask" in spec.name.lower()


def _random(rng: np.random.Generator, spec: TensorInfo) -> Array:
    import numpy as np

    from mobilekit.validate.synthetic import is_sound, noise, pixels, with_silence

    dtype = np.dtype(spec.dtype)
    if np.issubdtype(dtype, np.floating):
        if _is_mask(spec):
            return rng.integers(0, 2, spec.shape).astype(dtype)
        return (with_silence if is_sound(spec) else noise)(rng, spec.shape).astype(dtype)
    if dtype == np.bool_:
        return rng.integers(0, 2, spec.shape).astype(dtype)
    if dtype == np.uint8 and len(spec.shape) == 4:
        channels_last = spec.shape[3] in (1, 3, 4) and spec.shape[1] not in (1, 3, 4)
        return pixels(rng, spec.shape, channels_last=channels_last).astype(np.uint8)
    if dtype in (np.uint8, np.int8):
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, spec.shape, endpoint=True).astype(dtype)
    if np.issubdtype(dtype, np.integer):
        # A mask says yes or no; an id has to exist in every table that it points into.
        high = 2 if _is_mask(spec) else _SMALL_INT
        return rng.integers(0, min(high, spec.limit or high), spec.shape).astype(dtype)
    raise UsageError(
        f"input {spec.name!r} has the element type {spec.dtype}, for which no inputs can be made up",
        hint="give some with --inputs DIR, or export with --no-verify",
    )


def _normalised_pixels(rng: np.random.Generator, spec: TensorInfo, preprocess: Preprocess) -> Array:
    import numpy as np

    from mobilekit.validate.synthetic import pixels

    channels_last = preprocess.layout == "NHWC"
    shape = spec.shape if len(spec.shape) == 4 else (1, *spec.shape)
    values = pixels(rng, shape, channels_last=channels_last)
    channels = shape[3] if channels_last else shape[1]
    view = (1, 1, 1, channels) if channels_last else (1, channels, 1, 1)
    mean = _per_channel(preprocess.mean, channels).reshape(view)
    std = _per_channel(preprocess.std, channels).reshape(view)
    value = ((values * preprocess.scale - mean) / std).reshape(spec.shape)
    dtype = np.dtype(spec.dtype)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        value = np.clip(np.rint(value), limits.min, limits.max)
    return value.astype(dtype)


def _per_channel(values: tuple[float, ...], channels: int) -> Floats:
    import numpy as np

    return np.resize(np.asarray(values, dtype=np.float64), channels)


def file_samples(
    folder: Path, specs: Sequence[TensorInfo], *, preprocess: Preprocess | None = None, apart: Path | None = None
) -> Iterator[Sample]:
    """The user's inputs under ``folder``, in the order of their names; each is read when its turn comes.

    A model with one input: every picture (read as ``preprocess`` says) and every ``.npy`` file is a sample. A
    model with several: every subfolder is a sample and holds ``NAME.npy`` for each input, ``/`` and ``:`` of a
    tensor's name written as ``_``; a folder without subfolders is itself the one sample. Hidden files
    and :func:`is_litter` are skipped, and ``apart``, which may lie in the folder and is no input.

    Raises :class:`UsageError` for no folder, nothing in it, a file that is neither, cannot be read, or whose shape
    or dtype does not fit (checked file by file).
    """
    paths = _sample_paths(folder, specs, apart)
    if len(specs) != 1:
        return (Sample(readable(path.name), _npy_set(path, specs)) for path in paths)
    return (Sample(readable(path.name), {specs[0].name: _read(path, specs[0], preprocess)}) for path in paths)


def sample_names(folder: Path, specs: Sequence[TensorInfo], *, apart: Path | None = None) -> list[str]:
    """The names of :func:`file_samples`, none of which is read. Raises :class:`UsageError` as that does for the
    folder."""
    return [readable(path.name) for path in _sample_paths(folder, specs, apart)]


def _sample_paths(folder: Path, specs: Sequence[TensorInfo], apart: Path | None) -> list[Path]:
    """The files, or the subfolders, that are a sample each."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", hint="--inputs takes a folder of pictures or .npy files")
    entries = sorted(path for path in folder.iterdir() if not is_litter(path.name))
    if len(specs) != 1:
        return [path for path in entries if path.is_dir()] or [folder]
    files = [path for path in entries if not path.is_dir() and not (apart and _same(path, apart))]
    broken = [path.name for path in files if not path.is_file()]
    if broken:
        raise UsageError(
            f"{folder} holds what is no file: {', '.join(broken[:5])}",
            hint="links that lead nowhere, pipes and sockets cannot be read: remove them",
        )
    known = [path for path in files if path.suffix.lower() == ".npy" or path.suffix.lower() in PICTURE_SUFFIXES]
    strange = [path.name for path in files if path not in known]
    if strange:
        raise UsageError(
            f"{folder} holds files that are neither pictures nor .npy: {', '.join(strange[:5])}",
            hint="leave only inputs in the folder",
        )
    if not known:
        below = any(path.is_dir() for path in entries)
        hint = "its subfolders are not looked into" if below else "put at least one there"
        raise UsageError(f"{folder} holds no pictures and no .npy files", hint=hint)
    return known


def _same(one: Path, other: Path) -> bool:
    return one.name == other.name and one.resolve() == other.resolve()


def is_litter(name: str) -> bool:
    """Hidden files, and what Windows, macOS and file servers leave in folders of pictures by themselves."""
    return name.startswith(".") or name.lower() in _LITTER


def _npy_set(folder: Path, specs: Sequence[TensorInfo]) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    for spec in specs:
        path = folder / (spec.name.replace("/", "_").replace(":", "_") + ".npy")
        if not path.is_file():
            raise UsageError(
                f"{folder} lacks {path.name} for the input {spec.name!r}",
                hint="a model with several inputs takes a folder with one NAME.npy for each of them",
            )
        tensors[spec.name] = _fit(load_npy(path), spec, path)
    return tensors


def _read(path: Path, spec: TensorInfo, preprocess: Preprocess | None) -> Array:
    if path.suffix.lower() == ".npy":
        return _fit(load_npy(path), spec, path)
    if preprocess is None:
        raise UsageError(
            f"{path} is a picture, and the bundle does not say how a picture becomes the input {spec.name!r}",
            hint="give .npy files of the model's input shape, or export a zoo model, which carries its preprocessing",
        )
    from mobilekit.preprocess import load_picture

    return _fit(load_picture(path, preprocess, spec.shape, spec.dtype), spec, path)


def _reshaping(shape: tuple[int, ...], spec: TensorInfo) -> str:
    """What makes an array of ``shape`` fit: the slips that are made most, else another array."""
    if spec.misfit((1, *shape)) is None:
        return "it lacks the batch axis: numpy.save(path, array[None])"
    if len(shape) == 4:
        for order in ((0, 3, 1, 2), (0, 2, 3, 1)):
            if spec.misfit(tuple(shape[axis] for axis in order)) is None:
                return f"its axes are in another order: numpy.save(path, array.transpose{order})"
    if len(shape) == len(spec.shape) and shape[0] > 1 and spec.misfit((1, *shape[1:])) is None:
        return "a file is one sample: write one for each of its batch"
    return "write an array of that shape, or export the model again with --input-shape"


def _fit(array: Array, spec: TensorInfo, path: Path) -> Array:
    """The array as the model takes it; a float of another width is converted, nothing else is."""
    import numpy as np

    wanted = np.dtype(spec.dtype)
    if spec.misfit(array.shape) is not None:
        has, takes = format_shape(array.shape), spec.describe()
        raise UsageError(
            f"{path} has the shape {has}, the input {spec.name!r} takes {takes}", hint=_reshaping(array.shape, spec)
        )
    if array.dtype != wanted:
        if not (np.issubdtype(array.dtype, np.floating) and np.issubdtype(wanted, np.floating)):
            raise UsageError(
                f"{path} holds {array.dtype}, the input {spec.name!r} takes {wanted}",
                hint=f"write it with numpy.save(path, array.astype({wanted.name!r}))",
            )
        array = array.astype(wanted)
    if np.issubdtype(wanted, np.floating) and not np.isfinite(array).all():
        raise UsageError(f"{path} holds NaN or infinite values", hint="give finite inputs")
    return np.ascontiguousarray(array)
