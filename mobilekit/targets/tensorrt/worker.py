"""Builds one plan. Runs in a fresh child process: TensorRT may abort, and a build after a failed one may be wrong.

Nothing else of mobilekit imports TensorRT. The functions take and give JSON-able values.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["build", "check"]

_NODE_IN_ERROR = re.compile(r"node (?:\d+ )?(?:with name: |\[)?\"?([^\"\]]+?)\"?(?: and operator: (\w+)|\])")


def check(*, module: str, onnx: str, limit: int = 1000) -> dict[str, Any]:
    """Every node of the file ``onnx`` that the parser refuses: ``version`` and ``problems`` (node, op, reason)."""
    trt = importlib.import_module(module)
    log = _logger(trt)
    # The bindings keep no references: builder and network must outlive the parser.
    builder, parser, network = _parser(trt, log)
    taken = parser.supports_model_v2(Path(onnx).read_bytes(), onnx)
    problems = [] if taken else _parser_errors(parser, limit)
    if not taken and not problems:
        problems = [{"node": "", "op": "", "reason": log.last_error() or "the parser refused the model"}]
    del parser, network, builder
    return {"version": str(trt.__version__), "problems": problems}


def build(
    *,
    module: str,
    onnx: str,
    plan: str,
    profiles: Mapping[str, Sequence[Sequence[int]]],
    compute_capabilities: Sequence[str],
    workspace_bytes: int,
    optimization_level: int | None,
    timing_cache: str | None,
) -> dict[str, Any]:
    """Parse ``onnx`` and write ``plan``; what was built, or why not.

    ``profiles`` maps inputs to (min, opt, max) shapes. The answer has ``log`` (the messages that tell of layers),
    ``warnings``, and either ``plan_bytes`` or ``problems`` as :func:`check` gives them.
    """
    trt = importlib.import_module(module)
    log = _logger(trt)
    builder, parser, network = _parser(trt, log)
    answer: dict[str, Any] = {"version": str(trt.__version__), "problems": []}
    if not parser.parse_from_file(onnx):
        return answer | {"problems": _parser_errors(parser, 1000), "warnings": log.warnings()}
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
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
    cache = _use_timing_cache(config, timing_cache)
    started = time.perf_counter()
    serialized = builder.build_serialized_network(network, config)
    answer |= {"seconds": time.perf_counter() - started, "warnings": log.warnings()}
    if serialized is None:
        reason = log.last_error() or "the builder gave no plan and no reason"
        return answer | {"problems": [_located(reason)]}
    data = memoryview(serialized)
    Path(plan).write_bytes(data)
    if cache is not None and timing_cache:
        Path(timing_cache).write_bytes(memoryview(cache.serialize()))
    return answer | {"plan_bytes": data.nbytes, "log": log.layer_messages()}


def _parser(trt: Any, log: Any) -> tuple[Any, Any, Any]:
    builder = trt.Builder(log)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    return builder, trt.OnnxParser(network, log), network


def _parser_errors(parser: Any, limit: int) -> list[dict[str, str]]:
    found: dict[tuple[str, str], dict[str, str]] = {}
    for index in range(min(parser.num_errors, limit)):
        error = parser.get_error(index)
        problem = {"node": error.node_name(), "op": error.node_operator(), "reason": " ".join(error.desc().split())}
        found.setdefault((problem["node"], problem["op"]), problem)
    return list(found.values())


def _located(reason: str) -> dict[str, str]:
    found = _NODE_IN_ERROR.search(reason)
    return {"node": found[1] if found else "", "op": (found[2] or "") if found else "", "reason": reason}


def _use_timing_cache(config: Any, path: str | None) -> Any:
    """Full TensorRT times its kernels and keeps what it saw; RTX has nothing to time."""
    if path is None or not hasattr(config, "create_timing_cache"):
        return None
    known = Path(path).read_bytes() if Path(path).is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None:  # of another version: begin anew
        cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, False)
    return cache


def _logger(trt: Any) -> Any:
    """An ``ILogger`` that keeps errors, warnings and the messages about layers; the rest is thousands of lines."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []
            self._warnings: list[str] = []
            self._layers: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self._errors.append(message)
            elif severity == trt.ILogger.Severity.WARNING:
                self._warnings.append(message)
            elif message.lstrip().startswith("Layers:"):
                self._layers.append(message)

        def last_error(self) -> str:
            return " ".join((self._errors or [""])[-1].split())

        def warnings(self) -> list[str]:
            return list(dict.fromkeys(self._warnings))[:50]

        def layer_messages(self) -> list[str]:
            return self._layers

    return Log()
