"""Plans run on samples, and timed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .base import WorkError, say
from .bindings import import_tensorrt
from .cuda import Cuda, driver_version
from .engine import Engine
from .look import memory_of
from .slot import Slot

_WARM_UP_WINDOW, _WARM_UP_MOST, _WARM_UP_S, _STABLE = 10, 500, 5.0, 0.05


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
    trt = import_tensorrt(module)
    path = (folder / plan).resolve()
    facts = path.stat()
    key = (module, str(path), facts.st_size, facts.st_mtime_ns, device)
    if key not in _LOADED:
        say("loading the plan")
        _LOADED[key] = Engine(trt, cuda, path, device, plugins)
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
        slot.stream.synchronize()
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
        "device_memory_bytes": memory_of(engine.engine),
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
        used = slot.stream.has_graph
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
        slot.stream.synchronize()
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
    graphs = all(slot.stream.has_graph for slot in slots)
    return {"streams": count, "inferences": done, "seconds": took, "per_second": done / took, "cuda_graph": graphs}


def _alike(one: Any, other: Any) -> bool:
    """As sums in another order may differ, and no further."""
    import numpy

    if one.shape != other.shape:
        return False
    a, b = one.astype(numpy.float64), other.astype(numpy.float64)
    size = numpy.abs(b[numpy.isfinite(b)]).max(initial=0.0)
    return bool(numpy.allclose(a, b, rtol=0, atol=0.01 * size, equal_nan=True))
