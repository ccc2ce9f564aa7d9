"""Instructions of an inference on a virtual device: exact, of the inference alone, compared and gated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mobilekit.bundle import Bundle, open_bundle
from mobilekit.device.virtual import CPU_PROFILES
from mobilekit.device.virtual.plugin import build_plugin
from mobilekit.errors import HarnessError, SetupError
from mobilekit.pipeline.compare import CompareOptions, compare, parse_gate
from mobilekit.pipeline.export import export_model
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.report import json as report_json
from mobilekit.runners.base import RunOptions
from mobilekit.runners.counted import count_bundle
from mobilekit.validate.inputs import samples_of
from mobilekit.validate.regression import Answer
from mobilekit.validate.tolerance import Verdict
from tests.e2e.bench import bench, bundle, eventually, mobilekit, need
from tests.models import conv_classifier, save

pytestmark = [pytest.mark.device, pytest.mark.slow, pytest.mark.timeout(600)]
__all__ = ["bench", "bundle"]


@pytest.fixture(autouse=True)
def _tools() -> None:
    need("arm64-v8a")
    try:
        build_plugin()
    except SetupError as error:
        pytest.skip(str(error))


def count(opened: Bundle, cpu: str = "cortex-a76", *, fp16: bool = False) -> dict[str, int]:
    tensors = next(samples_of(opened.manifest, None, seed=0, count=1)).tensors
    return dict(count_bundle(opened, tensors, RunOptions(fp16=fp16), cpu=CPU_PROFILES[cpu].qemu).by_class)


def test_a_count_is_the_same_each_time_and_wherever_it_is_made(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_bundle(bundle)
    once = count(opened)
    elsewhere = tmp_path / ("a much longer path " * 5)
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setenv("ANOTHER", "x" * 5000)
    assert count(opened) == once
    assert once["neon"] > 0


def test_names_cost_nothing(tmp_path: Path) -> None:
    counts = []
    for name in ("x", "a name of an input that is a good deal longer than fifteen bytes"):
        model = save(conv_classifier(side=16, input_name=name), tmp_path / f"{len(name)}.onnx")
        export_model(model, tmp_path / str(len(name)))
        counts.append(count(open_bundle(tmp_path / str(len(name)))))
    assert counts[0] == counts[1]


def test_sizes_of_inputs_cost_nothing(tmp_path: Path) -> None:
    export_model(save(conv_classifier(side=16), tmp_path / "m.onnx"), tmp_path / "out")
    opened = open_bundle(tmp_path / "out")
    before = count(opened)
    param = tmp_path / "out" / "ncnn" / "model.param"
    text = param.read_text()
    param.write_text(text.replace(" 0=16 1=16 2=3\n", "\n"))
    assert param.read_text() != text
    assert count(opened) == before


def test_only_the_inference_is_counted(tmp_path: Path) -> None:
    """Loading is most of the program's work; what is counted grows with the picture, as the multiplications do."""
    totals = []
    for side in (32, 64):
        export_model(save(conv_classifier(side=side), tmp_path / f"{side}.onnx"), tmp_path / str(side))
        totals.append(sum(count(open_bundle(tmp_path / str(side))).values()))
    multiplications = 8 * 27 * 64 * 64
    assert 3 < totals[1] / totals[0] < 5
    assert multiplications / 4 < totals[1] < multiplications * 4


def test_the_paths_are_those_of_the_cpu_and_of_the_arithmetic(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert count(opened, "cortex-a76")["fp16"] == 0
    assert count(opened, "cortex-a76", fp16=True)["fp16"] > 0
    assert count(opened, "cortex-a53", fp16=True)["fp16"] == 0


def test_a_model_that_does_not_run_is_an_error(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert opened.manifest.ncnn is not None
    (bundle / opened.manifest.ncnn.bin).write_bytes(b"")
    with pytest.raises(HarnessError, match="did not run"):
        count(opened)


def test_validate_says_what_it_costs_and_what_was_exercised(bench, bundle: Path) -> None:
    device = bench.start(cpu="cortex-a76")
    page, text, data = (bench.folder / name for name in ("r.html", "r.md", "r.json"))
    done = mobilekit(
        *("validate", bundle, "--device", device.serial, "--samples", "1"),
        *("--report", page, "--markdown", text, "--json", data),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(data.read_text())["instructions"]
    assert found["total"] == sum(count(open_bundle(bundle)).values())
    paths = {path["name"]: (path["offered"], path["instructions"]) for path in found["paths"]}
    assert paths["dot product"] == (True, 0)
    assert paths["SVE"] == (False, 0)
    for said in (done.stdout, page.read_text(), text.read_text()):
        assert f"{found['total']:,}" in said
        assert "not exercised" in said
    eventually(lambda: bench.strays() == [])


def test_compare_answers_by_instructions(bench, bundle: Path, tmp_path: Path) -> None:
    device = bench.start(cpu="cortex-a76")
    export_model(save(conv_classifier(side=24), tmp_path / "larger.onnx"), tmp_path / "larger")
    larger = tmp_path / "larger"
    gates = tuple(map(parse_gate, ("instructions:+5%", "error")))
    options = CompareOptions(samples=1, gates=gates)
    same = compare(bundle, bundle, device.serial, options)
    assert same.instructions is not None
    assert (same.instructions.answer, same.instructions.ratio) == (Answer.SAME, 1.0)
    assert same.latency is None
    assert same.verdict is Verdict.PASS
    worse = compare(bundle, larger, device.serial, options)
    assert worse.instructions is not None
    assert worse.instructions.answer is Answer.WORSE
    assert f"{worse.instructions.ratio - 1:+.2%}" in worse.sentence
    assert worse.verdict is Verdict.FAIL
    report = validate_bundle(larger, device.serial, ValidateOptions(samples=1))
    report_json.write(report, tmp_path / "baseline.json")
    better = compare(tmp_path / "baseline.json", bundle, device.serial, options)
    assert better.instructions is not None
    assert better.instructions.answer is Answer.BETTER
    assert better.instructions.ratio == pytest.approx(1 / worse.instructions.ratio)
    other = report.model_copy(update={"device": report.device.model_copy(update={"cpu_profile": "cortex-a53"})})
    report_json.write(other, tmp_path / "other.json")
    unlike = compare(tmp_path / "other.json", bundle, device.serial, options)
    assert unlike.instructions is None
    assert unlike.verdict is Verdict.INCONCLUSIVE


def test_a_gate_of_the_wrong_kind_is_refused(bench, bundle: Path) -> None:
    device = bench.start(cpu="cortex-a53")
    done = mobilekit("compare", bundle, bundle, "--device", device.serial, "--gate", "latency:+5%")
    assert done.returncode == 2
    assert "instructions:+5%" in done.stderr
    assert "validating" not in done.stderr
    done = mobilekit("compare", bundle, bundle, "--device", "local", "--gate", "instructions:+5%")
    assert done.returncode == 2
    assert "virtual device" in done.stderr
