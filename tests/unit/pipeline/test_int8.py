"""``--precision int8``: exported, verified, run; a wrong scale in one layer is called wrong, by name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from mobilekit.bundle import open_bundle, write_manifest
from mobilekit.errors import UnsupportedModelError, UsageError, VerificationError
from mobilekit.pipeline.bisect import BisectOptions, bisect_bundle
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.int8 import Calibration
from mobilekit.pipeline.repair import RepairOptions, repair_bundle
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.targets.ncnn import NcnnTarget
from mobilekit.targets.ncnn.mask import read_weights, write_weights
from mobilekit.targets.ncnn.reader import read_param
from mobilekit.targets.ncnn.trace import read_trace
from mobilekit.validate.tolerance import Verdict
from tests.models import of_nodes, save

RNG = np.random.default_rng(11)


def small_net() -> object:
    """``(1, 3, 12, 12)`` -> strided, depthwise and pointwise convolutions -> ``(1, 10)``."""

    def weight(*shape: int) -> np.ndarray:
        return (np.random.default_rng(sum(shape)).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype("f4")

    weights = {
        "w0": weight(16, 3, 3, 3), "w1": weight(16, 1, 3, 3), "w2": weight(24, 16, 1, 1), "w3": weight(10, 24),
        "b": np.linspace(-1, 1, 10, dtype=np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], name="first conv", strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["c0"], ["r0"], name="relu"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="depthwise", group=16, pads=[1] * 4),
        helper.make_node("Conv", ["c1", "w2"], ["c2"], name="pointwise"),
        helper.make_node("Tanh", ["c2"], ["t"], name="tanh"),
        helper.make_node("GlobalAveragePool", ["t"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w3", "b"], ["y"], transB=1, name="dense"),
    ]
    return of_nodes(nodes, {"x": (1, 3, 12, 12)}, {"y": (1, 10)}, weights)


def calibration_inputs(folder: Path) -> Path:
    folder.mkdir()
    for number in range(6):
        values = np.random.default_rng(number).standard_normal((1, 3, 12, 12)).astype(np.float32)
        np.save(folder / f"{number}.npy", values)
    return folder


@pytest.fixture
def calib(tmp_path: Path) -> Path:
    return calibration_inputs(tmp_path / "calib")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    calib = calibration_inputs(folder / "calib")
    path = save(small_net(), folder / "net.onnx")  # type: ignore[arg-type]
    options = ExportOptions(precision="int8", calibration=Calibration(calib, depthwise=True))
    export_model(path, folder / "b", options)
    return folder / "b"


@pytest.fixture
def bundle(tmp_path: Path, exported: Path) -> Path:
    shutil.copytree(exported, tmp_path / "b")
    return tmp_path / "b"


def validated(path: Path) -> tuple[Verdict, str]:
    report = validate_bundle(path, "local", ValidateOptions(samples=2, warmup=0, iterations=1))
    return report.verdict, report.sentence


def doubled(path: Path, layer: str, which: int) -> None:
    """Plant: the layer's own scale (-1) or those of its weights (-2) in the ``.bin`` are twice what they should be."""
    opened = open_bundle(path)
    artifact = opened.manifest.ncnn
    assert artifact is not None
    assert artifact.trace is not None
    layers = read_param(path / artifact.param)
    weights = dict(read_weights(path / artifact.bin, layers, read_trace(path / artifact.trace)))
    arrays = list(weights[layer])
    arrays[which] = (np.frombuffer(arrays[which], "<f4") * 2).astype("<f4").tobytes()
    weights[layer] = tuple(arrays)
    write_weights(path / artifact.bin, layers, weights)
    write_manifest(path, opened.manifest)


