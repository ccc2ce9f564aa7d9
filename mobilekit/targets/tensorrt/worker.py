"""Everything that touches TensorRT, CUDA or a GPU, in one file that needs only Python 3.8, numpy and TensorRT.

It is copied to other machines, so it imports nothing of mobilekit. TensorRT may abort, and a build after a failed one
may be wrong: it always runs in a process of its own. ::

    python worker.py --hello        one JSON line: protocol, versions, GPUs
    python worker.py FOLDER         do the job in FOLDER; exit code 0 if and only if FOLDER/result.json is whole
    python worker.py --serve [MODULE]
                                    the same for each folder named by a line on stdin, answered by a line
                                    {"job": FOLDER}; what was loaded stays loaded. Ends with stdin, even in the middle.
                                    MODULE is imported while no job has come yet

``FOLDER/job.json`` has ``protocol``, ``verb``, ``module`` ("tensorrt" or "tensorrt_rtx") and the keyword arguments of
the function of that name below (:func:`check`, :func:`build`, :func:`run`); files are named relative to the folder.
``result.json`` appears last: what the function returns, or ``{"error": {"kind", "message", "hint"}}``. Progress is JSON
lines ``{"step": text}`` on stderr, where native libraries write too.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import importlib
import importlib.util
import json
import os
import platform
import queue
import re
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PROTOCOL = 1

MODULES = {"rtx": "tensorrt_rtx", "full": "tensorrt"}
_PRODUCTS = {"tensorrt_rtx": "TensorRT for RTX", "tensorrt": "TensorRT"}
_RTX_TAG, _FULL_TAG = b"vtrt", b"ftrt"
_NODE_IN_ERROR = re.compile(r"node (?:\d+ )?(?:with name: |\[)?\"?([^\"\]]+?)\"?(?: and operator: (\w+)|\])")
_NUMPY = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
_CACHES = 64
_WARM_UP_WINDOW, _WARM_UP_MOST, _WARM_UP_S, _STABLE = 10, 500, 5.0, 0.05


class WorkError(Exception):
    """Why a job was not done. ``kind``: no-gpu, no-tensorrt, driver, memory, cuda, plan-version, plan-device,
    plan-corrupt, shape, input, build, storage, protocol or internal."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind, self.message, self.hint = kind, message, hint


def say(step: str) -> None:
    sys.stderr.write(json.dumps({"step": step}) + "\n")
    sys.stderr.flush()


# CUDA's driver API -------------------------------------------------------------------------------------------------


class Cuda:
    """``cuda("cuMemAlloc_v2", ...)`` calls the driver and raises :class:`WorkError` where it does not succeed."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise WorkError(
                "no-gpu",
                "this machine has no NVIDIA driver (no libcuda.so.1)",
                "run it where there is an NVIDIA GPU, or install its driver",
            ) from None
        code = self._library.cuInit(0)
        if code:
            raise WorkError(
                "no-gpu", f"the NVIDIA driver finds no usable GPU: {self._text(code)}", "look with nvidia-smi"
            )

    def __call__(self, function: str, *arguments: Any) -> None:
        try:
            code = getattr(self._library, function)(*arguments)
        except AttributeError:
            raise WorkError("driver", f"the NVIDIA driver has no {function}", "update the NVIDIA driver") from None
        if code == 2:
            raise WorkError("memory", "the GPU has not enough memory left", _MEMORY_HINT)
        if code:
            raise WorkError("cuda", f"{function}: {self._text(code)}", "look with nvidia-smi")

    def _text(self, code: int) -> str:
        name, words = ctypes.c_char_p(), ctypes.c_char_p()
        self._library.cuGetErrorName(code, ctypes.byref(name))
        self._library.cuGetErrorString(code, ctypes.byref(words))
        return f"{(words.value or b'unknown error').decode()} ({(name.value or b'error').decode()} {code})"

    def integer(self, function: str, *arguments: Any) -> int:
        """The int that ``function`` writes to its first argument."""
        value = ctypes.c_int(0)
        self(function, ctypes.byref(value), *arguments)
        return value.value

    def handle(self, function: str, *arguments: Any) -> ctypes.c_void_p:
        value = ctypes.c_void_p()
        self(function, ctypes.byref(value), *arguments)
        return value

    def gpus(self) -> list[dict[str, Any]]:
        return [self.gpu(index) for index in range(self.integer("cuDeviceGetCount"))]

    def gpu(self, index: int) -> dict[str, Any]:
        device = self.integer("cuDeviceGet", index)
        name = ctypes.create_string_buffer(256)
        self("cuDeviceGetName", name, 256, device)
        memory = ctypes.c_size_t(0)
        self("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        major, minor, integrated = (self.integer("cuDeviceGetAttribute", what, device) for what in (75, 76, 18))
        return {
            "index": index,
            "name": name.value.decode("utf-8", "replace"),
            "compute_capability": f"{major}.{minor}",
            "memory_bytes": memory.value,
            "integrated": bool(integrated),
        }

    def use(self, index: int) -> None:
        """Make the GPU's primary context current, the one that TensorRT uses too."""
        count = self.integer("cuDeviceGetCount")
        if not 0 <= index < count:
            raise WorkError("no-gpu", f"there is no GPU {index}", f"{count} are there, the first is 0")
        self("cuCtxSetCurrent", self.handle("cuDevicePrimaryCtxRetain", self.integer("cuDeviceGet", index)))


