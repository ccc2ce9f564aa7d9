"""From a prepared ONNX to a plan."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .base import say, write_whole
from .bindings import PRODUCTS, import_tensorrt, logger, made_by, register_plugins
from .cache import Cache
from .cuda import Cuda
from .look import engine_facts

_NODE_IN_ERROR = re.compile(r"node (?:\d+ )?(?:with name: |\[)?\"?([^\"\]]+?)\"?(?: and operator: (\w+)|\])")


def check(folder: Path, *, module: str, onnx: str, plugins: Sequence[str] = ()) -> dict[str, Any]:
    """Every node of ``onnx`` that the parser refuses: ``version`` and ``problems`` (node, op, reason)."""
    trt = import_tensorrt(module)
    log = logger(trt)
    before = len(log.errors)
    register_plugins(trt, log, plugins)
    path = folder / onnx
    _PARSED.clear()
    parsed = _Parsed(trt, log)
    problems: list[dict[str, str]] = []
    if parsed.parser.parse_from_file(str(path)):
        _PARSED[_identity(module, path, plugins)] = parsed
    else:
        listing = _Parsed(trt, log)  # what parses stops at the first
        listing.parser.supports_model_v2(path.read_bytes(), str(path))
        problems = _parser_errors(listing.parser) or _parser_errors(parsed.parser)
        problems = problems or [
            {"node": "", "op": "", "reason": log.last_error(before) or "the parser refused the model"}
        ]
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
    ``timing_cache`` and ``gpu``, and ``engine`` where the log has no such message (:func:`.look.engine_facts`).
    """
    trt = import_tensorrt(module)
    answer: dict[str, Any] = {"version": str(trt.__version__), "problems": [], "gpu": None, "timing_cache": None}
    if module == "tensorrt":  # it measures kernels; RTX builds without a GPU
        cuda = Cuda()
        cuda.use(device)
        answer["gpu"] = cuda.gpu(device)
    path = folder / onnx
    parsed = _PARSED.pop(_identity(module, path, plugins), None)
    _PARSED.clear()
    if parsed is None:
        log = logger(trt)
        register_plugins(trt, log, plugins)
        parsed = _Parsed(trt, log)
        if not parsed.parser.parse_from_file(str(path)):
            return dict(answer, problems=_parser_errors(parsed.parser), warnings=log.warnings())
    builder, network, log = parsed.builder, parsed.network, parsed.log
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
        # The second may refuse what the first took: timings of another GPU.
        cache.taken = timings is not None and bool(config.set_timing_cache(timings, False)) and bool(cache.old)
        if not cache.taken:
            timings = config.create_timing_cache(b"")
            config.set_timing_cache(timings, False)
    say("building")
    errors, layers = len(log.errors), len(log.layers)
    started = time.perf_counter()
    serialized = builder.build_serialized_network(network, config)
    answer.update(seconds=time.perf_counter() - started, warnings=log.warnings())
    if serialized is None:
        reason = log.last_error(errors) or "the builder gave no plan and no reason"
        found = _NODE_IN_ERROR.search(reason)
        node, op = (found[1], found[2] or "") if found else ("", "")
        return dict(answer, problems=[{"node": node, "op": op, "reason": reason}])
    data = memoryview(serialized)
    write_whole(folder / plan, data)
    if cache is not None:
        answer["timing_cache"] = cache.report(timings)
    told = log.layers[layers:]
    if not told and answer["gpu"]:
        answer["engine"] = _loaded(trt, log, data)
    return dict(answer, plan_bytes=data.nbytes, log=told)


def _loaded(trt: Any, log: Any, plan: Any) -> dict[str, Any] | None:
    """What the plan says of itself on this GPU; ``None`` where it does not, which is no reason to be without it."""
    try:
        runtime = trt.Runtime(log)
        engine = runtime.deserialize_cuda_engine(plan)
        return None if engine is None else engine_facts(trt, engine)
    except (TypeError, RuntimeError, AttributeError):
        return None


class _Parsed:
    """A network with its parser, which owns the weights, and its builder."""

    def __init__(self, trt: Any, log: Any) -> None:
        builder = made_by(trt.Builder, log, f"{PRODUCTS[trt.__name__]} cannot start here")
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # what 11 always is
        network = builder.create_network(0 if typed is None else 1 << int(typed))
        # The bindings keep no references, and attributes go in this order: the parser must not be the last.
        self.parser = trt.OnnxParser(network, log)
        self.network, self.builder, self.log = network, builder, log


_PARSED: dict[tuple[Any, ...], _Parsed] = {}
"""What was checked and is likely to be built next: parsing is a tenth of a build."""


def _identity(module: str, path: Path, plugins: Sequence[str]) -> tuple[Any, ...]:
    """Of the file itself, which may be moved in between."""
    facts = path.stat()
    return (module, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, tuple(plugins))


def _parser_errors(parser: Any) -> list[dict[str, str]]:
    found: dict[tuple[str, str], dict[str, str]] = {}
    for index in range(min(parser.num_errors, 1000)):
        error = parser.get_error(index)
        problem = {"node": error.node_name(), "op": error.node_operator(), "reason": " ".join(error.desc().split())}
        found.setdefault((problem["node"], problem["op"]), problem)
    return list(found.values())
