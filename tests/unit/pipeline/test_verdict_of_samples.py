"""What the verdict says where samples differ: some pass, for others the number format is too coarse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import mobilekit.pipeline.validate as validating
from mobilekit.pipeline.export import export_model
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.validate.rounding import Cost, RoundingCost
from tests.models import of_nodes, save

COST = Cost(5e-3, 5e-3)
"""Allows 1% in float32, and leaves open what is up to eight times the cost off."""


class Scaled:
    """The runner, each of whose answers is off by the next factor."""

    def __init__(self, runner: Any, factors: Sequence[float]) -> None:
        self._runner, self._factors = runner, iter(factors)

    def run(self, inputs: Any, options: Any) -> Any:
        result = self._runner.run(inputs, options)
        factor = np.float32(next(self._factors))
        return replace(result, outputs={name: array * factor for name, array in result.outputs.items()})


@pytest.mark.parametrize(
    ("factors", "verdict", "said"),
    [
        ((1.0, 1.03, 1.03), "inconclusive", "1 of 3 samples pass, 2 are beyond the limit"),
        ((1.03, 1.0, 1.0), "pass", "2 of 3 samples pass, 1 are beyond the limit"),
        ((1.0, 1.0, 1.0), "pass", ""),
        ((1.03, 1.03, 1.03), "inconclusive", "too coarse"),
        ((1.0, 1.5, 1.03), "fail", "relative L2 0.5"),
    ],
)
def test_most_samples_decide(
    factors: Sequence[float], verdict: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOBILEKIT_CACHE", str(tmp_path / "cache"))
    weights = {"w": np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)}
    model = of_nodes([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": (1, 3, 8, 8)}, {"y": (1, 8, 6, 6)}, weights)
    export_model(save(model, tmp_path / "m.onnx"), tmp_path / "b")
    right = validating.open_place

    @contextmanager
    def place(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with right(*args, **kwargs) as (runner, facts):
            yield Scaled(runner, factors), facts

    monkeypatch.setattr(validating, "open_place", place)
    monkeypatch.setattr(RoundingCost, "of", lambda *_: {"y": COST})
    report = validate_bundle(tmp_path / "b", "local", ValidateOptions(samples=len(factors), iterations=1, warmup=0))
    assert report.verdict.value == verdict
    assert said in report.outputs[0].reason
    assert ("samples pass" in report.sentence) == ("samples pass" in said)