def test_an_int8_bundle_says_what_it_is_and_runs(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    assert manifest.verified
    assert manifest.ncnn is not None
    int8 = manifest.ncnn.int8
    assert int8 is not None
    assert set(int8.scales) == {"first_conv", "depthwise", "pointwise", "dense"}
    assert (int8.method, int8.samples, int8.kept) == ("minmax", 6, {})
    assert len(int8.inputs_sha256) == 64
    assert validated(bundle)[0] is Verdict.PASS


@pytest.mark.parametrize(("layer", "which"), [("first_conv", -1), ("depthwise", -2), ("pointwise", -1), ("dense", -2)])
def test_a_doubled_scale_is_called_wrong_by_the_layers_name(bundle: Path, layer: str, which: int) -> None:
    doubled(bundle, layer, which)
    verdict, sentence = validated(bundle)
    assert verdict is Verdict.FAIL
    assert repr(layer) in sentence


def test_the_same_bytes_twice_and_other_inputs_other_scales(bundle: Path, tmp_path: Path, calib: Path) -> None:
    options = ExportOptions(precision="int8", calibration=Calibration(calib, depthwise=True))
    save(small_net(), tmp_path / "net.onnx")  # type: ignore[arg-type]
    export_model(tmp_path / "net.onnx", tmp_path / "again", options)
    for name in ("manifest.json", "ncnn/model.param", "ncnn/model.bin"):
        assert (tmp_path / "again" / name).read_bytes() == (bundle / name).read_bytes()
    np.save(calib / "7.npy", np.full((1, 3, 12, 12), 9, np.float32))
    export_model(tmp_path / "net.onnx", tmp_path / "other", replace(options, verify=False))
    scales = [open_bundle(path).manifest.ncnn.int8_scales["first_conv"] for path in (bundle, tmp_path / "other")]  # type: ignore[union-attr]
    assert scales[1] == pytest.approx(127 / 9)
    assert scales[0] > scales[1]


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_the_other_methods(tmp_path: Path, calib: Path, method: str) -> None:
    path = save(small_net(), tmp_path / "net.onnx")  # type: ignore[arg-type]
    report = export_model(
        path, tmp_path / "b", ExportOptions(precision="int8", calibration=Calibration(calib, method), verify=False)
    )
    assert report.manifest.ncnn is not None
    assert report.manifest.ncnn.int8 is not None
    assert report.manifest.ncnn.int8.method == method
    assert list(report.manifest.ncnn.int8.kept) == ["depthwise"]  # unless it is asked for
    assert "slower" in report.manifest.ncnn.int8.kept["depthwise"]
    largest = max(float(np.abs(np.load(file)).max()) for file in calib.iterdir())
    assert report.manifest.ncnn.int8.scales["first_conv"] >= 127 / largest * 0.999  # no wider than the extremes


def test_a_wrong_export_is_never_written(tmp_path: Path, calib: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = NcnnTarget.write

    def wrong(self: NcnnTarget, model: object, folder: Path, options: object) -> object:
        artifact = right(self, model, folder, options)  # type: ignore[arg-type]
        data = bytearray((folder / "model.bin").read_bytes())
        data[-4:] = (2 * np.frombuffer(bytes(data[-4:]), "<f4")).astype("<f4").tobytes()  # the last layer's own scale
        (folder / "model.bin").write_bytes(data)
        return artifact

    monkeypatch.setattr(NcnnTarget, "write", wrong)
    path = save(small_net(), tmp_path / "net.onnx")  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match="'dense' does not give"):
        export_model(path, tmp_path / "b", ExportOptions(precision="int8", calibration=Calibration(calib)))
    assert not (tmp_path / "b").exists()


def test_a_layer_that_int8_ruins_stays_float(tmp_path: Path, calib: Path) -> None:
    """One value of the weights' row is 10^6 times the others, and what it is multiplied with is nearly zero."""
    weight = RNG.standard_normal((8, 3, 1, 1)).astype(np.float32)
    weight[:, 2] *= 1e6
    second = RNG.standard_normal((4, 8, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "m"], ["a"], name="shrink"),
        helper.make_node("Conv", ["a", "w"], ["b"], name="ruined"),
        helper.make_node("Conv", ["b", "v"], ["y"], name="fine"),
    ]
    shrink = np.array([1, 1, 1e-7], np.float32).reshape(1, 3, 1, 1)
    proto = of_nodes(nodes, {"x": (1, 3, 12, 12)}, {"y": (1, 4, 12, 12)}, {"m": shrink, "w": weight, "v": second})
    report = export_model(
        save(proto, tmp_path / "m.onnx"),
        tmp_path / "b",
        ExportOptions(precision="int8", calibration=Calibration(calib), simplify=False),
    )
    assert report.manifest.ncnn is not None
    assert report.manifest.ncnn.int8 is not None
    assert list(report.manifest.ncnn.int8.scales) == ["fine"]
    assert "relative L2" in report.manifest.ncnn.int8.kept["ruined"]
    assert validated(tmp_path / "b")[0] is Verdict.PASS