_MEMORY_HINT = "use fewer --streams or a smaller profile, end other programs on the GPU, or export with --workspace"


def driver_version() -> str:
    """As nvidia-smi shows it ("570.86.10"); empty where neither the kernel module nor NVML tells."""
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        pass
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(96)
        if nvml.nvmlInit_v2() == 0 and nvml.nvmlSystemGetDriverVersion(text, 96) == 0:
            return text.value.decode("utf-8", "replace")
    except (OSError, AttributeError):
        pass
    return ""


def hello() -> dict[str, Any]:
    """What is here. ``flavours`` maps rtx and full to a version, or to the reason why a module that is there fails."""
    import numpy

    told: dict[str, Any] = {
        "protocol": PROTOCOL,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "system": platform.system(),
        "machine": platform.machine(),
        "flavours": {},
        "gpus": [],
        "driver": "",
        "cuda": "",
        "problem": "",
    }
    for name, module in MODULES.items():
        if importlib.util.find_spec(module) is None:
            continue
        try:
            told["flavours"][name] = {"version": str(importlib.import_module(module).__version__)}
        except Exception as error:
            told["flavours"][name] = {"problem": " ".join(str(error).split())}
    try:
        cuda = Cuda()
        told["gpus"], told["driver"] = cuda.gpus(), driver_version()
        number = cuda.integer("cuDriverGetVersion")
        told["cuda"] = f"{number // 1000}.{number % 1000 // 10}"
    except WorkError as error:
        told["problem"] = error.message
    return told


# TensorRT, both flavours ---------------------------------------------------------------------------------------------


def _tensorrt(module: str) -> Any:
    if module not in _PRODUCTS:
        raise WorkError("protocol", f"unknown module {module!r}")
    if importlib.util.find_spec(module) is None:
        hint = "pip install tensorrt-rtx" if module == "tensorrt_rtx" else "install TensorRT; JetPack has it"
        raise WorkError("no-tensorrt", f"{_PRODUCTS[module]} is not installed (Python module {module})", hint)
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise WorkError("no-tensorrt", f"cannot import {module}: {error}", "install it again") from error


def _logger(trt: Any) -> Any:
    """An ``ILogger`` that keeps errors, warnings and the messages about layers; the rest is thousands of lines."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warned: list[str] = []
            self.layers: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))
            elif severity == trt.ILogger.Severity.WARNING:
                self.warned.append(message)
            elif message.lstrip().startswith("Layers:"):
                self.layers.append(message)

        def last_error(self) -> str:
            return (self.errors or [""])[-1]

        def warnings(self) -> list[str]:
            return list(dict.fromkeys(self.warned))[:50]

    return Log()


_SIGNS = (
    # What the libraries say, as in public reports of each failure; the first that is found counts.
    ("memory", re.compile(r"out ?of ?memory|could not be allocated", re.IGNORECASE), _MEMORY_HINT),
    ("driver", re.compile(r"driver version is insufficient|cudaError 35\b"), "update the NVIDIA driver"),
    ("plan-device", re.compile(r"incompatible device|expecting compute"), "export the model again for this GPU"),
    (
        "plan-version",
        re.compile(r"not compatible with this version|expecting library version|[Vv]ersion tag|VersionRead"),
        "export the model again with the TensorRT of this machine",
    ),
    (
        "plan-corrupt",
        re.compile(r"Serialization assertion|magicTag|[Mm]agic tag|empty memory buffer"),
        "export the model again",
    ),
)


def explained(messages: Iterable[str], otherwise: str) -> WorkError:
    """The error that TensorRT's messages tell of; ``otherwise`` is what happened, where they tell of no known one."""
    said = list(messages)
    for kind, sign, hint in _SIGNS:
        for message in said:
            if sign.search(message):
                return WorkError(kind, f"{otherwise}: {message}", hint)
    return WorkError("internal", ": ".join([otherwise, *said[:1]]), "look at the GPU with nvidia-smi, and export again")


def _made(factory: Any, log: Any, otherwise: str) -> Any:
    """``factory(log)``, whose only word on failure is that it has nothing to give."""
    try:
        made = factory(log)
    except TypeError:
        made = None
    if made is None:
        raise explained(log.errors, otherwise)
    return made


