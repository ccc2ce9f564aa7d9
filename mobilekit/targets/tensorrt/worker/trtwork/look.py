"""What a plan holds, asked of the plan itself: on the GPU that it is for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .bindings import import_tensorrt
from .cuda import Cuda
from .engine import Engine


def inspect(folder: Path, *, module: str, plan: str, device: int = 0, plugins: Sequence[str] = ()) -> dict[str, Any]:
    """Load ``plan`` and say what is in it: ``version``, ``gpu``, and the facts of :func:`engine_facts`."""
    cuda = Cuda()
    cuda.use(device)
    trt = import_tensorrt(module)
    loaded = Engine(trt, cuda, (folder / plan).resolve(), device, plugins)
    facts = engine_facts(trt, loaded.engine)
    return dict(facts, version=str(trt.__version__), gpu=loaded.gpu, warnings=loaded.log.warnings())


def engine_facts(trt: Any, engine: Any) -> dict[str, Any]:
    """``information``: the text, JSON, by which TensorRT's IEngineInspector tells of layers; ``bindings``: inputs and
    outputs (``name``, ``mode``, ``dtype``, ``shape``, ``profiles``); ``device_memory_bytes``."""
    inspector = engine.create_engine_inspector()
    bindings = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        mode = "input" if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else "output"
        shape = [int(axis) for axis in engine.get_tensor_shape(name)]
        profiles: list[Any] = []
        if mode == "input" and any(axis < 0 for axis in shape):
            for profile in range(engine.num_optimization_profiles):
                sizes = engine.get_tensor_profile_shape(name, profile)
                profiles.append([[int(axis) for axis in size] for size in sizes])
        dtype = str(engine.get_tensor_dtype(name)).rpartition(".")[2].capitalize()
        bindings.append({"name": name, "mode": mode, "dtype": dtype, "shape": shape, "profiles": profiles})
    return {
        "information": str(inspector.get_engine_information(trt.LayerInformationFormat.JSON)),
        "bindings": bindings,
        "device_memory_bytes": memory_of(engine),
    }


def memory_of(engine: Any) -> int | None:
    """Scratch memory of one execution context."""
    for name in ("device_memory_size_v2", "device_memory_size"):
        if hasattr(engine, name):
            return int(getattr(engine, name))
    return None