def test_what_cannot_be_int8_is_refused(tmp_path: Path, calib: Path) -> None:
    path = save(small_net(), tmp_path / "net.onnx")  # type: ignore[arg-type]
    empty = tmp_path / "empty"
    empty.mkdir()
    for calibration, said in [
        (None, "ranges from real inputs"),
        (Calibration(None), "ranges from real inputs"),
        (Calibration(tmp_path / "nowhere"), "there is no folder"),
        (Calibration(empty), "no pictures and no .npy"),
        (Calibration(calib, "guess"), "no calibration method"),
    ]:
        with pytest.raises(UsageError, match=said):
            export_model(path, tmp_path / "b", ExportOptions(precision="int8", calibration=calibration))
    nothing = of_nodes([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, 3, 12, 12)}, {"y": (1, 3, 12, 12)})
    with pytest.raises(UnsupportedModelError, match="no layer of this model can be int8"):
        export_model(
            save(nothing, tmp_path / "relu.onnx"),
            tmp_path / "b",
            ExportOptions(precision="int8", calibration=Calibration(calib)),
        )
    assert not (tmp_path / "b").exists()


def test_the_ladder_names_the_int8_rung_where_a_layer_is_wrong(bundle: Path) -> None:
    options = ValidateOptions(samples=1, warmup=0, iterations=1, ladder=True)
    good = validate_bundle(bundle, "local", options).ladder
    assert good is not None
    rungs = {rung.name: rung for rung in good.rungs}
    assert rungs["ncnn host"].format == "fp32"
    assert rungs["ncnn host"].worst is not None
    assert rungs["ncnn host"].worst.relative_l2 < 1e-5  # the same layers in float
    assert rungs["ncnn host int8"].format == "int8"
    assert rungs["ncnn host int8"].worst is not None
    assert rungs["ncnn host int8"].worst.relative_l2 > 1e-3
    assert rungs["device cpu"].before == "ncnn host int8"
    assert good.lost_at is None
    doubled(bundle, "pointwise", -1)
    bad = validate_bundle(bundle, "local", options).ladder
    assert bad is not None
    assert bad.lost_at == "ncnn host int8"
    assert "'pointwise'" in bad.sentence


def test_bisect_finds_the_layer_with_the_wrong_scale(bundle: Path) -> None:
    options = BisectOptions(samples=1)
    assert bisect_bundle(bundle, "local", options).verdict is Verdict.PASS
    doubled(bundle, "depthwise", -1)
    repro = bundle.parent / "repro"
    report = bisect_bundle(bundle, "local", replace(options, repro=repro))
    assert report.verdict is Verdict.FAIL
    assert report.confirmed
    assert report.first is not None
    assert [layer.name for layer in report.first.layers] == ["depthwise"]
    assert report.runs <= 15
    cut = open_bundle(repro / "bundle").manifest.ncnn
    assert cut is not None
    assert list(cut.int8_scales) == ["depthwise"]
    once = ValidateOptions(inputs=repro / "inputs", warmup=0, iterations=1)
    assert "'depthwise'" in validate_bundle(repro / "bundle", "local", once).sentence


def test_bisect_blames_no_layer_for_what_int8_costs(bundle: Path) -> None:
    report = bisect_bundle(bundle, "local", BisectOptions(samples=1, rtol=1e-3))
    assert (report.verdict, report.stage) == (Verdict.FAIL, "gradual")
    assert "every int8 layer gives what its weights and scale do" in report.sentence


def test_repair_makes_the_guilty_layer_float(bundle: Path, tmp_path: Path) -> None:
    assert "right as it is" in repair_bundle(bundle, tmp_path / "same", "local", RepairOptions(samples=1)).sentence
    doubled(bundle, "dense", -2)
    report = repair_bundle(bundle, tmp_path / "mended", "local", RepairOptions(samples=1))
    assert report.verdict is Verdict.PASS
    assert [(layer.name, layer.off, layer.weights) for layer in report.layers] == [("dense", ("int8",), True)]
    artifact = open_bundle(tmp_path / "mended").manifest.ncnn
    assert artifact is not None
    assert artifact.int8 is not None
    assert set(artifact.int8.scales) == {"first_conv", "depthwise", "pointwise"}
    assert "repaired" in artifact.int8.kept["dense"]
    assert validated(tmp_path / "mended")[0] is Verdict.PASS


def test_repair_goes_on_until_the_limit_is_met(bundle: Path, tmp_path: Path) -> None:
    """In the end nothing is int8 any more, and the bundle says so."""
    report = repair_bundle(bundle, tmp_path / "mended", "local", RepairOptions(samples=1, rtol=1e-5))
    assert report.verdict is Verdict.PASS
    artifact = open_bundle(tmp_path / "mended").manifest.ncnn
    assert artifact is not None
    assert (artifact.precision, artifact.int8, len(report.layers)) == ("fp32", None, 4)
