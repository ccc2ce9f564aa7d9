"""ONNX Runtime with its own providers, timed beside the plans."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gpucheck.rows import STREAMS, Peer

PROGRAM = Path(__file__).parents[1]
PEERS = {"CUDA": "CUDAExecutionProvider", "RTX provider": "NvTensorRTRTXExecutionProvider"}
PLUGINS = {"NvTensorRTRTXExecutionProvider": "onnxruntime_ep_nv_tensorrt_rtx"}
"""Providers that a package of their own brings, which says what ONNX Runtime has to load."""
PEER_S = 120.0
"""What one provider may take: nothing of it may use up a lease."""


def ask_peers(bundle: Path) -> dict[str, Peer]:
    """Those that this machine has, by the name in the table."""
    import onnxruntime

    there = onnxruntime.get_available_providers()
    there += [provider for provider, module in PLUGINS.items() if importlib.util.find_spec(module) is not None]
    return {name: _peer(bundle, provider) for name, provider in PEERS.items() if provider in there}


def _peer(bundle: Path, provider: str) -> Peer:
    """In a process of its own: providers have ended more than themselves."""
    command = [sys.executable, str(PROGRAM), "peer", str(bundle), provider]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PEER_S, check=False)
        told = json.loads(done.stdout.strip().splitlines()[-1])
        return Peer(told["p50_ms"], {int(streams): rate for streams, rate in told["per_second"].items()})
    except (subprocess.TimeoutExpired, IndexError, KeyError, ValueError) as error:
        said = done.stderr.strip().splitlines() if not isinstance(error, subprocess.TimeoutExpired) else []
        return Peer(problem=said[-1] if said else str(error))


def peer(bundle: Path, provider: str) -> int:
    """Time the bundle's prepared model with one provider of ONNX Runtime; one JSON line."""
    import onnxruntime

    from mobilekit.bundle import open_bundle
    from mobilekit.runners.ort import load_cuda
    from mobilekit.validate.inputs import seeded_inputs

    lacking = load_cuda(onnxruntime)
    if provider not in onnxruntime.get_available_providers() and provider in PLUGINS:
        plugin = importlib.import_module(PLUGINS[provider])
        onnxruntime.register_execution_provider_library(provider, plugin.get_library_path())
    manifest = open_bundle(bundle).manifest
    assert manifest.tensorrt is not None
    session = onnxruntime.InferenceSession(
        str(bundle / manifest.tensorrt.onnx), providers=[provider, "CPUExecutionProvider"]
    )
    if provider not in session.get_providers():
        print(f"{provider} does not start here{lacking}", file=sys.stderr)
        return 4
    feeds = seeded_inputs(manifest.inputs, seed=0, preprocess=manifest.preprocess)
    print(json.dumps(measure(lambda: session.run(None, feeds))))
    return 0


def measure(once: Callable[[], object], *, rounds: int = 100, seconds: float = 1.0) -> dict[str, Any]:
    """The median of ``rounds`` runs in milliseconds, and runs a second from each number of threads."""
    for _ in range(10):
        once()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        once()
        times.append(time.perf_counter() - started)

    def keep_on(until: float) -> int:
        count = 0
        while time.perf_counter() < until:
            once()
            count += 1
        return count

    rates = {}
    for streams in STREAMS:
        with ThreadPoolExecutor(streams) as pool:
            started = time.perf_counter()
            count = sum(pool.map(keep_on, [started + seconds] * streams))
            rates[streams] = round(count / (time.perf_counter() - started), 2)
    return {"p50_ms": sorted(times)[rounds // 2] * 1e3, "per_second": rates}
