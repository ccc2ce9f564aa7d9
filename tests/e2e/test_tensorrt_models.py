"""The public models as TensorRT plans, in fp32 and fp16, built on a machine without a GPU.

``tensorrt_models.csv`` says what each comes to: it ``builds``, verified, or it is ``refused`` with so many findings.
A model that changes sides fails, in either direction. ``fused``: how many ONNX nodes the
largest layer holds, at least (half of what was measured): a plan in which nothing is fused is slow.
"""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from mobilekit import zoo
from mobilekit.errors import UnsupportedModelError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.inspect_plan import inspect_plan
from mobilekit.targets.tensorrt import TensorRTOptions
from mobilekit.targets.tensorrt.flavour import FLAVOURS, installed

pytestmark = [pytest.mark.slow]
rtx = pytest.mark.skipif(not installed(FLAVOURS["rtx"]), reason="needs the extra [tensorrt]")

with Path(__file__).with_name("tensorrt_models.csv").open(newline="") as file:
    MODELS = {row["model"]: row for row in csv.DictReader(file)}
NEED_TORCH = ("mobilenet_v2", "efficientnet_lite0")


def test_every_model_of_the_zoo_is_listed() -> None:
    assert sorted(MODELS) == sorted(entry.id for entry in zoo.list_entries())


def options(precision: str) -> ExportOptions:
    return ExportOptions(targets=("tensorrt",), tensorrt=TensorRTOptions(precision=precision))  # type: ignore[arg-type]


@rtx
@pytest.mark.network
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("model", MODELS)
def test_what_becomes_of_each_public_model(model: str, precision: str, tmp_path: Path) -> None:
    if model in NEED_TORCH and importlib.util.find_spec("torch") is None and not zoo.cached(zoo.find_entry(model)):
        pytest.skip("preparing its .pth weights needs torch (pip install 'mobilekit[torch]')")
    row, out = MODELS[model], tmp_path / "out"
    if row[precision] == "refused":
        with pytest.raises(UnsupportedModelError) as caught:
            export_model(model, out, options(precision))
        assert len(caught.value.findings) == int(row["findings"])
        assert {finding.op for finding in caught.value.findings} == set(row["remark"].split())
        assert all(finding.reason and finding.remedy for finding in caught.value.findings)
        assert not out.exists()
        return
    assert row[precision] == "builds"
    plan = export_model(model, out, options(precision)).manifest.tensorrt
    assert plan is not None
    assert plan.verified
    view = inspect_plan(out)
    assert len(view.layers) == plan.layer_count > 0
    assert max(len(layer["onnx_nodes"]) for layer in view.layers) >= int(row["fused"])


@rtx
@pytest.mark.network
def test_a_plan_is_the_same_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT orders the outputs of this one by their addresses, which the size of the environment moves."""
    plans = set()
    for size in range(0, 20_000, 2_777):
        monkeypatch.setenv("SOMETHING_ELSE", "x" * size)
        export_model("silero_vad", tmp_path / "out", replace(options("fp32"), verify=False))
        plans.add((tmp_path / "out" / "tensorrt" / "model.plan").read_bytes())
    assert len(plans) == 1
