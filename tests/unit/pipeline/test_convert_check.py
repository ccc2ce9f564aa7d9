"""Both converters side by side; the other one is a script that misbehaves in every way that a converter can."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from onnx import helper

from mobilekit.bundle import TensorInfo
from mobilekit.errors import MissingToolError, UsageError
from mobilekit.pipeline.convert_check import ConvertCheckOptions, ConvertCheckReport, convert_check
from mobilekit.validate.inputs import seeded_samples
from tests.models import conv_classifier, of_nodes, save

Node = helper.make_node

MODEL = """
import pathlib, sys
stem = sys.argv[1].removesuffix(".onnx")
assert any(word.startswith("inputshape=[") for word in sys.argv), sys.argv
pathlib.Path(stem + ".ncnn.param").write_text({param!r})
pathlib.Path(stem + ".ncnn.bin").write_bytes(b"")
pathlib.Path(stem + "_ncnn.py").write_text({script!r})
"""
RELU = "7767517\n2 2\nInput in0 0 1 in0\nReLU relu 1 1 in0 out0\n"
SCRIPT = (
    'ex.input("in0", ncnn.Mat(in0.numpy(), batch_index=0).clone())\n'
    "out.append(torch.from_numpy(out0.numpy(batch_index=0)))\n"
)


def fake(folder: Path, body: str) -> Path:
    program = folder / "pnnx"
    program.write_text(f"#!{sys.executable}\n{body}")
    program.chmod(0o755)
    return program


def relu(folder: Path, batch: int = 1) -> Path:
    shape = (batch, 3, 4, 4)
    return save(of_nodes([Node("Relu", ["x"], ["y"])], {"x": shape}, {"y": shape}), folder / "relu.onnx")


def checked(folder: Path, body: str, *, batch: int = 1, timeout_s: float = 60.0) -> ConvertCheckReport:
    options = ConvertCheckOptions(pnnx=fake(folder, body), samples=1, iterations=1, timeout_s=timeout_s)
    report = convert_check(relu(folder, batch), options)
    assert report.ours.outcome == "right", report.ours
    return report


@pytest.mark.parametrize("batch", [1, 3])
def test_both_are_right(tmp_path: Path, batch: int) -> None:
    report = checked(tmp_path, MODEL.format(param=RELU, script=SCRIPT), batch=batch)
    assert report.theirs.outcome == "right"
    assert report.theirs.layers == 2
    assert report.theirs.errors["y"] == 0
    assert report.speedup is not None
    assert report.speedup > 0
    assert report.ours.latency_ms is not None
    assert report.theirs.latency_ms is not None


FAILURES = {
    "nothing": ("pass", "failed", "exit code 0 and wrote no ncnn model"),
    "crash": ("import os; os.kill(os.getpid(), 11)", "failed", "crashed (SIGSEGV)"),
    "code": ("print('no such operator'); raise SystemExit(3)", "failed", "exit code 3: no such operator"),
    "unknown layer": (
        MODEL.format(param=RELU.replace("ReLU", "aten::frobnicate"), script=SCRIPT),
        "does not load",
        "does not load",
    ),
    "no output": (MODEL.format(param=RELU.replace("out0", "7"), script=SCRIPT), "failed", "no output for 'y'"),
    "other numbers": (MODEL.format(param=RELU.replace("ReLU", "Sigmoid"), script=SCRIPT), "wrong", "relative L2"),
    "no text": ("open('model.ncnn.param', 'w').write('x'); open('model.ncnn.bin', 'w')", "failed", "no output"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_the_other_does_wrong_is_a_row(tmp_path: Path, name: str) -> None:
    body, outcome, reason = FAILURES[name]
    report = checked(tmp_path, body)
    assert report.theirs.outcome == outcome
    assert reason in report.theirs.reason
    assert report.speedup is None
    assert "mobilekit is right, pnnx" in report.sentence


GATED = """7767517
6 7
Input in0 0 1 in0
Split split 1 2 in0 a b
Reduction sum 1 1 a c 0=0 1=1 4=1 5=1
ReLU relu 1 1 c d
BinaryOp mul 2 1 b d e 0=2
BinaryOp add 1 1 e out0 0=0 1=1 2=1e-6
"""


def test_each_sample_is_judged_by_itself(tmp_path: Path) -> None:
    """The model gives zero where its inputs' sum is negative: 1e-6 instead says nothing there."""
    shape = (1, 3, 4, 4)
    nodes = [
        Node("ReduceSum", ["x"], ["s"], keepdims=1),
        Node("Relu", ["s"], ["g"]),
        Node("Mul", ["x", "g"], ["y"]),
    ]
    model = save(of_nodes(nodes, {"x": shape}, {"y": shape}), tmp_path / "gated.onnx")
    info = TensorInfo(name="x", dtype="float32", shape=shape)

    def signs(seed: int) -> list[bool]:
        return [sample.tensors["x"].sum() > 1 for sample in seeded_samples([info], seed=seed, count=2)]

    seed = next(seed for seed in range(100) if signs(seed) == [False, True])
    program = fake(tmp_path, MODEL.format(param=GATED, script=SCRIPT))
    report = convert_check(model, ConvertCheckOptions(pnnx=program, samples=2, seed=seed, iterations=1))
    assert (report.ours.outcome, report.theirs.outcome) == ("right", "right"), report


