"""A batch on a model of one sample: each sample runs on its own, the outputs are put together again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mobilekit.errors import BundleError, UsageError
from mobilekit.runners.base import Runner, RunnerInfo, RunOptions, RunResult, Watched
from mobilekit.tensors import format_shape

if TYPE_CHECKING:
    from mobilekit.bundle import BatchPlace, Manifest, NcnnBatch, TensorInfo
    from mobilekit.tensors import Array

__all__ = ["BatchRunner", "join", "of_one_sample", "sample_by_sample", "split"]


def sample_by_sample(manifest: Manifest, make: Callable[[Manifest], Runner]) -> Runner:
    """What ``make`` gives for the manifest; for a batch, that of one sample under a :class:`BatchRunner`."""
    batch = manifest.ncnn.batch if manifest.ncnn is not None else None
    return make(manifest) if batch is None else BatchRunner(make(of_one_sample(manifest)), manifest, batch)


def of_one_sample(manifest: Manifest) -> Manifest:
    """The manifest with its inputs and outputs as the ncnn model has them: of one sample."""
    batch = manifest.ncnn.batch if manifest.ncnn is not None else None
    if batch is None:
        return manifest

    def one(info: TensorInfo) -> TensorInfo:
        place = batch.places.get(info.name)
        if place is None:
            return info
        counts = place.outer * batch.size
        if place.axis >= len(info.shape) or info.shape[place.axis] % counts:
            raise BundleError(
                f"{info.name!r} of shape {format_shape(info.shape)} cannot hold a batch of {batch.size} in axis "
                f"{place.axis}",
                hint="the bundle is damaged: export the model again",
            )
        shape = list(info.shape)
        shape[place.axis] //= batch.size
        return replace(info, shape=tuple(shape))

    return replace(manifest, inputs=tuple(map(one, manifest.inputs)), outputs=tuple(map(one, manifest.outputs)))


def split(array: Array, place: BatchPlace | None, size: int) -> list[Array]:
    """Each sample's part of ``array``, the axis being ``size`` times shorter; without a place, the whole each time."""
    if place is None:
        return [array] * size
    shape, axis = array.shape, place.axis
    inner = shape[axis] // (size * place.outer)
    parts = array.reshape(*shape[:axis], place.outer, size, inner, *shape[axis + 1 :])
    one = (*shape[:axis], place.outer * inner, *shape[axis + 1 :])
    return [np.take(parts, number, axis=axis + 1).reshape(one) for number in range(size)]


def join(parts: list[Array], place: BatchPlace | None) -> Array:
    """The opposite of :func:`split`."""
    if place is None:
        return parts[0]
    shape, axis = parts[0].shape, place.axis
    split_up = (*shape[:axis], place.outer, shape[axis] // place.outer, *shape[axis + 1 :])
    together = np.stack([part.reshape(split_up) for part in parts], axis=axis + 1)
    return together.reshape(*shape[:axis], shape[axis] * len(parts), *shape[axis + 1 :])


class BatchRunner:
    """Implements :class:`mobilekit.runners.base.Runner`: feeds ``inner``, a runner of one sample, ``batch.size`` times.

    A latency is that of the whole batch: the sum over its samples.
    """

    def __init__(self, inner: Runner, manifest: Manifest, batch: NcnnBatch) -> None:
        self._inner = inner
        self._inputs = {info.name: info for info in manifest.inputs}
        self._outputs = [info.name for info in manifest.outputs]
        self._batch = batch

    def __enter__(self) -> BatchRunner:
        self._inner.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._inner.__exit__(*exc)

    def info(self) -> RunnerInfo:
        return self._inner.info()

    def state(self) -> Mapping[str, object]:
        """Implements :meth:`mobilekit.runners.base.Watched.state`."""
        return self._inner.state() if isinstance(self._inner, Watched) else {}

    def run(self, inputs: Mapping[str, Array], options: RunOptions) -> RunResult:
        """Compute all outputs of the batch. Raises :class:`UsageError` for a misshapen one, and what the inner does."""
        places, size = self._batch.places, self._batch.size
        for name, array in inputs.items():
            info = self._inputs.get(name)
            if info is not None and tuple(array.shape) != info.shape:
                raise UsageError(
                    f"input {name!r} has shape {format_shape(tuple(array.shape))}, the model was exported for "
                    f"{format_shape(info.shape)}",
                    hint="export again with --input-shape, or give an input of that shape",
                )
        parts = {name: split(array, places.get(name), size) for name, array in inputs.items()}
        results: list[RunResult] = []
        for number in range(size):
            # One sample warms the model up for all.
            now = options if number == 0 else replace(options, warmup=0)
            results.append(self._inner.run({name: part[number] for name, part in parts.items()}, now))
        first = results[0]
        return replace(
            first,
            outputs={
                name: join([result.outputs[name] for result in results], places.get(name)) for name in self._outputs
            },
            latencies_ns=tuple(map(sum, zip(*(result.latencies_ns for result in results), strict=True))),
        )