def write_whole(path: Path, data: Any) -> None:
    """All of it or nothing, whoever writes at the same time."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        if temporary.exists():
            temporary.unlink()


class Cache:
    """A file of kernels, kept for each GPU, driver and version of TensorRT in mobilekit's cache folder. One that cannot
    be read or written is one that holds nothing."""

    def __init__(self, trt: Any, gpu: Mapping[str, Any], name: str) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        root = Path(os.environ.get("MOBILEKIT_CACHE") or f"{home}/mobilekit") / "tensorrt"
        place = f"{gpu['name']}-{gpu['compute_capability']}"
        parts = (place, f"driver-{driver_version() or 'unknown'}", trt.__name__, trt.__version__, name)
        self.path = root.joinpath(*(re.sub(r"[^A-Za-z0-9._-]+", "-", part) for part in parts))
        self.old = b""
        with contextlib.suppress(OSError):
            self.old = self.path.read_bytes()
        self.taken = False

    def report(self, made: Any) -> dict[str, Any]:
        """Keep what ``made``, a cache of TensorRT's, holds; whether all that was needed was there."""
        memory = made.serialize()
        new = b"" if memory is None else bytes(memoryview(memory))
        problem = ""
        if new and new != self.old:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self.path, new)
                self._prune()
            except OSError as error:
                problem = str(error)
        hit = self.taken and len(new) == len(self.old)
        sizes = {"before_bytes": len(self.old), "after_bytes": len(new)}
        return dict(sizes, path=str(self.path), hit=hit, problem=problem)

    def _prune(self) -> None:
        """The longest unwritten go."""
        files = sorted(self.path.parent.glob("*" + self.path.suffix), key=lambda file: file.stat().st_mtime)
        for file in files[:-_CACHES]:
            file.unlink()


# Building ------------------------------------------------------------------------------------------------------------


def register_plugins(trt: Any, plugins: Sequence[str]) -> None:
    """Give TensorRT the plugin creators ``module:Class``, from the Python path or the current folder."""
    if plugins and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    for text in plugins:
        module, _, name = text.partition(":")
        try:
            creator = getattr(importlib.import_module(module), name)()
            taken = trt.get_plugin_registry().register_creator(creator, creator.plugin_namespace)
        except Exception as error:
            what = f"the plugin {text} cannot be loaded: {type(error).__name__}: {error}"
            raise WorkError(
                "input", what, "--plugin module:Class names an IPluginCreatorV3One on PYTHONPATH"
            ) from error
        if not taken:
            raise WorkError("input", f"TensorRT does not take the plugin {text}", "another one may have its name")
        _creators.append(creator)  # TensorRT keeps no reference


_creators: list[Any] = []


def check(folder: Path, *, module: str, onnx: str, plugins: Sequence[str] = ()) -> dict[str, Any]:
    """Every node of ``onnx`` that the parser refuses: ``version`` and ``problems`` (node, op, reason)."""
    trt = _tensorrt(module)
    log = _logger(trt)
    register_plugins(trt, plugins)
    # The bindings keep no references: builder and network must outlive the parser.
    builder, parser, network = _parser(trt, log)
    path = folder / onnx
    taken = parser.supports_model_v2(path.read_bytes(), str(path))
    problems = [] if taken else _parser_errors(parser)
    if not taken and not problems:
        problems = [{"node": "", "op": "", "reason": log.last_error() or "the parser refused the model"}]
    del parser, network, builder
    return {"version": str(trt.__version__), "problems": problems}


def build(
    folder: Path,
    *,
    module: str,
    onnx: str,
    plan: str,
    profiles: Mapping[str, Sequence[Sequence[int]]],
    compute_capabilities: Sequence[str] = (),
    workspace_bytes: int = 0,
    optimization_level: int | None = None,
    tf32: bool = True,
    device: int = 0,
    plugins: Sequence[str] = (),
) -> dict[str, Any]:
    """Parse ``onnx`` and write ``plan``; what was built, or why not.

    ``profiles`` maps inputs to (min, opt, max) shapes. ``tf32``: float32 products may round their factors to TF32's
    10 bits, as TensorRT does by default. The answer has ``log`` (the messages that tell of layers),
    ``warnings``, and either ``plan_bytes`` or ``problems`` as :func:`check` gives them; with full TensorRT also
    ``timing_cache`` and ``gpu``.
    """
    trt = _tensorrt(module)
    answer: dict[str, Any] = {"version": str(trt.__version__), "problems": [], "gpu": None, "timing_cache": None}
    if module == "tensorrt":  # it measures kernels; RTX builds without a GPU
        cuda = Cuda()
        cuda.use(device)
        answer["gpu"] = cuda.gpu(device)
    log = _logger(trt)
    register_plugins(trt, plugins)
    builder, parser, network = _parser(trt, log)
    if not parser.parse_from_file(str(folder / onnx)):
        return dict(answer, problems=_parser_errors(parser), warnings=log.warnings())
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if workspace_bytes:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    if optimization_level is not None:
        config.builder_optimization_level = optimization_level
    if compute_capabilities:
        config.num_compute_capabilities = len(compute_capabilities)
        for index, capability in enumerate(compute_capabilities):
            member = "SM" + capability.replace(".", "")
            config.set_compute_capability(getattr(trt.ComputeCapability, member), index)
    if profiles:
        profile = builder.create_optimization_profile()
        for name, (low, best, high) in profiles.items():
            profile.set_shape(name, tuple(low), tuple(best), tuple(high))
        config.add_optimization_profile(profile)
    cache = Cache(trt, answer["gpu"], "timing.cache") if answer["gpu"] else None
    timings: Any = None
    if cache is not None:
        timings = config.create_timing_cache(cache.old)
        cache.taken = timings is not None and bool(cache.old)
        timings = timings or config.create_timing_cache(b"")  # of another version: begin anew
        config.set_timing_cache(timings, False)
    say("building")
    started = time.perf_counter()
    serialized = builder.build_serialized_network(network, config)
    answer.update(seconds=time.perf_counter() - started, warnings=log.warnings())
    if serialized is None:
        reason = log.last_error() or "the builder gave no plan and no reason"
        found = _NODE_IN_ERROR.search(reason)
        node, op = (found[1], found[2] or "") if found else ("", "")
        return dict(answer, problems=[{"node": node, "op": op, "reason": reason}])
    data = memoryview(serialized)
    write_whole(folder / plan, data)
    if cache is not None:
        answer["timing_cache"] = cache.report(timings)
    return dict(answer, plan_bytes=data.nbytes, log=log.layers)