def test_another_size_is_wrong(tmp_path: Path) -> None:
    pooled = RELU.replace("ReLU relu 1 1 in0 out0", "Pooling pool 1 1 in0 out0 0=0 1=2 2=2")
    report = checked(tmp_path, MODEL.format(param=pooled, script=SCRIPT))
    assert report.theirs.outcome == "wrong"
    assert "12 elements" in report.theirs.reason


def test_one_that_hangs_is_ended(tmp_path: Path) -> None:
    body = f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    report = checked(tmp_path, body, timeout_s=20.0)
    assert report.theirs.reason == "it did not end within 20 s"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_our_refusal_is_a_row_too(tmp_path: Path) -> None:
    nodes = [Node("RandomUniformLike", ["x"], ["r"]), Node("Add", ["x", "r"], ["y"])]
    model = of_nodes(nodes, {"x": (1, 3, 4, 4)}, {"y": (1, 3, 4, 4)})
    program = fake(tmp_path, MODEL.format(param=RELU, script=SCRIPT))
    report = convert_check(save(model, tmp_path / "m.onnx"), ConvertCheckOptions(pnnx=program, samples=1, iterations=1))
    assert report.ours.outcome == "refused"
    assert "RandomUniformLike" in report.ours.reason
    assert report.theirs.outcome == "wrong"


def test_without_pnnx_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError) as caught:
        convert_check(relu(tmp_path))
    assert "pip download --no-deps pnnx" in caught.value.hint
    assert caught.value.exit_code == 4
    with pytest.raises(UsageError):
        convert_check(relu(tmp_path), ConvertCheckOptions(pnnx=tmp_path / "nothing"))


def test_the_command(tmp_path: Path) -> None:
    program = fake(tmp_path, MODEL.format(param=RELU, script=SCRIPT))
    model = relu(tmp_path)
    command = [sys.executable, "-m", "mobilekit", "convert-check", str(model), "--iterations", "1"]
    shown = subprocess.run([*command, "--pnnx", str(program)], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "times as long as mobilekit's" in " ".join(shown.stdout.split())
    told = subprocess.run([*command, "--pnnx", str(program), "--json"], capture_output=True, text=True, check=False)
    assert json.loads(told.stdout)["theirs"]["outcome"] == "right"
    missing = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": ""})
    assert missing.returncode == 4
    assert len(missing.stderr.strip().splitlines()) == 2


@pytest.mark.network
def test_the_real_one(tmp_path: Path) -> None:
    """pnnx from its wheel, without torch."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path), "pnnx"]
    subprocess.run(pip, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("pnnx*.whl"))) as wheel:
        program = Path(wheel.extract("pnnx/pnnx", tmp_path / "wheel"))
    program.chmod(0o755)
    model = conv_classifier(input_name="x")
    report = convert_check(save(model, tmp_path / "m.onnx"), ConvertCheckOptions(pnnx=program, iterations=2))
    assert report.theirs.outcome == "right", report.theirs
    assert report.speedup is not None
