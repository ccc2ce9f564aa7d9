"""One measurement in a process of its own: ``_runtimes.py KIND REQUEST`` prints a JSON object.

``pair``: both ncnn models loaded side by side, run in turn, on the same input. ``onnxruntime`` and ``mnn``: that
runtime alone; ``mnn`` runs in an environment of its own and needs only numpy and MNN.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WARMUP = 3


def feed_of(asked: dict[str, Any]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in asked["shapes"].items()}


def error(actual: Sequence[Any], expected: Sequence[Any]) -> float:
    """The largest relative L2 error of any output."""
    worst = 0.0
    for got, wanted in zip(actual, expected, strict=True):
        flat = np.asarray(wanted, np.float64).ravel()
        if np.size(got) != flat.size:
            return float("inf")
        apart = np.linalg.norm(np.asarray(got, np.float64).ravel() - flat)
        worst = max(worst, float(apart / max(np.linalg.norm(flat), 1e-12)))
    return worst if np.isfinite(worst) else float("inf")


def in_turn(jobs: Sequence[Callable[[], Any]], loops: int) -> list[list[float]]:
    """Milliseconds of each of ``jobs``: A B B A A B ..."""
    for job in jobs:
        for _ in range(WARMUP):
            job()
    spent: list[list[float]] = [[] for _ in jobs]
    for loop in range(loops):
        for index in range(len(jobs)) if loop % 2 == 0 else reversed(range(len(jobs))):
            started = time.perf_counter()
            jobs[index]()
            spent[index].append((time.perf_counter() - started) * 1e3)
    return spent


def ncnn_files(kind: str, folder: Path, feed: dict[str, Any], wanted: list[str]) -> tuple[Path, Path, Any, list[str]]:
    """``.param``, ``.bin``, the inputs by blob name in ncnn's dims, and the output blobs in ONNX order."""
    if kind == "pnnx":
        arrays = {f"in{i}": np.ascontiguousarray(array[0]) for i, array in enumerate(feed.values())}
        return folder / "sim.ncnn.param", folder / "sim.ncnn.bin", arrays, [f"out{i}" for i in range(len(wanted))]
    from mobilekit.bundle import open_bundle
    from mobilekit.runners.blobs import to_blob

    bundle = open_bundle(folder / "ours")
    artifact = bundle.manifest.ncnn
    assert artifact is not None
    infos = {info.name: info for info in bundle.manifest.inputs}
    arrays = {blob.blob: to_blob(feed[blob.tensor], infos[blob.tensor], blob) for blob in artifact.inputs}
    names = {blob.tensor: blob.blob for blob in artifact.outputs}
    return bundle.root / artifact.param, bundle.root / artifact.bin, arrays, [names[name] for name in wanted]


def ncnn_model(
    param: Path, weights: Path, arrays: dict[str, Any], outputs: list[str]
) -> Callable[[], list[Any]] | None:
    """A function that runs the model once; ``None`` where it does not load or run."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 2
    for flag in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{flag}", False)
    if not param.is_file() or net.load_param(str(param)) or net.load_model(str(weights)):
        return None
    mats = {name: ncnn.Mat(array).clone() for name, array in arrays.items()}

    def run() -> list[Any]:
        with net.create_extractor() as extractor:
            for name, mat in mats.items():
                extractor.input(name, mat)
            found = [extractor.extract(name) for name in outputs]
            if any(code for code, _ in found):
                raise RuntimeError("a layer failed")
            return [np.array(mat) for _, mat in found]

    try:
        run()
    except RuntimeError:
        return None
    return run


def pair(asked: dict[str, Any]) -> dict[str, Any]:
    folder, feed = Path(asked["folder"]), feed_of(asked)
    kinds = ("mobilekit", "pnnx")[:: -1 if asked["flip"] else 1]
    models = {kind: ncnn_model(*ncnn_files(kind, folder, feed, asked["outputs"])) for kind in kinds}
    expected = list(np.load(folder / "expected.npz").values())
    running = {kind: run for kind, run in models.items() if run is not None}
    found: dict[str, Any] = {f"{kind}_rel_l2": error(run(), expected) for kind, run in running.items()}
    for kind, spent in zip(running, in_turn(list(running.values()), asked["loops"]), strict=True):
        found[f"{kind}_ms"] = spent
    return found


def onnxruntime(asked: dict[str, Any]) -> dict[str, Any]:
    """Its latency; the first call also writes what all are held against."""
    import onnxruntime as ort

    folder, feed = Path(asked["folder"]), feed_of(asked)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    expected = session.run(None, feed)
    np.savez(folder / "expected.npz", *expected)
    names = [value.name for value in session.get_outputs()]
    (spent,) = in_turn([lambda: session.run(None, feed)], asked["loops"])
    return {"ms": statistics.median(spent), "outputs": names}


def mnn(asked: dict[str, Any]) -> dict[str, Any]:
    import _tools  # type: ignore[import-not-found] # the converter inside MNN's wheel
    import MNN  # type: ignore[import-not-found]

    folder, feed = Path(asked["folder"]), feed_of(asked)
    made = folder / "model.mnn"
    arguments = ["-f", "ONNX", "--modelFile", folder / "sim.onnx", "--MNNModel", made, "--bizCode", "benchmark"]
    _tools.mnnconvert(["mnnconvert", *map(str, arguments)])
    net = MNN.Interpreter(str(made))
    session = net.createSession({"backend": "CPU", "numThread": 2, "precision": "high"})
    nchw = MNN.Tensor_DimensionType_Caffe
    inputs = net.getSessionInputAll(session)
    hosts = {n: MNN.Tensor(a.shape, MNN.Halide_Type_Float, a, nchw) for n, a in feed.items()}
    results = net.getSessionOutputAll(session)
    empty = {n: MNN.Tensor(t.getShape(), MNN.Halide_Type_Float, np.zeros(t.getShape(), np.float32), nchw)
             for n, t in results.items()}  # fmt: skip

    def run() -> list[Any]:
        for name, tensor in inputs.items():
            tensor.copyFrom(hosts[name])
        net.runSession(session)
        for name, tensor in results.items():
            tensor.copyToHostTensor(empty[name])
        return [empty[name].getNumpyData() for name in asked["outputs"]]

    found = {"rel_l2": error(run(), list(np.load(folder / "expected.npz").values()))}
    (spent,) = in_turn([run], asked["loops"])
    return {**found, "ms": statistics.median(spent)}


def main() -> None:
    kind, request = sys.argv[1:]
    asked = json.loads(Path(request).read_text())
    found = {"pair": pair, "onnxruntime": onnxruntime, "mnn": mnn}[kind](asked)
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
