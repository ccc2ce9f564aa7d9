"""ONNX Runtime on this machine, the reference every result is held against. Runs in a child process."""

from __future__ import annotations

import contextlib
import io
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mobilekit.child import Child
from mobilekit.errors import ModelError, SetupError, UsageError
from mobilekit.runners.base import RunnerInfo, RunOptions, RunResult
from mobilekit.runners.steps import change_scales, move_within_steps

if TYPE_CHECKING:
    from mobilekit.tensors import Array, NamedTensors

__all__ = ["OrtRunner", "without_sizes"]

_LOAD_TIMEOUT_S = 600.0
_UNBOUNDED = 1 << 62
_CUDA = "CUDAExecutionProvider"

Provider = Literal["cpu", "cuda"]


def installed_version() -> str:
    """ONNX Runtime's, by its package, whichever of the two is here; nothing is imported."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("onnxruntime")
    except PackageNotFoundError:
        return version("onnxruntime-gpu")


class OrtRunner:
    """The model file at ``model`` in an ``onnxruntime`` session, inputs and outputs by ONNX name.

    ``provider``: ``"cuda"`` computes on the first GPU, in float32 proper (TF32 off).
    ``fixed`` holds inputs that every run is given beside its own. ``free`` names axes by input that may have another
    size than the file says. ``optimise=False`` switches ONNX Runtime's graph
    optimisations off. ``inner``: tensors that the model computes on its way are outputs too; :meth:`tensors` names them
    all. ``jitter``: other than 0, the seed by which the scales of a quantised model are changed in their last digits.
    Raises :class:`ModelError` where ONNX Runtime will not load the model, :class:`UsageError`
    where it refuses the inputs, :class:`SetupError` where it has no such provider.
    """

    def __init__(
        self,
        model: Path,
        *,
        threads: int = 0,
        optimise: bool = True,
        fixed: NamedTensors | None = None,
        free: Mapping[str, Sequence[int]] | None = None,
        inner: bool = False,
        jitter: int = 0,
        provider: Provider = "cpu",
    ) -> None:
        self._model = model
        self._fixed = dict(fixed or {})
        free = {name: list(axes) for name, axes in (free or {}).items() if axes}
        self._arguments = {"model": str(model), "threads": threads, "optimise": optimise, "free": free, "inner": inner}
        self._arguments |= {"jitter": jitter, "provider": provider}
        self._provider = provider
        self._child: Child | None = None
        self._started = 0
        self._load_ns = 0

    def start(self) -> None:
        """Begin to load the model, in the background; entering the runner waits for it."""
        if self._child is None:
            self._started = time.perf_counter_ns()
            # CUDA reserves more address space than there is memory.
            memory = _UNBOUNDED if self._provider == "cuda" else None
            self._child = Child(what=f"ONNX Runtime on {self._model.name}", memory_bytes=memory)
            self._child.begin({"create": "mobilekit.runners.ort:_Session", "arguments": self._arguments})

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def __enter__(self) -> OrtRunner:
        try:
            self.start()
            assert self._child is not None
            self._child.finish(_LOAD_TIMEOUT_S)
        except BaseException:
            self.close()
            raise
        self._load_ns = time.perf_counter_ns() - self._started
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def info(self) -> RunnerInfo:
        return RunnerInfo(
            name=f"ONNX Runtime {self._provider.upper()}", version=installed_version(), device="this machine"
        )

    def tensors(self) -> tuple[tuple[str, str], ...]:
        """Name and ONNX Runtime's type ("tensor(float)") of every output."""
        assert self._child is not None, "use the runner in a with statement"
        return tuple((name, kind) for name, kind in self._child.call("tensors", {}))

    def some(self, names: Sequence[str], inputs: Mapping[str, Array], options: RunOptions) -> NamedTensors:
        """One run for these outputs alone: a model has more inner tensors than memory holds at once."""
        assert self._child is not None, "use the runner in a with statement"
        answer = self._child.call(
            "run",
            {"inputs": {**self._fixed, **inputs}, "warmup": 0, "iterations": 1, "names": list(names)},
            timeout_s=options.timeout_s,
        )
        return dict(zip(answer["names"], answer["outputs"], strict=True))

    def run(self, inputs: Mapping[str, Array], options: RunOptions) -> RunResult:
        assert self._child is not None, "use the runner in a with statement"
        answer = self._child.call(
            "run",
            {"inputs": {**self._fixed, **inputs}, "warmup": options.warmup, "iterations": options.iterations},
            timeout_s=options.timeout_s,
        )
        return RunResult(
            outputs=dict(zip(answer["names"], answer["outputs"], strict=True)),
            latencies_ns=tuple(answer["latencies_ns"]),
            load_ns=self._load_ns,
        )


