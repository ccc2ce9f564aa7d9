"""A plan that is loaded on a GPU."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .base import WorkError
from .bindings import PRODUCTS, explained, logger, made_by, register_plugins
from .cache import Cache
from .cuda import MEMORY_HINT, Cuda
from .slot import Slot, shape_text

_RTX_TAG, _FULL_TAG = b"vtrt", b"ftrt"
_NUMPY = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}


def built_by(data: bytes, module: str) -> str:
    """The version that built an RTX plan: it begins with a tag, says its size in bytes 16 to 23 and the version in the
    next four. A plan of full TensorRT tells only the library that reads it: ``""``.

    Raises :class:`WorkError` for a plan of the other product, what is no plan, and half of one.
    """
    if (data[:4] == _RTX_TAG) != (module == "tensorrt_rtx"):
        if data[:4] == _RTX_TAG or data[:4] == _FULL_TAG:
            text = f"the plan is one of the other product, not of {PRODUCTS[module]}"
            raise WorkError("plan-version", text, "export the model again with the TensorRT of this machine")
        raise WorkError("plan-corrupt", f"the file is no plan of {PRODUCTS[module]}", "export the model again")
    if module != "tensorrt_rtx":
        return ""
    size = int.from_bytes(data[16:24], "little")
    if size != len(data):
        text = f"the plan is damaged: it has {len(data)} bytes and says {size}"
        raise WorkError("plan-corrupt", text, "export the model again")
    return ".".join(str(part) for part in data[24:28])


class Engine:
    """A plan, loaded on a GPU. Slots (a context, a stream and its buffers) are made on demand and kept."""

    def __init__(self, trt: Any, cuda: Cuda, plan: Path, device: int, plugins: Sequence[str] = ()) -> None:
        self.trt, self.cuda, self.gpu = trt, cuda, cuda.gpu(device)
        data = plan.read_bytes()
        product, version = PRODUCTS[trt.__name__], built_by(data, trt.__name__)
        what = f"the plan{f', built by {product} {version},' if version else ''} cannot be loaded by "
        what += f"{product} {trt.__version__}"
        started = time.perf_counter()
        self.log = logger(trt)
        before = len(self.log.errors)
        register_plugins(trt, self.log, plugins)
        self.runtime = made_by(trt.Runtime, self.log, f"{product} cannot start here")
        if hasattr(self.runtime, "get_engine_validity"):
            self._check_validity(data, what)
        self.engine = self.runtime.deserialize_cuda_engine(data)
        if self.engine is None:
            raise explained(self.log.errors[before:], what)
        self.load_ms = (time.perf_counter() - started) * 1e3
        self.config: Any = None
        self.kernels: Any = None
        self.cache: Cache | None = None
        if hasattr(trt, "IRuntimeCache"):
            self.config = self.engine.create_runtime_config()
            strategies = trt.DynamicShapesKernelSpecializationStrategy
            # At the first run of a shape and not beside later ones: what is timed must not change meanwhile.
            self.config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
            self.kernels = self.config.create_runtime_cache()
            self.cache = Cache(trt, self.gpu, hashlib.sha256(data).hexdigest()[:24] + ".runtime")
            self.cache.taken = bool(self.cache.old) and bool(self.kernels.deserialize(self.cache.old))
            if not self.config.set_runtime_cache(self.kernels):
                self.cache = None
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        inputs = [name for name in names if self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.inputs, self.outputs = inputs, [name for name in names if name not in inputs]
        # An operator that changes a cache in place (TensorScatter): both are the same memory on the GPU.
        shared = getattr(self.engine, "get_aliased_input_tensor", None)
        self.aliases = {name: source for name in self.outputs if shared is not None and (source := shared(name))}
        self.slots: list[Slot] = []

    def _check_validity(self, data: bytes, what: str) -> None:
        valid, found = self.runtime.get_engine_validity(data)
        if valid != self.trt.EngineValidity.INVALID:
            return
        diagnostics = self.trt.EngineInvalidityDiagnostics
        capability = self.gpu["compute_capability"]
        served = hasattr(self.trt.ComputeCapability, "SM" + capability.replace(".", ""))
        known = (
            (diagnostics.MALFORMED_ENGINE, "plan-corrupt", "it is damaged", "export the model again"),
            (diagnostics.VERSION_MISMATCH, "plan-version", "the versions differ", "export the model again here"),
            (
                diagnostics.UNSUPPORTED_CC,
                "plan-device",
                f"it was not built for {self.gpu['name']} (compute capability {capability})",
                f"export the model again with --compute-capability {capability}"
                if served
                else "TensorRT for RTX does not serve this GPU: export where it is, with --flavour full",
            ),
            (diagnostics.OLD_CUDA_DRIVER, "driver", "the driver is too old", "update the NVIDIA driver"),
            (diagnostics.OLD_CUDA_RUNTIME, "driver", "the CUDA runtime is too old", "update tensorrt-rtx"),
            (
                diagnostics.CUDA_ERROR,
                "driver",
                "CUDA does not work here",
                "look with nvidia-smi; install the driver again",
            ),
            (diagnostics.INSUFFICIENT_GPU_MEMORY, "memory", "the GPU has not enough memory", MEMORY_HINT),
        )
        for flag, kind, reason, hint in known:
            if int(found) & int(flag):
                raise WorkError(kind, f"{what}: {reason}", hint)

    def new_context(self) -> Any:
        before = len(self.log.errors)
        arguments = [] if self.config is None else [self.config]
        context = self.engine.create_execution_context(*arguments)
        if context is None:
            text = f"no execution context could be made ({len(self.slots)} are there)"
            raise explained(self.log.errors[before:], text)
        return context

    def slot(self, index: int) -> Slot:
        while len(self.slots) <= index:
            self.slots.append(Slot(self))
        return self.slots[index]

    def dtype(self, name: str) -> str:
        member = str(self.engine.get_tensor_dtype(name)).rpartition(".")[2]
        if member not in _NUMPY:
            hint = "export a model whose inputs and outputs are float32 or float16"
            raise WorkError("input", f"{name!r} is {member}, which numpy has no type for", hint)
        return _NUMPY[member]

    def profile_for(self, inputs: Mapping[str, Any]) -> int:
        """The first optimization profile that takes all shapes."""
        problems = []
        for index in range(self.engine.num_optimization_profiles):
            ranges = {name: self._range(name, index) for name in inputs}
            wrong = [name for name, array in inputs.items() if not _within(array.shape, ranges[name])]
            if not wrong:
                return index
            low, high = (shape_text(shape) for shape in ranges[wrong[0]])
            takes = low if low == high else f"{low} to {high}"
            problems.append(f"{wrong[0]!r} is {shape_text(inputs[wrong[0]].shape)}, the plan takes {takes}")
        hint = "give inputs of that size, or export with --profile for more sizes"
        raise WorkError("shape", f"the plan was not built for these shapes: {'; '.join(problems)}", hint)

    def _range(self, name: str, profile: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        fixed = tuple(self.engine.get_tensor_shape(name))
        if all(axis >= 0 for axis in fixed):
            return fixed, fixed
        low, _, high = self.engine.get_tensor_profile_shape(name, profile)
        return tuple(low), tuple(high)


def _within(shape: Sequence[int], limits: tuple[Sequence[int], Sequence[int]]) -> bool:
    low, high = limits
    return len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high))
