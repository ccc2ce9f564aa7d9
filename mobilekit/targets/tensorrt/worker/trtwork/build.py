"""From a prepared ONNX to a plan."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .base import say, write_whole
from .bindings import PRODUCTS, import_tensorrt, made_by, new_logger, register_plugins
from .cache import Cache
from .cuda import Cuda

_NODE_IN_ERROR = re.compile(r"node (?:\d+ )?(?:with name: |\[)?\"?([^\"\]]+?)\"?(?: and operator: (\w+)|\])")


def check(folder: Path, *, module: str, onnx: str, plugins: Sequence[str] = ()) -> dict[str, Any]:
    """Every node of ``onnx`` that the parser refuses: ``version`` and ``problems`` (node, op, reason)."""
    trt = import_tensorrt(module)
    log = new_logger(trt)
    register_plugins(trt, log, plugins)
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
    trt = import_tensorrt(module)
    answer: dict[str, Any] = {"version": str(trt.__version__), "problems": [], "gpu": None, "timing_cache": None}
    if module == "tensorrt":  # it measures kernels; RTX builds without a GPU
        cuda = Cuda()
        cuda.use(device)
        answer["gpu"] = cuda.gpu(device)
    log = new_logger(trt)
    register_plugins(trt, log, plugins)
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
    builder = made_by(trt.Builder, log, f"{PRODUCTS[trt.__name__]} cannot start here")
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
