"""Our layer MkGridSample against ONNX Runtime, on this machine and as arm64 under qemu."""

from __future__ import annotations

import numpy as np
import pytest

from tests.e2e.own_layer_lab import Lab, onnx

pytestmark = pytest.mark.timeout(3600)  # the first to run may have to build the harness

_MODES = ("linear", "nearest", "cubic")
_PADDINGS = ("zeros", "border", "reflection")


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize(("code", "padding"), list(enumerate(_PADDINGS)))
@pytest.mark.parametrize(
    ("shape", "mode"),
    [(shape, mode) for shape in ((7, 5), (1, 6)) for mode in range(3)] + [((4, 3, 5), mode) for mode in range(2)],
)
def test_grid_sample(lab: Lab, shape: tuple[int, ...], mode: int, code: int, padding: str, corners: int) -> None:
    rng = np.random.default_rng(mode)
    x = rng.standard_normal((3, 2, *shape)).astype(np.float32)
    grid = rng.uniform(-2.6, 2.6, (3, *(6,) * len(shape), len(shape))).astype(np.float32)
    grid.reshape(-1)[::7] = np.resize(np.array([-1, 1, 0], np.float32), grid.reshape(-1)[::7].size)
    attributes = {"mode": _MODES[mode], "padding_mode": padding, "align_corners": corners}
    (expected,) = onnx("GridSample", {"x": x, "g": grid}, opset=20, **attributes)
    params = {0: 3, 1: 2, 3: mode, 4: code, 5: corners, 10: list(shape)}
    (found,) = lab.run("MkGridSample", [x.reshape(6, -1), grid.reshape(3, -1)], params)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=2e-5)


@pytest.mark.parametrize("padding", range(3))
def test_places_that_are_no_numbers_read_nothing(lab: Lab, padding: int) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4) + 1
    grid = np.array([[np.nan, 0], [np.inf, -np.inf], [1e30, -1e30], [0, np.nan], [3e38, 3e38]], np.float32)
    for mode in range(3):
        (found,) = lab.run("MkGridSample", [x, grid], {3: mode, 4: padding, 10: [3, 4]})
        assert np.isfinite(found).all()
        assert found[0] == found[3] == 0
