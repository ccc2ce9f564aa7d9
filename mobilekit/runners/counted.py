"""A bundle's ncnn model under qemu with a counter: what one inference costs on an emulated CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mobilekit.device.harness.locate import find_harness
from mobilekit.device.virtual.instructions import Counted, count_instructions
from mobilekit.errors import UsageError
from mobilekit.progress import SILENT, Progress
from mobilekit.runners.base import RunOptions
from mobilekit.runners.batch import of_one_sample, split
from mobilekit.runners.blobs import extracted, input_blobs
from mobilekit.runners.harness import load_options

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle
    from mobilekit.tensors import Array

__all__ = ["count_bundle"]


def count_bundle(
    bundle: Bundle, inputs: Mapping[str, Array], options: RunOptions, *, cpu: str = "", progress: Progress = SILENT
) -> Counted:
    """Instructions of one inference on ``inputs`` (by ONNX name), on one thread; of a batch, of its first sample.

    ``cpu``: qemu's ``-cpu``. Raises :class:`UsageError` where the bundle has no ncnn model or the inputs do not fit,
    and what :func:`~mobilekit.device.virtual.instructions.count_instructions` does.
    """
    ncnn = bundle.manifest.ncnn
    if ncnn is None:
        raise UsageError("this bundle holds no ncnn model", hint="export it with --target ncnn")
    if ncnn.batch is not None:
        places, size = ncnn.batch.places, ncnn.batch.size
        inputs = {name: split(array, places.get(name), size)[0] for name, array in inputs.items()}
    return count_instructions(
        find_harness("arm64-v8a", progress, static_only=True),
        bundle.root / ncnn.param,
        bundle.root / ncnn.bin,
        input_blobs(inputs, of_one_sample(bundle.manifest)),
        extracted(ncnn.outputs),
        load_options(options),
        cpu=cpu,
        timeout_s=options.timeout_s,
    )
