"""One bundle with free axes on arm64 code: several sizes in one session, every kind of expression."""

from __future__ import annotations

import pytest

from mobilekit.errors import UsageError
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.validate.tolerance import Verdict
from tests.e2e.bench import bench, need
from tests.models import save
from tests.unit.pipeline import dynamic_models as models

pytestmark = [pytest.mark.device, pytest.mark.slow, pytest.mark.timeout(600)]
__all__ = ["bench"]


def test_three_sizes_in_one_session_on_arm64(bench):
    need("arm64-v8a")
    device = bench.start(cpu="cortex-a76")
    for build in (models.fcn_by_shape, models.attention_over_pixels, models.cropped_centre, models.feature_pyramid):
        folder = bench.folder / build.__name__
        model = save(build(), folder / "model.onnx")
        export_model(model, folder / "bundle", ExportOptions(dynamic=True, shapes={"x": (1, 3, 40, 56)}))
        for precision, worst in (("fp32", 1e-4), ("fp16", 5e-2)):
            report = validate_bundle(
                folder / "bundle",
                device.serial,
                ValidateOptions(samples=3, iterations=1, precision=precision),  # type: ignore[arg-type]
            )
            assert report.verdict is Verdict.PASS, f"{build.__name__} {precision}: {report.sentence}"
            assert len({name.partition(" (")[2] for name in report.samples}) == 3
            assert all(output.relative_l2 < worst for output in report.outputs)


def test_a_size_that_is_not_admitted_never_reaches_the_device(bench):
    need("x86_64")
    import numpy as np

    device = bench.start(abi="x86_64")
    model = save(models.u_net(), bench.folder / "model.onnx")
    export_model(model, bench.folder / "bundle", ExportOptions(dynamic=True, shapes={"x": (1, 3, 40, 56)}))
    inputs = bench.folder / "inputs"
    inputs.mkdir()
    np.save(inputs / "a.npy", np.random.default_rng(0).standard_normal((1, 3, 44, 60)).astype(np.float32))
    good = validate_bundle(bench.folder / "bundle", device.serial, ValidateOptions(inputs=inputs, iterations=1))
    assert good.verdict is Verdict.PASS
    np.save(inputs / "b.npy", np.zeros((1, 3, 45, 60), np.float32))
    with pytest.raises(UsageError, match=r"b\.npy has the shape 1x3x45x60"):
        validate_bundle(bench.folder / "bundle", device.serial, ValidateOptions(inputs=inputs, iterations=1))
