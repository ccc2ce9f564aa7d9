"""How `mobilekit export` grows: with the number of nodes, and with the size of the weights.

usage: export_scaling.py [--nodes 20000] [--gigabytes 2.5] [--json FILE]

Chains of 1,000 and of ``--nodes`` nodes are exported without verification, in turn: seconds and their ratio; the long
one is then run on the host. A model of ``--gigabytes`` of external float32 weights (Conv, Gemm and MatMul) is exported
likewise: the peak of the resident memory of all its processes together, sampled, and its ratio to the weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import onnx
from _peers import clean_env, machine
from _timing import Cost, alternate, run_process
from onnx import TensorProto, helper, numpy_helper

MOBILEKIT = Path(sys.executable).parent / "mobilekit"
SHAPE = (1, 4, 8, 8)


def chain(nodes: int, path: Path) -> Path:
    """Conv, Tanh, Sigmoid, Elu, and again: nothing of it folds away."""
    rng = np.random.default_rng(0)
    made, weights = [], []
    for index in range(nodes):
        inputs = [f"t{index - 1}" if index else "x"]
        kind = ("Conv", "Tanh", "Sigmoid", "Elu")[index % 4]
        if kind == "Conv":
            weight = (rng.standard_normal((4, 4, 1, 1)) / 2).astype(np.float32)
            weights.append(numpy_helper.from_array(weight, f"w{index}"))
            inputs.append(f"w{index}")
        made.append(helper.make_node(kind, inputs, [f"t{index}"], name=f"n{index}"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("x", f"t{nodes - 1}")]
    graph = helper.make_graph(made, "chain", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def heavy(size_bytes: int, path: Path) -> Path:
    """About ``size_bytes`` of weights beside ``path``: a third each in Conv, Gemm and MatMul of ~150 MB."""
    side = 6144
    weights: list[tuple[str, tuple[int, ...]]] = []
    nodes = [helper.make_node("Relu", ["x"], ["h0"])]
    total, index = 0, 0
    while total < size_bytes:
        name = f"w{index}"
        source, target = f"h{index}", f"h{index + 1}"
        if index % 3 == 0:
            shape: tuple[int, ...] = (side, side, 1, 1)
            nodes.append(helper.make_node("Unsqueeze", [source, "axes"], [f"u{index}"]))
            nodes.append(helper.make_node("Conv", [f"u{index}", name], [f"c{index}"]))
            nodes.append(helper.make_node("Squeeze", [f"c{index}", "axes"], [target]))
        elif index % 3 == 1:
            shape = (side, side)
            nodes.append(helper.make_node("Gemm", [source, name], [target], transB=1))
        else:
            shape = (side, side)
            nodes.append(helper.make_node("MatMul", [source, name], [target]))
        weights.append((name, shape))
        total += side * side * 4
        index += 1
    rng = np.random.default_rng(0)
    tensors = [numpy_helper.from_array(np.array([2, 3], np.int64), "axes")]
    with path.with_suffix(".data").open("wb") as data:
        for name, shape in weights:
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            length = side * side * 4
            for key, value in (("location", data.name), ("offset", data.tell()), ("length", length)):
                tensor.external_data.add(key=key, value=Path(value).name if key == "location" else str(value))
            tensors.append(tensor)
            for _ in range(8):
                data.write((rng.standard_normal(side * side // 8, dtype=np.float32) / 64).tobytes())
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, side)) for name in ("x", f"h{index}")]
    graph = helper.make_graph(nodes, "heavy", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def tree(root: int) -> Iterator[int]:
    """The process and its descendants."""
    yield root
    try:
        for task in Path(f"/proc/{root}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from tree(int(child))
    except OSError:
        return


def resident_bytes(root: int) -> int:
    """Resident memory of a process and its descendants, pages of mapped files included."""
    total = 0
    for pid in tree(root):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
    return total


def watched(command: list[str | Path], cwd: Path) -> tuple[float, int, int]:
    """Seconds, peak of :func:`resident_bytes`, exit code."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env=clean_env(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak = 0
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, resident_bytes(process.pid))

    thread = threading.Thread(target=sample)
    thread.start()
    code = process.wait()
    done.set()
    thread.join()
    return time.perf_counter() - started, peak, code


def export(model: Path, folder: Path) -> list[str | Path]:
    return [MOBILEKIT, "export", model, "-o", folder / model.stem, "--no-verify"]


def measure_nodes(nodes: int, folder: Path, runs: int) -> dict[str, Any]:
    models = [chain(count, folder / f"chain{count}.onnx") for count in (1000, nodes)]

    def job(model: Path) -> Cost:
        return run_process(export(model, folder), cwd=folder, env=clean_env())

    short, long = alternate([lambda model=model: job(model) for model in models], runs)
    np.save(folder / "x.npy", np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32))
    run = run_process([MOBILEKIT, "run", folder / models[1].stem, "--input", "x.npy"], cwd=folder, env=clean_env())
    return {
        "nodes": nodes,
        "seconds_1000": round(short.seconds, 2),
        "seconds": round(long.seconds, 2),
        "ratio": round(long.seconds / short.seconds, 2),
        "peak_mb": round(long.peak_mb, 1),
        "exit_codes": [short.returncode, long.returncode],
        "run_exit_code": run.returncode,
    }


def measure_weights(size_bytes: int, folder: Path) -> dict[str, Any]:
    model = heavy(size_bytes, folder / "heavy.onnx")
    weights = model.with_suffix(".data").stat().st_size
    seconds, peak, code = watched(export(model, folder), folder)
    return {
        "weights_mb": round(weights / 1e6),
        "seconds": round(seconds, 2),
        "peak_mb": round(peak / 1e6),
        "ratio": round(peak / weights, 3),
        "exit_code": code,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=20000)
    parser.add_argument("--gigabytes", type=float, default=2.5)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the large files go (default: the temporary folder)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        if arguments.nodes:
            found["nodes"] = measure_nodes(arguments.nodes, Path(name), arguments.runs)
            print(json.dumps(found["nodes"]))
        if arguments.gigabytes:
            found["weights"] = measure_weights(int(arguments.gigabytes * 1e9), Path(name))
            print(json.dumps(found["weights"]))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
