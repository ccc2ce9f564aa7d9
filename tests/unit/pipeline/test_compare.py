"""``mobilekit compare``: two bundles in turns, a recorded run, gates and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mobilekit.bundle import open_bundle, write_manifest
from mobilekit.errors import BundleError, DeviceError, UsageError
from mobilekit.pipeline.compare import CompareOptions, compare, parse_gate, parse_share
from mobilekit.pipeline.export import export_model
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.progress import SILENT
from mobilekit.report import json as report_json
from mobilekit.report.stopped import StoppedReport
from mobilekit.validate.regression import Answer
from mobilekit.validate.tolerance import Verdict
from tests.e2e.bench import mobilekit
from tests.models import save

QUICK = CompareOptions(samples=1, threads=1, budget_s=0)


def convolutions(count: int) -> object:
    rng = np.random.default_rng(0)
    nodes, tensors = [], []
    for index in range(count):
        weight = (rng.standard_normal((32, 32, 3, 3)) / 17).astype(np.float32)
        tensors.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(helper.make_node("Conv", [f"t{index}", f"w{index}"], [f"t{index + 1}"], pads=[1, 1, 1, 1]))
    shape = [1, 32, 24, 24]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("t0", f"t{count}")]
    graph = helper.make_graph(nodes, "convolutions", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("two")
    for name, count in (("short", 1), ("long", 12)):
        export_model(save(convolutions(count), root / f"{name}.onnx"), root / name)
    return root / "short", root / "long"


def test_twelve_times_the_work_is_never_called_the_same(two: tuple[Path, Path]) -> None:
    found = compare(*two, "local", QUICK)
    assert found.latency is not None
    assert found.latency.interleaved
    assert found.latency.answer in (Answer.WORSE, Answer.INCONCLUSIVE)
    assert found.latency.low <= found.latency.ratio <= found.latency.high
    assert len(found.latency.sessions) >= 4
    assert found.a.verdict is found.b.verdict is Verdict.PASS
    assert found.verdict is Verdict.PASS  # no gate was given


def test_no_gate_passes_between_different_models(two: tuple[Path, Path], tmp_path: Path) -> None:
    pool = helper.make_node("GlobalAveragePool", ["t0"], ["mean"])
    ends = [helper.make_tensor_value_info("t0", TensorProto.FLOAT, [1, 32, 24, 24]),
            helper.make_tensor_value_info("mean", TensorProto.FLOAT, [1, 32, 1, 1])]  # fmt: skip
    graph = helper.make_graph([pool], "pool", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    export_model(save(model, tmp_path / "pool.onnx"), tmp_path / "pool")
    gated = CompareOptions(samples=1, threads=1, budget_s=0, gates=(parse_gate("error"),))
    found = compare(two[0], tmp_path / "pool", "local", gated)
    assert (found.a.verdict, found.b.verdict) == (Verdict.PASS, Verdict.PASS)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "different models" in found.gates[0].reason
    assert "A is 'short' and B is 'pool'" in found.sentence
    assert compare(*two, "local", gated).verdict is Verdict.PASS  # of two versions, though of other names


def test_a_wrong_bundle_fails_the_error_gate(two: tuple[Path, Path], tmp_path: Path) -> None:
    import shutil

    wrong = tmp_path / "wrong"
    shutil.copytree(two[0], wrong)
    manifest = open_bundle(wrong).manifest
    assert manifest.ncnn is not None
    weights = wrong / manifest.ncnn.bin
    data = bytearray(weights.read_bytes())
    data[4:] = (np.frombuffer(data[4:], "<f4") * np.float32(1.2)).tobytes()
    weights.write_bytes(data)
    write_manifest(wrong, manifest)
    done = mobilekit(
        "compare", two[0], wrong, "--device", "local", "--gate", "error", "--budget", 0, "--threads", 1, "--json", "-"
    )
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert [gate["verdict"] for gate in found["gates"]] == ["fail"]
    assert found["b"]["verdict"] == "fail"


def test_a_recorded_run_is_compared_and_says_that_it_is_one(two: tuple[Path, Path], tmp_path: Path) -> None:
    report = validate_bundle(two[0], "local", ValidateOptions(samples=1, threads=1, iterations=30))
    report_json.write(report, tmp_path / "baseline.json")
    found = compare(tmp_path / "baseline.json", two[1], "local", CompareOptions(samples=1, threads=1))
    assert found.a.recorded
    assert "recording" in found.sentence
    assert found.latency is not None
    assert not found.latency.interleaved
    assert found.latency.answer in (Answer.WORSE, Answer.INCONCLUSIVE)


def test_times_that_vary_beyond_all_measure_are_said_to_show_nothing(two: tuple[Path, Path], tmp_path: Path) -> None:
    report = validate_bundle(two[0], "local", ValidateOptions(samples=1, threads=1, iterations=30))
    assert report.latency is not None
    wild = tuple(report.latency.p50_ms * 1000.0 ** (number // 3 % 2 * 2 - 1) for number in range(30))
    latency = report.latency.model_copy(update={"values_ms": wild})
    report_json.write(report.model_copy(update={"latency": latency}), tmp_path / "baseline.json")
    found = compare(tmp_path / "baseline.json", two[0], "local", CompareOptions(samples=1, threads=1))
    assert found.latency is not None
    assert found.latency.answer is Answer.INCONCLUSIVE
    assert "nothing could have been seen" in found.sentence
    assert "%" not in found.sentence


def test_recorded_runs_of_other_settings_are_not_compared(two: tuple[Path, Path], tmp_path: Path) -> None:
    report = validate_bundle(two[0], "local", ValidateOptions(samples=1, threads=2, iterations=20))
    report_json.write(report, tmp_path / "baseline.json")
    options = CompareOptions(samples=1, threads=1, gates=(parse_gate("latency:+5%"),))
    found = compare(tmp_path / "baseline.json", two[1], "local", options)
    assert found.latency is None
    assert found.verdict is Verdict.INCONCLUSIVE


def test_what_is_no_bundle_is_said_before_any_work(two: tuple[Path, Path], tmp_path: Path) -> None:
    def steps(a: Path, b: Path) -> list[str]:
        heard: list[str] = []

        class Heard(type(SILENT)):  # type: ignore[misc]
            def step(self, text: str) -> None:
                heard.append(text)

        with pytest.raises(BundleError, match=r"no bundle at .*nothere"):
            compare(a, b, "local", QUICK, Heard())
        return heard

    assert steps(two[0], tmp_path / "nothere") == steps(tmp_path / "nothere", two[0]) == []


def test_an_error_recorded_on_other_samples_proves_nothing(two: tuple[Path, Path], tmp_path: Path) -> None:
    report = validate_bundle(two[0], "local", ValidateOptions(samples=2, threads=1, iterations=1))
    report_json.write(report, tmp_path / "baseline.json")
    gates = (parse_gate("error:+900%"),)
    for samples, said in ((2, Verdict.PASS), (1, Verdict.INCONCLUSIVE)):
        options = CompareOptions(samples=samples, threads=1, gates=gates)
        found = compare(tmp_path / "baseline.json", two[0], "local", options)
        assert found.verdict is said
        assert found.b.verdict is Verdict.PASS


def test_a_validation_that_was_stopped_is_not_compared(two: tuple[Path, Path], tmp_path: Path) -> None:
    report = validate_bundle(two[0], "local", ValidateOptions(samples=1, threads=1, iterations=1))
    stopped = StoppedReport(error="the device went away", hint="plug it in", done=1, exit_code=4)
    report_json.write(report.model_copy(update={"stopped": stopped}), tmp_path / "baseline.json")
    with pytest.raises(DeviceError, match="went away"):
        compare(tmp_path / "baseline.json", two[1], "local", QUICK)


def test_what_is_no_report_is_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UsageError, match="no validation report"):
        compare(tmp_path / "x.json", two[0], "local", QUICK)


def test_gates_and_shares_are_read() -> None:
    assert parse_gate("latency:+5%").limit == pytest.approx(0.05)
    assert parse_gate("error").limit is None
    assert parse_gate("instructions:+1%").kind == "instructions"
    assert parse_gate("error:20%").limit == pytest.approx(0.2)
    assert parse_share("3%") == pytest.approx(parse_share("0.03"))
    for text in ("latency", "instructions", "latency:-5%", "speed:+5%", "latency:5", ""):
        with pytest.raises(UsageError):
            parse_gate(text)
    with pytest.raises(UsageError):
        parse_share("much")