def _parser(trt: Any, log: Any) -> tuple[Any, Any, Any]:
    builder = _made(trt.Builder, log, f"{_PRODUCTS[trt.__name__]} cannot start here")
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # what 11 always is
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    return builder, trt.OnnxParser(network, log), network


def _parser_errors(parser: Any) -> list[dict[str, str]]:
    found: dict[tuple[str, str], dict[str, str]] = {}
    for index in range(min(parser.num_errors, 1000)):
        error = parser.get_error(index)
        problem = {"node": error.node_name(), "op": error.node_operator(), "reason": " ".join(error.desc().split())}
        found.setdefault((problem["node"], problem["op"]), problem)
    return list(found.values())


# Running -------------------------------------------------------------------------------------------------------------


def built_by(data: bytes, module: str) -> str:
    """The version that built an RTX plan: it begins with a tag, says its size in bytes 16 to 23 and the version in the
    next four. A plan of full TensorRT tells only the library that reads it: ``""``.

    Raises :class:`WorkError` for a plan of the other product, what is no plan, and half of one.
    """
    if (data[:4] == _RTX_TAG) != (module == "tensorrt_rtx"):
        if data[:4] == _RTX_TAG or data[:4] == _FULL_TAG:
            text = f"the plan is one of the other product, not of {_PRODUCTS[module]}"
            raise WorkError("plan-version", text, "export the model again with the TensorRT of this machine")
        raise WorkError("plan-corrupt", f"the file is no plan of {_PRODUCTS[module]}", "export the model again")
    if module != "tensorrt_rtx":
        return ""
    size = int.from_bytes(data[16:24], "little")
    if size != len(data):
        text = f"the plan is damaged: it has {len(data)} bytes and says {size}"
        raise WorkError("plan-corrupt", text, "export the model again")
    return ".".join(str(part) for part in data[24:28])


