"""scripts/gpu_check.sh, as far as a machine without a GPU goes: carried in pieces, built, compared; then it says so."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mobilekit.errors import SetupError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.targets.tensorrt.flavour import FLAVOURS, count_gpus, installed
from mobilekit.targets.tensorrt.host import Gpu, LocalHost
from tests.models import conv_classifier, save

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.sh"
PROGRAM = SCRIPT.with_suffix("")
"""A folder that Python runs."""

rtx = pytest.mark.skipif(not installed(FLAVOURS["rtx"]), reason="needs the extra [tensorrt]")


def launch(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, cwd=cwd, env=environment, timeout=280
    )


@pytest.fixture(scope="module")
def program() -> SimpleNamespace:
    """Its functions and classes, whichever part they are in."""
    runpy.run_path(str(PROGRAM), run_name="loaded by a test")
    parts = [sys.modules[f"gpucheck.{name}"] for name in ("rows", "work", "check", "cli")]
    return SimpleNamespace(**{name: value for part in parts for name, value in vars(part).items()})


def test_a_folder_is_carried_in_pieces_and_is_the_same_again(tmp_path: Path) -> None:
    stage, pieces = tmp_path / "a stage", tmp_path / "the pieces"
    (stage / "wheels").mkdir(parents=True)
    (stage / "venv").mkdir()
    (stage / "venv" / "made there").write_text("not carried")
    content = os.urandom(2_500_000)
    (stage / "wheels" / "a b.whl").write_bytes(content)
    done = launch("sh", SCRIPT, "--split", stage, pieces, 1)
    assert done.returncode == 0, done.stderr
    found = sorted(pieces.glob("piece-*"))
    assert len(found) == 3
    assert all(piece.stat().st_size <= 1 << 20 for piece in found)
    done = launch("sh", pieces / "gpu_check.sh", "--join", pieces, tmp_path / "there")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there" / "wheels" / "a b.whl").read_bytes() == content
    assert not (tmp_path / "there" / "venv").exists()

    damaged = bytearray(found[1].read_bytes())
    damaged[100] ^= 1
    found[1].write_bytes(damaged)
    done = launch("sh", pieces / "gpu_check.sh", "--join", pieces, tmp_path / "elsewhere")
    assert done.returncode == 4
    assert "not those that were split" in done.stderr
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_half_a_folder_is_not_split(tmp_path: Path) -> None:
    stage, pieces, tools = tmp_path / "stage", tmp_path / "pieces", tmp_path / "tools"
    stage.mkdir()
    tools.mkdir()
    (tools / "tar").write_text("#!/bin/sh\nprintf half\nexit 2\n")  # as where a file cannot be read
    (tools / "tar").chmod(0o755)
    done = launch("env", f"PATH={tools}:{os.environ['PATH']}", "sh", SCRIPT, "--split", stage, pieces)
    assert done.returncode == 4
    assert "not all of" in done.stderr
    assert list(pieces.iterdir()) == []


def test_a_checkout_is_not_what_it_runs_in() -> None:
    done = launch("sh", SCRIPT)
    assert done.returncode == 2
    assert "--stage" in done.stderr


def test_a_staged_folder_for_another_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / SCRIPT.name).write_bytes(SCRIPT.read_bytes())
    (tmp_path / "python-version").write_text("2.0\n")
    done = launch("sh", tmp_path / "gpu_check.sh")
    assert done.returncode == 4
    assert "no Python 2.0" in done.stderr


def test_the_table_has_a_line_for_each_row_and_every_reason(program: SimpleNamespace) -> None:
    peers = {"CUDA": program.Peer(p50_ms=0.5, per_second={1: 2000.0})}
    absent = {"CUDA": program.Peer(problem="no cuDNN")}
    rows = [
        program.Row("a", "fp32", "pass", error=1.5e-6, latency_p50_ms=0.25, per_second={1: 4000.0}, peers=peers),
        program.Row("b", "int8", "refused", "too coarse", peers=absent),
        program.Row("c", "int8", "pass", peers=absent),
    ]
    text = program.table(rows)
    head, rule, first, second, _, reason, problem = text.splitlines()
    assert "CUDA p50 ms" in head
    assert set(rule) <= set("|- ")
    assert [cell.strip() for cell in first.split("|")][1:9] == [
        "a",
        "fp32",
        "pass",
        "1.5e-06",
        "-",
        "0.250",
        "-",
        "4000",
    ]
    assert first.count("|") == second.count("|") == head.count("|")
    assert reason == "b int8: too coarse"
    assert problem == "CUDA: no cuDNN", "once"


@rtx
def test_a_plan_is_compared_and_a_provider_timed(program: SimpleNamespace, tmp_path: Path) -> None:
    model, bundle = save(conv_classifier(), tmp_path / "model.onnx"), tmp_path / "model-fp32"
    export_model(model, bundle, ExportOptions(targets=("tensorrt",)))
    row = program.run_plan(program.Row("model", "fp32", "built"), bundle, "prepared")
    assert row.state == "pass"
    assert row.error < 1e-5
    assert (row.latency_p50_ms, row.compute_p50_ms, row.per_second) == (None, None, {}), "nothing ran on a GPU"
    done = launch(sys.executable, PROGRAM, "peer", bundle, "CPUExecutionProvider")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["p50_ms"] > 0
    assert set(told["per_second"]) == {"1", "2", "4"}
    done = launch(sys.executable, PROGRAM, "peer", bundle, "OpenVINOExecutionProvider")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1] == "OpenVINOExecutionProvider does not start here"
    calibration = program._calibration(tmp_path / "model-int8")
    assert len(list(calibration.glob("*.npy"))) == program.CALIBRATION_SAMPLES
    assert len({hashlib.sha256(path.read_bytes()).hexdigest() for path in calibration.iterdir()}) == 16


@rtx
@pytest.mark.network
@pytest.mark.slow
@pytest.mark.skipif(count_gpus() > 0, reason="for machines without a GPU")
def test_without_a_gpu_all_is_built_and_then_it_says_so(tmp_path: Path) -> None:
    done = launch(sys.executable, PROGRAM, "run", "--models", "mtcnn_pnet", "-o", tmp_path)
    assert done.returncode == 4, done.stderr
    assert "error: this machine has no NVIDIA driver" in done.stderr
    facts = json.loads((tmp_path / "gpu_check.json").read_text())
    assert facts["executed"] is False
    assert facts["gpu"] == []
    rows = {row["precision"]: row for row in facts["rows"]}
    assert {precision: row["state"] for precision, row in rows.items()} == dict.fromkeys(
        ("fp32", "fp16", "int8"), "built"
    )
    assert rows["fp32"]["prepared_error"] < 1e-5 < rows["fp16"]["prepared_error"] < rows["int8"]["prepared_error"] < 0.5
    assert all(row["error"] is None and row["latency_p50_ms"] is None for row in rows.values())


@rtx
def test_it_goes_on_where_it_was_ended_and_one_model_stops_no_other(
    program: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a lease has it that ends: what is done is kept, and nothing of it is done again."""
    model = save(conv_classifier(), tmp_path / "model.onnx")
    asked: list[str] = []

    def export(name: str, bundle: Path, options: ExportOptions) -> object:
        asked.append(bundle.name)
        if name == "magika":
            raise RuntimeError("a mistake of ours")
        return export_model(model, bundle, options)

    monkeypatch.setattr("mobilekit.pipeline.export.export_model", export)
    output = tmp_path / "results"

    def check(*more: str) -> tuple[int, dict[str, object]]:
        chosen = ("--models", "magika,mtcnn_pnet", "--precisions", "fp32,fp16")
        code = program.main(["run", "--rehearse", *chosen, "-o", str(output), *more])
        return code, json.loads((output / "gpu_check.json").read_text())

    code, facts = check("--budget", "0.001s")
    assert code == 3
    assert facts["missing"] == ["magika fp32", "mtcnn_pnet fp32", "magika fp16", "mtcnn_pnet fp16"]
    assert asked == []
    assert "4 of 4 are left" in capsys.readouterr().err
    output.mkdir(exist_ok=True)

    code, facts = check("--resume")
    assert code == 1
    assert [(row["model"], row["precision"], row["state"]) for row in facts["rows"]] == [
        ("magika", "fp32", "failed"),
        ("mtcnn_pnet", "fp32", "pass"),
        ("magika", "fp16", "failed"),
        ("mtcnn_pnet", "fp16", "pass"),
    ]
    assert facts["missing"] == []
    assert facts["executed"] is False
    assert "RuntimeError: a mistake of ours" in capsys.readouterr().out

    asked.clear()
    check("--resume")
    assert asked == ["magika-fp32", "magika-fp16"], "what failed is tried again, and what passed is not"

    (output / "gpu_check.json").write_text(json.dumps({**facts, "driver": "1.2.3"}))
    assert program.main(["run", "--rehearse", "--resume", "-o", str(output)]) == 2
    assert "another driver" in capsys.readouterr().err


