"""What an export writes down: the original model's copy, and the manifest but for what each target adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mobilekit.errors import UsageError
from mobilekit.fields import unreadable

if TYPE_CHECKING:
    from mobilekit.bundle import Manifest, NcnnBatch, TensorInfo
    from mobilekit.importers.onnx import SourceModel
    from mobilekit.passes.batch import Batch
    from mobilekit.pipeline.dynamic import DynamicModel
    from mobilekit.pipeline.export import ExportOptions
    from mobilekit.preprocess import Preprocess
    from mobilekit.zoo import ResolvedModel

__all__ = ["batch_in_manifest", "copy_source", "freed", "manifest_of", "preprocess_of"]


def batch_in_manifest(batch: Batch | None) -> NcnnBatch | None:
    """How the manifest says that the ncnn model computes one sample of ``batch``."""
    from mobilekit.bundle import BatchPlace, NcnnBatch

    if batch is None:
        return None
    places = {name: BatchPlace(axis=place.axis, outer=place.outer) for name, place in batch.places.items()}
    return NcnnBatch(size=batch.size, places=places)


def copy_source(source: SourceModel, root: Path) -> dict[str, str]:
    """The model and its data files into ``root/source``; their sha256 by path below ``root``."""
    from mobilekit.bundle import copy_hashed

    hashes: dict[str, str] = {}
    for relative in ("", *source.external_files):
        origin = source.path.parent / relative if relative else source.path
        copy = root / "source" / (relative or _source_name(source))
        copy.parent.mkdir(parents=True, exist_ok=True)
        hashes[copy.relative_to(root).as_posix()] = copy_hashed(origin, copy)
    return hashes


def _source_name(source: SourceModel) -> str:
    return "model.onnx" if "model.onnx" not in source.external_files else "the-model.onnx"


def manifest_of(
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
    source: SourceModel,
    resolved: ResolvedModel,
    options: ExportOptions,
    root: Path,
    hashes: Mapping[str, str],
) -> Manifest:
    """The manifest without targets and files; labels and fixed inputs are written below ``root``.

    ``hashes``: what :func:`copy_source` gave. Raises :class:`UsageError` for labels or a preprocessing that cannot be
    read, or that do not fit the model.
    """
    from mobilekit import __version__
    from mobilekit.bundle import FixedInput, Manifest, ModelInfo
    from mobilekit.passes.precision import allowance
    from mobilekit.tensors import save_npy

    entry = resolved.entry
    info = ModelInfo(
        id=resolved.id,
        file=f"source/{_source_name(source)}",
        sha256=hashes[f"source/{_source_name(source)}"],
        opset=source.opset,
        license=entry.license if entry else "",
        producer=source.producer,
    )
    labels = _read_labels(options.labels or resolved.labels, outputs)
    if labels:
        (root / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    fixed = []
    for index, (name, array) in enumerate(source.fixed.items()):
        (root / "fixed").mkdir(exist_ok=True)
        save_npy(root / "fixed" / f"{index}.npy", array)
        fixed.append(FixedInput(name=name, dtype=str(array.dtype), shape=array.shape, file=f"fixed/{index}.npy"))
    rtol, reason = allowance(source.proto, fake_quant=source.fake_quant)
    return Manifest(
        mobilekit_version=__version__,
        model=info,
        inputs=inputs,
        outputs=outputs,
        fixed=tuple(fixed),
        rtol=rtol or None,
        rtol_reason=reason,
        fake_quant=source.fake_quant,
        preprocess=preprocess_of(resolved, options),
        labels="labels.txt" if labels else None,
        task=entry.task if entry else "classification" if labels else "",
    )


def freed(manifest: Manifest, dynamic: DynamicModel) -> Manifest:
    """With the axes that are free, and the sizes to verify."""
    return replace(
        manifest,
        inputs=tuple(replace(info, free=dynamic.inputs.get(info.name, ())) for info in manifest.inputs),
        outputs=tuple(replace(info, free=dynamic.outputs.get(info.name, ())) for info in manifest.outputs),
        sizes=dynamic.sizes,
    )


def _read_labels(path: Path | None, outputs: tuple[TensorInfo, ...]) -> tuple[str, ...]:
    """Class names, checked against the classes of the first output where it looks like one score a class."""
    if path is None:
        return ()
    try:
        labels = tuple(path.read_text("utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the labels {path}: {unreadable(error)}", hint="a text file, one class a line"
        ) from error
    shape = outputs[0].shape
    if len(outputs) == 1 and len(shape) == 2 and shape[-1] != len(labels):
        raise UsageError(
            f"{path} has {len(labels)} labels, but output {outputs[0].name!r} has {shape[-1]} classes",
            hint="give one label a line, in the order of the classes",
        )
    return labels


def preprocess_of(resolved: ResolvedModel, options: ExportOptions) -> Preprocess | None:
    """How pictures become the model's input: what the user says, else the zoo entry."""
    if options.preprocess:
        return _read_preprocess(options.preprocess)
    return resolved.entry.preprocess if resolved.entry else None


def _read_preprocess(path: Path) -> Preprocess:
    import tomllib

    from pydantic import TypeAdapter, ValidationError

    from mobilekit.fields import wrong_fields
    from mobilekit.preprocess import Preprocess

    said = "NAME = VALUE, one a line, such as mean = [123.7, 116.3, 103.5]; docs/zoo.md lists them"
    try:
        read = tomllib.loads(path.read_text("utf-8"))
        # One number stands for all channels.
        fields = {name: [value] if _is_number(name, value) else value for name, value in read.items()}
        return TypeAdapter(Preprocess).validate_python(fields)
    except OSError as error:
        raise UsageError(
            f"cannot read the preprocessing {path}: {error.strerror}", hint=f"a text file of {said}"
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the preprocessing {path} is not TOML: {error}", hint=said) from error
    except ValidationError as error:
        wrong = "; ".join(wrong_fields(error))
        raise UsageError(f"the preprocessing {path} is not valid: {wrong}", hint=said) from error


def _is_number(name: str, value: object) -> bool:
    return name in ("mean", "std") and isinstance(value, int | float) and not isinstance(value, bool)