class Engine:
    """A plan, loaded on a GPU. Slots (a context, a stream and its buffers) are made on demand and kept."""

    def __init__(self, trt: Any, cuda: Cuda, plan: Path, device: int) -> None:
        self.trt, self.cuda, self.gpu = trt, cuda, cuda.gpu(device)
        data = plan.read_bytes()
        product, version = _PRODUCTS[trt.__name__], built_by(data, trt.__name__)
        what = f"the plan{f', built by {product} {version},' if version else ''} cannot be loaded by "
        what += f"{product} {trt.__version__}"
        started = time.perf_counter()
        self.log = _logger(trt)
        self.runtime = _made(trt.Runtime, self.log, f"{product} cannot start here")
        if hasattr(self.runtime, "get_engine_validity"):
            self._check_validity(data, what)
        self.engine = self.runtime.deserialize_cuda_engine(data)
        if self.engine is None:
            raise explained(self.log.errors, what)
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
            self.config.set_runtime_cache(self.kernels)
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        inputs = [name for name in names if self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.inputs, self.outputs = inputs, [name for name in names if name not in inputs]
        self.slots: list[Slot] = []

    def _check_validity(self, data: bytes, what: str) -> None:
        valid, found = self.runtime.get_engine_validity(data)
        if valid != self.trt.EngineValidity.INVALID:
            return
        diagnostics = self.trt.EngineInvalidityDiagnostics
        known = (
            (diagnostics.MALFORMED_ENGINE, "plan-corrupt", "it is damaged", "export the model again"),
            (diagnostics.VERSION_MISMATCH, "plan-version", "the versions differ", "export the model again here"),
            (
                diagnostics.UNSUPPORTED_CC,
                "plan-device",
                f"it was not built for {self.gpu['name']} (compute capability {self.gpu['compute_capability']})",
                f"export the model again with --compute-capability {self.gpu['compute_capability']}",
            ),
            (diagnostics.OLD_CUDA_DRIVER, "driver", "the driver is too old", "update the NVIDIA driver"),
            (diagnostics.OLD_CUDA_RUNTIME, "driver", "the CUDA runtime is too old", "update tensorrt-rtx"),
            (diagnostics.INSUFFICIENT_GPU_MEMORY, "memory", "the GPU has not enough memory", _MEMORY_HINT),
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
            raise WorkError("input", f"{name!r} is {member}, which numpy has no type for")
        return _NUMPY[member]

    def profile_for(self, inputs: Mapping[str, Any]) -> int:
        """The first optimization profile that takes all shapes."""
        problems = []
        for index in range(self.engine.num_optimization_profiles):
            ranges = {name: self._range(name, index) for name in inputs}
            wrong = [name for name, array in inputs.items() if not _within(array.shape, ranges[name])]
            if not wrong:
                return index
            low, high = (_text(shape) for shape in ranges[wrong[0]])
            takes = low if low == high else f"{low} to {high}"
            problems.append(f"{wrong[0]!r} is {_text(inputs[wrong[0]].shape)}, the plan takes {takes}")
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


def _text(shape: Sequence[int]) -> str:
    return "x".join(str(axis) for axis in shape) or "scalar"


class Buffer:
    """An array in page-locked host memory, and as much memory on the GPU."""

    def __init__(self, cuda: Cuda, dtype: str, shape: Sequence[int]) -> None:
        import numpy

        count = 1
        for axis in shape:
            count *= int(axis)
        self._cuda = cuda
        self.size = max(1, count * numpy.dtype(dtype).itemsize)  # TensorRT wants an address for nothing, too
        self.device, self._host = ctypes.c_uint64(0), ctypes.c_void_p()
        cuda("cuMemAlloc_v2", ctypes.byref(self.device), ctypes.c_size_t(self.size))
        try:
            cuda("cuMemHostAlloc", ctypes.byref(self._host), ctypes.c_size_t(self.size), 0)
        except WorkError:
            self.free()
            raise
        memory: Any = (ctypes.c_char * self.size).from_address(self._host.value or 0)
        self.array: Any = numpy.ndarray(tuple(shape), dtype, buffer=memory)

    @property
    def host(self) -> int:
        return self._host.value or 0

    def to_device(self, stream: ctypes.c_void_p) -> None:
        self._cuda("cuMemcpyHtoDAsync_v2", self.device, self._host, ctypes.c_size_t(self.size), stream)

    def to_host(self, stream: ctypes.c_void_p) -> None:
        self._cuda("cuMemcpyDtoHAsync_v2", self._host, self.device, ctypes.c_size_t(self.size), stream)

    def free(self) -> None:
        if self.device.value:
            self._cuda("cuMemFree_v2", self.device)
        if self._host.value:
            self._cuda("cuMemFreeHost", self._host)
        self.device, self._host = ctypes.c_uint64(0), ctypes.c_void_p()


def _growing_output(trt: Any, cuda: Cuda, dtype: str) -> Any:
    """An ``IOutputAllocator`` for an output whose shape only the run tells; its memory grows and is kept."""

    class Growing(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.buffer: Buffer | None = None
            self.shape: tuple[int, ...] = ()
            self.error: WorkError | None = None

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int | None:
            try:
                if self.buffer is None or size > self.buffer.size:
                    if self.buffer is not None:
                        self.buffer.free()
                    self.buffer = None
                    self.buffer = Buffer(cuda, "uint8", (size,))
            except WorkError as error:  # must not pass through C++
                self.error = error
                return None
            return int(self.buffer.device.value)

        def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int | None:
            return self.reallocate_output(name, memory, size, alignment)

        def notify_shape(self, name: str, shape: Any) -> None:
            self.shape = tuple(shape)

        def answer(self) -> Any:
            import numpy

            if self.buffer is None:
                return numpy.empty(self.shape, dtype)
            return numpy.ndarray(self.shape, dtype, buffer=self.buffer.array).copy()

    return Growing()


class Slot:
    """An execution context on a stream of its own, with its buffers."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.cuda = engine, engine.cuda
        self.context = engine.new_context()
        self.stream = self.cuda.handle("cuStreamCreate", 1)  # does not wait for the default stream
        self.events = [self.cuda.handle("cuEventCreate", 0) for _ in range(4)]
        self.buffers: dict[str, Buffer] = {}
        self.growing: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.graph: ctypes.c_void_p | None = None
        self.no_graph = "it was not asked for"

    def feed(self, inputs: Mapping[str, Any]) -> None:
        """Put ``inputs`` into the buffers; contexts and addresses are set anew only for other shapes."""
        engine, context = self.engine, self.context
        shapes = {name: tuple(array.shape) for name, array in inputs.items()}
        if shapes != self.shapes:
            before = len(engine.log.errors)
            profile = engine.profile_for(inputs)
            self._drop_graph()
            self.shapes = {}
            if profile != context.active_optimization_profile:
                context.set_optimization_profile_async(profile, self.stream.value)
            self.synchronize()
            for name, shape in shapes.items():
                buffer = self._buffer(name, shape)
                if not context.set_input_shape(name, shape):
                    raise explained(engine.log.errors[before:], f"input {name!r} cannot be {_text(shape)}")
                context.set_tensor_address(name, buffer.host if self._on_host(name) else buffer.device.value)
        for name, array in inputs.items():
            wanted = engine.dtype(name)
            if str(array.dtype) != wanted:
                raise WorkError("input", f"input {name!r} is {array.dtype}, and must be {wanted}")
            self.buffers[name].array[...] = array
        if shapes != self.shapes:
            if missing := context.infer_shapes():
                raise WorkError("shape", f"the shape of {', '.join(missing)} is not known from these inputs")
            for name in engine.outputs:
                self._place_output(name, tuple(context.get_tensor_shape(name)))
            self.shapes = shapes

    def _place_output(self, name: str, shape: tuple[int, ...]) -> None:
        if all(axis >= 0 for axis in shape):
            buffer = self._buffer(name, shape)
            self.context.set_tensor_address(name, buffer.host if self._on_host(name) else buffer.device.value)
        elif name not in self.growing:
            self.growing[name] = _growing_output(self.engine.trt, self.cuda, self.engine.dtype(name))
            self.context.set_output_allocator(name, self.growing[name])

    def _buffer(self, name: str, shape: tuple[int, ...]) -> Buffer:
        buffer = self.buffers.get(name)
        if buffer is None or buffer.array.shape != shape:
            if buffer is not None:
                buffer.free()
                del self.buffers[name]
            buffer = self.buffers[name] = Buffer(self.cuda, self.engine.dtype(name), shape)
        return buffer

    def _on_host(self, name: str) -> bool:
        """Shape tensors are read and written by the CPU."""
        return bool(self.engine.engine.get_tensor_location(name) == self.engine.trt.TensorLocation.HOST)

    def enqueue(self) -> None:
        if self.graph is not None:
            self.cuda("cuGraphLaunch", self.graph, self.stream)
            return
        before = len(self.engine.log.errors)
        if not self.context.execute_async_v3(self.stream.value):
            for growing in self.growing.values():
                if growing.error is not None:
                    raise growing.error
            raise explained(self.engine.log.errors[before:], "the plan could not be executed")

    def launch(self, *, timed: bool = False) -> None:
        """Inputs to the GPU, the plan, outputs back; nothing is waited for."""
        self._mark(0, timed)
        for name in self.engine.inputs:
            if not self._on_host(name):
                self.buffers[name].to_device(self.stream)
        self._mark(1, timed)
        self.enqueue()
        self._mark(2, timed)
        for name in self.engine.outputs:
            if name in self.buffers and name not in self.growing and not self._on_host(name):
                self.buffers[name].to_host(self.stream)
        for growing in self.growing.values():
            if growing.buffer is not None:
                growing.buffer.to_host(self.stream)
        self._mark(3, timed)

    def _mark(self, event: int, timed: bool) -> None:
        if timed:
            self.cuda("cuEventRecord", self.events[event], self.stream)

    def synchronize(self) -> None:
        self.cuda("cuStreamSynchronize", self.stream)

    def timed(self) -> tuple[float, float, float]:
        """One inference in milliseconds: the plan alone, with the copies (both by the GPU's clock), and as the host
        sees it."""
        started = time.perf_counter()
        self.launch(timed=True)
        self.synchronize()
        wall = (time.perf_counter() - started) * 1e3
        return self._between(1, 2), self._between(0, 3), wall

    def _between(self, first: int, last: int) -> float:
        value = ctypes.c_float(0)
        self.cuda("cuEventElapsedTime", ctypes.byref(value), self.events[first], self.events[last])
        return value.value

    def answers(self) -> dict[str, Any]:
        fixed = {name: self.buffers[name].array.copy() for name in self.engine.outputs if name not in self.growing}
        return dict(fixed, **{name: growing.answer() for name, growing in self.growing.items()})

    def ready(self, inputs: Mapping[str, Any], cuda_graph: bool) -> None:
        """Run once, and record the plan into a CUDA graph where that is asked for and can be."""
        self._drop_graph()
        self.feed(inputs)
        self.launch()  # what TensorRT does only after new shapes must not be recorded
        self.synchronize()
        if cuda_graph:
            self._capture()

    def _capture(self) -> None:
        """:attr:`no_graph` says why it could not be."""
        if self.growing:
            self.no_graph = "the shape of an output depends on data"
            return
        capturable = getattr(self.context, "is_stream_capturable", None)
        if capturable is not None and not capturable(self.stream.value):
            self.no_graph = "TensorRT cannot capture this plan"
            return
        graph = ctypes.c_void_p()
        try:
            self.cuda("cuStreamBeginCapture_v2", self.stream, 1)  # other threads may do as they like
            try:
                self.enqueue()
            except WorkError:
                with contextlib.suppress(WorkError):  # it says no more than that something failed
                    self.cuda("cuStreamEndCapture", self.stream, ctypes.byref(graph))
                raise
            self.cuda("cuStreamEndCapture", self.stream, ctypes.byref(graph))
            self.graph = self.cuda.handle("cuGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0))
        except WorkError as error:
            self.no_graph = error.message
        finally:
            if graph.value:
                self.cuda("cuGraphDestroy", graph)

    def _drop_graph(self) -> None:
        if self.graph is not None:
            self.cuda("cuGraphExecDestroy", self.graph)
            self.graph = None


_LOADED: dict[tuple[Any, ...], Engine] = {}


def run(
    folder: Path,
    *,
    module: str,
    plan: str,
    samples: Sequence[Mapping[str, str]],
    iterations: int = 0,
    warmup: int = 0,
    settle: bool = False,
    streams: Sequence[int] = (),
    throughput_s: float = 1.0,
    cuda_graph: bool = True,
    device: int = 0,
    plugins: Sequence[str] = (),
) -> dict[str, Any]:
    """Run ``plan`` on each sample (input name -> ``.npy`` file), then time the first one.

    ``iterations`` are timed, after ``warmup`` untimed ones, and with ``settle`` as many more as it takes until the
    times are stable. ``streams``: for each number, inferences a second of so many contexts side by side during
    ``throughput_s``. The answer has
    ``outputs`` (for each sample, output name -> ``.npy`` file), ``latency`` (milliseconds, a value each iteration:
    ``compute``, ``with_copies``, ``wall``), ``throughput``, ``cuda_graph`` (``used``, ``reason``), ``runtime_cache``.
    """
    import numpy

    cuda = Cuda()
    cuda.use(device)
    trt = _tensorrt(module)
    path = (folder / plan).resolve()
    facts = path.stat()
    key = (module, str(path), facts.st_size, facts.st_mtime_ns, device)
    if key not in _LOADED:
        register_plugins(trt, plugins)
        say("loading the plan")
        _LOADED[key] = Engine(trt, cuda, path, device)
    engine = _LOADED[key]
    slot = engine.slot(0)
    outputs = []
    started = time.perf_counter()
    for number, sample in enumerate(samples):
        if absent := [name for name in engine.inputs if name not in sample]:
            raise WorkError(
                "input", f"no input {', '.join(absent)} is given; the plan takes {', '.join(engine.inputs)}"
            )
        # The optimiser may have dropped an input that nothing depends on.
        inputs = {name: numpy.load(str(folder / sample[name]), allow_pickle=False) for name in engine.inputs}
        slot.feed(inputs)
        slot.launch()
        slot.synchronize()
        outputs.append(_save(folder, number, slot.answers()))
        if number == 0:
            first, first_ms = inputs, (time.perf_counter() - started) * 1e3
    answer: dict[str, Any] = {
        "version": str(trt.__version__),
        "gpu": engine.gpu,
        "driver": driver_version(),
        "outputs": outputs,
        "load_ms": engine.load_ms,
        "first_ms": first_ms if outputs else None,
        "device_memory_bytes": _memory(engine.engine),
        "latency": None,
        "warmup": None,
        "throughput": [],
        "cuda_graph": {"used": False, "reason": slot.no_graph},
        "runtime_cache": None,
        "warnings": engine.log.warnings(),
    }
    if outputs and (iterations or streams):
        slot.ready(first, cuda_graph)
        answer["warmup"] = _warm_up(slot, warmup, settle)
        say("timing")
        times = [slot.timed() for _ in range(iterations)]
        if times:
            answer["latency"] = dict(zip(("compute", "with_copies", "wall"), map(list, zip(*times))))
        _save(folder, 0, slot.answers())  # what was timed is what will be judged
        used = slot.graph is not None
        answer["cuda_graph"] = {"used": used, "reason": "" if used else slot.no_graph}
        answer["throughput"] = [_throughput(engine, count, first, cuda_graph, throughput_s) for count in streams]
    if engine.cache is not None:
        answer["runtime_cache"] = engine.cache.report(engine.kernels)
    return answer


def _save(folder: Path, number: int, answers: Mapping[str, Any]) -> dict[str, str]:
    import numpy

    files = {name: f"output{number}_{index}.npy" for index, name in enumerate(answers)}
    for name, file in files.items():
        numpy.save(str(folder / file), answers[name])
    return files


def _memory(engine: Any) -> int | None:
    """Scratch memory of one execution context."""
    for name in ("device_memory_size_v2", "device_memory_size"):
        if hasattr(engine, name):
            return int(getattr(engine, name))
    return None


def _warm_up(slot: Slot, least: int, settle: bool) -> dict[str, Any]:
    """``stable``: two medians of ten runs one after the other were within a twentieth; ``None`` where nobody looked."""
    for _ in range(least):
        slot.timed()
    from statistics import median  # takes long to import, and a build has no use for it

    runs, before, began = least, 0.0, time.perf_counter()
    while settle and runs < _WARM_UP_MOST and time.perf_counter() - began < _WARM_UP_S:
        now = median(slot.timed()[2] for _ in range(_WARM_UP_WINDOW))
        runs += _WARM_UP_WINDOW
        if before and abs(now - before) <= _STABLE * before:
            return {"runs": runs, "stable": True}
        before = now
    return {"runs": runs, "stable": False if settle else None}


def _throughput(
    engine: Engine, count: int, inputs: Mapping[str, Any], cuda_graph: bool, seconds: float
) -> dict[str, Any]:
    """Inferences a second, copies included, of ``count`` slots that one thread keeps busy in turn."""
    slots = [engine.slot(index) for index in range(count)]
    for slot in slots:
        slot.ready(inputs, cuda_graph)
    busy: deque[Slot] = deque()
    done, began = 0, time.perf_counter()
    for slot in slots:
        slot.launch()
        busy.append(slot)
    while busy:
        slot = busy.popleft()
        slot.synchronize()
        done += 1
        if time.perf_counter() - began < seconds:
            slot.launch()
            busy.append(slot)
    took = time.perf_counter() - began
    first = slots[0].answers()
    for number, slot in enumerate(slots[1:], 2):
        for name, array in slot.answers().items():
            if not _alike(array, first[name]):
                raise WorkError("wrong", f"stream {number} of {count} answers {name!r} unlike the first", "report it")
    graphs = all(slot.graph is not None for slot in slots)
    return {"streams": count, "inferences": done, "seconds": took, "per_second": done / took, "cuda_graph": graphs}


def _alike(one: Any, other: Any) -> bool:
    """As sums in another order may differ, and no further."""
    import numpy

    if one.shape != other.shape:
        return False
    a, b = one.astype(numpy.float64), other.astype(numpy.float64)
    size = numpy.abs(b[numpy.isfinite(b)]).max(initial=0.0)
    return bool(numpy.allclose(a, b, rtol=0, atol=0.01 * size, equal_nan=True))


# Jobs ----------------------------------------------------------------------------------------------------------------

_VERBS: Mapping[str, Callable[..., dict[str, Any]]] = {"check": check, "build": build, "run": run}


def perform(folder: Path) -> None:
    """Do the job in ``folder`` and write its result."""
    try:
        result = _perform(folder)
    except WorkError as error:
        result = {"error": {"kind": error.kind, "message": error.message, "hint": error.hint}}
    except MemoryError:
        text = "there was not enough memory"
        result = {"error": {"kind": "memory", "message": text, "hint": "use a machine with more memory"}}
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        text = f"no space left in {folder}: {error.strerror}" if full else f"OSError: {error}"
        hint = "free some space, or set TMPDIR to another folder" if full else ""
        result = {"error": {"kind": "storage" if full else "internal", "message": text, "hint": hint}}
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        result = {"error": {"kind": "internal", "message": text, "hint": ""}}
    write_whole(folder / "result.json", json.dumps(result).encode())


def _perform(folder: Path) -> dict[str, Any]:
    job = json.loads((folder / "job.json").read_text("utf-8"))
    if job.pop("protocol", None) != PROTOCOL:
        raise WorkError("protocol", f"the worker speaks protocol {PROTOCOL}", "use one version of mobilekit")
    verb = _VERBS.get(job.pop("verb", ""))
    if verb is None:
        raise WorkError("protocol", "unknown verb", "use one version of mobilekit")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if verb is not run and job.get("module") == "tensorrt_rtx":  # without CUDA, which reserves more than there is
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 9 // 10
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return verb(folder, **job)


def serve(answers: int, module: str = "") -> None:
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line.rstrip("\n"))
        os._exit(0)  # who asked is gone: whatever runs here, runs for nobody

    threading.Thread(target=read, daemon=True).start()
    if module in _PRODUCTS:
        with contextlib.suppress(Exception):  # a job will say what is wrong
            importlib.import_module(module)
    while True:
        name = lines.get()
        perform(Path(name))
        os.write(answers, (json.dumps({"job": name}) + "\n").encode())


def main(arguments: Sequence[str]) -> None:
    answers = os.dup(1)  # native libraries print to stdout
    os.dup2(2, 1)
    if arguments == ["--hello"]:
        os.write(answers, (json.dumps(hello()) + "\n").encode())
    elif arguments and arguments[0] == "--serve" and len(arguments) < 3:
        serve(answers, *arguments[1:])
    elif len(arguments) == 1 and Path(arguments[0]).is_dir():
        perform(Path(arguments[0]))
    else:
        sys.exit("usage: worker.py --hello | --serve [MODULE] | FOLDER")
    sys.stderr.flush()
    os._exit(0)  # exit handlers of native libraries have crashed after good answers


if __name__ == "__main__":
    main(sys.argv[1:])