class _Session:
    """Lives in the child."""

    def __init__(
        self,
        model: str,
        threads: int,
        optimise: bool,
        free: Mapping[str, Sequence[int]],
        inner: bool,
        jitter: int,
        provider: Provider,
    ) -> None:
        import onnxruntime as ort

        providers: list[Any] = ["CPUExecutionProvider"]
        lacking = ""
        if provider == "cuda":
            lacking = load_cuda(ort)
            if _CUDA not in ort.get_available_providers():
                hint = "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
                raise SetupError("the ONNX Runtime that is installed has no CUDA provider", hint=hint)
            providers.insert(0, (_CUDA, {"device_id": "0", "use_tf32": "0"}))
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = threads
        # Spinning threads starve a neighbour that is being timed (an ncnn run, say).
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Weights of 4 bits ask for no rounding of what they are multiplied with, as is otherwise ORT's default.
        settings.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        # Sums of 8-bit products in 32 bits on every processor: x86 with AVX2 alone adds pairs in 16, which overflow.
        settings.add_session_config_entry("session.x64quantprecision", "1")
        if not optimise:
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            opened = _opened(model, free, inner, jitter)
            if isinstance(opened, bytes):
                folder = str(Path(model).parent)
                settings.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
            self._session = ort.InferenceSession(opened, settings, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of its own
            raise _unloadable(Path(model).name, _first_line(error)) from error
        if provider == "cuda" and self._session.get_providers()[0] != _CUDA:  # it goes on with the CPU
            hint = "its CUDA and cuDNN libraries must be there: pip install 'onnxruntime-gpu[cuda,cudnn]'"
            raise SetupError(f"ONNX Runtime cannot start its CUDA provider{lacking}", hint=hint)

    def tensors(self) -> list[tuple[str, str]]:
        return [(output.name, output.type) for output in self._session.get_outputs()]

    def run(
        self, inputs: dict[str, Any], warmup: int, iterations: int, names: list[str] | None = None
    ) -> dict[str, Any]:
        names = names or [output.name for output in self._session.get_outputs()]
        wanted = {value.name for value in self._session.get_inputs()}
        feed = {name: array for name, array in inputs.items() if name in wanted}
        try:
            for _ in range(warmup):
                self._session.run(names, feed)
            latencies = []
            outputs: list[Any] = []
            for _ in range(max(1, iterations)):
                started = time.perf_counter_ns()
                outputs = self._session.run(names, feed)
                latencies.append(time.perf_counter_ns() - started)
        except Exception as error:
            raise UsageError(
                f"ONNX Runtime cannot run the model on these inputs: {_first_line(error)}",
                hint="if they were seeded: export with --no-verify, then validate with --inputs DIR of real ones",
            ) from error
        return {"names": names, "outputs": outputs, "latencies_ns": latencies}


def load_cuda(ort: Any) -> str:
    """Load CUDA's and cuDNN's libraries where pip puts them: no loader looks there, and ONNX Runtime only when it is
    asked to. What it says of those that it does not find, as the end of a sentence."""
    load = getattr(ort, "preload_dlls", None)  # since 1.21
    if load is None:
        return ""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        load()
    lines = [line for line in said.getvalue().splitlines() if line.startswith("Failed")]
    return f": {lines[0]}" if lines else ""


def _opened(model: str, free: Mapping[str, Sequence[int]], inner: bool, jitter: int) -> str | bytes:
    """The model's path, or its bytes without the sizes that it gives to ``free`` axes (and to what follows), with
    its ``inner`` tensors among its outputs, and with its roundings to steps falling otherwise."""
    if not free and not inner and not jitter:
        return model
    import onnx

    proto = onnx.load(model, load_external_data=False)
    if not without_sizes(proto, free) and not inner and not jitter:
        return model
    if inner:
        known = {info.name for info in proto.graph.output}
        made = dict.fromkeys(name for node in proto.graph.node for name in node.output)
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name and name not in known)
    if jitter:
        change_scales(proto.graph, jitter)
        move_within_steps(proto.graph, jitter)
    data: bytes = proto.SerializeToString()
    return data


def without_sizes(proto: Any, free: Mapping[str, Sequence[int]]) -> bool:
    """Take the sizes of ``free`` axes, and what follows from them, out of an ``onnx.ModelProto``; True if any."""
    fixed = False
    for info in proto.graph.input:
        for axis in free.get(info.name, ()):
            dim = info.type.tensor_type.shape.dim[axis]
            fixed = fixed or dim.HasField("dim_value")
            dim.Clear()
    if fixed:
        del proto.graph.value_info[:]
        for info in proto.graph.output:
            for dim in info.type.tensor_type.shape.dim:
                dim.Clear()
    return fixed


def _unloadable(name: str, said: str) -> ModelError:
    unknown = re.search(r"([\w.]*):(\w+)\(-?\d+\) is not a registered function/op", said)
    if unknown is None:
        # Its CPU kernels compute in fewer types than there are: a MatMul in bfloat16 has none.
        lacking = "NOT_IMPLEMENTED" in said and "Could not find an implementation" in said
        hint = "export the model in float32; or --no-verify, which leaves its answers unproven" if lacking else ""
        return ModelError(f"ONNX Runtime cannot load {name}: {said}", hint=hint)
    op = ".".join(part for part in unknown.groups() if part)
    return ModelError(
        f"ONNX Runtime cannot run {name}: it has no operator {op}",
        hint="write it as an ONNX local function; or, where a TensorRT plugin computes it, hold the plan against a "
        "recording: validate --reference DIR (docs/tensorrt.md)",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