def test_a_machine_that_refuses_the_first_plan_is_not_asked_again(
    program: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the driver is there and too old: the others are built, and all of it is one reason."""
    runs: list[str] = []

    def refuse(bundle: Path, *_: object) -> None:
        runs.append(bundle.name)
        raise SetupError("the driver is too old", hint="update it")

    monkeypatch.setattr("mobilekit.pipeline.validate.validate_bundle", refuse)
    check = sys.modules["gpucheck.check"]
    monkeypatch.setattr(check, "build", lambda model, precision, *_: program.Row(model, precision, "built"))
    monkeypatch.setattr(check, "choose", lambda flavour: (LocalHost().hello(), flavour or "rtx", ""))
    arguments = ["run", "--models", "magika,mtcnn_pnet", "--precisions", "fp32", "-o", str(tmp_path)]
    assert program.main(arguments) == 4
    facts = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [row["state"] for row in facts["rows"]] == ["failed", "built"]
    assert "too old; update it" in facts["rows"][0]["reason"]
    assert facts["executed"] is False
    assert runs == ["magika-fp32"]


def gpu(capability: str) -> Gpu:
    return Gpu(0, "a GPU", capability, 1 << 30, False)


@pytest.mark.parametrize(
    ("capability", "flavours", "broken", "chosen", "remark"),
    [
        ("8.9", {"rtx": "1.7"}, {}, "rtx", ""),
        ("8.9", {"rtx": "1.7", "full": "11.4"}, {}, "rtx", ""),
        ("9.0", {"rtx": "1.7", "full": "11.4"}, {}, "full", ""),
        ("8.9", {"full": "11.4"}, {}, "full", ""),
        ("9.0", {"rtx": "1.7"}, {}, "rtx", "compute capability 9.0), and full TensorRT is not installed;"),
        ("9.0", {"rtx": "1.7"}, {"full": "no libnvinfer.so.11"}, "rtx", "is not installed: no libnvinfer.so.11; lay"),
    ],
)
def test_what_serves_the_gpu_builds_and_else_what_is_there_is_tried(
    program: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    capability: str,
    flavours: dict[str, str],
    broken: dict[str, str],
    chosen: str,
    remark: str,
) -> None:
    known = replace(LocalHost().hello(), gpus=(gpu(capability),), flavours=flavours, broken=broken)
    monkeypatch.setattr(LocalHost, "hello", lambda _: known)
    monkeypatch.setattr("mobilekit.targets.tensorrt.gpus.local_gpus", lambda: known.gpus)
    hello, flavour, obstacle = program.choose(None)
    assert (flavour, obstacle) == (chosen, "")
    told = program.unserved(hello, flavour)
    assert remark in told
    assert bool(told) == bool(remark)


def test_a_budget_begins_with_the_script(
    program: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages are installed before; whoever is ended after ten minutes loses those too."""
    monkeypatch.setenv("GPU_CHECK_BEGAN", "1")
    assert program.main(["run", "--rehearse", "--models", "magika", "--budget", "9m", "-o", str(tmp_path)]) == 3
    assert json.loads((tmp_path / "gpu_check.json").read_text())["rows"] == []


@pytest.mark.parametrize("budget", ["", "m", "soon", "0", "-1s"])
def test_a_budget_is_a_time(program: SimpleNamespace, budget: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["run", f"--budget={budget}"])
    assert "is no time" in capsys.readouterr().err
