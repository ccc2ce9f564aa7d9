"""Limits: derived from what a format costs, measured as seldom as may be, and the user's own first."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import helper

from mobilekit.bundle import open_bundle
from mobilekit.errors import UsageError
from mobilekit.metrics.tensors import compare
from mobilekit.pipeline.export import ExportOptions, export_model
from mobilekit.validate.limits import EVERY, Limits, Overrides
from mobilekit.validate.rounding import Cost, NumberFormat, RoundingCost
from mobilekit.validate.swaps import swapped
from mobilekit.validate.tolerance import Verdict, derived, explicit, judge, tolerance_for
from tests.models import of_nodes, save

RNG = np.random.default_rng(0)
REFERENCE = RNG.standard_normal((1, 256)).astype(np.float32)


class FakeCost:
    def __init__(self, relative_l2=1e-6, answers=True):
        self.cost = Cost(relative_l2, relative_l2)
        self.answers = answers
        self.asked = 0

    def of(self, inputs, timeout_s):
        self.asked += 1
        return dict.fromkeys("yab", self.cost) if self.answers else {}


def off_by(relative):
    return compare((REFERENCE * np.float32(1 + relative)).astype(np.float32), REFERENCE)


@pytest.mark.parametrize(
    ("form", "low", "high"),
    [
        (NumberFormat(), 1e-5, 1e-2),
        (NumberFormat("fp16"), 4e-4, 0.1),
        (NumberFormat("fp16", "fp16"), 1e-3, 0.1),
        (NumberFormat("fp32", "bf16"), 4e-3, 0.3),
    ],
)
def test_limits_follow_the_cost_between_floor_and_ceiling(form, low, high):
    limits = [derived(form, Cost(cost, cost)).rtol for cost in (0.0, 1e-7, 1e-5, 1e-3, 0.05, 0.4, math.inf)]
    assert limits == sorted(limits)
    assert low <= limits[0] < limits[-1] <= high
    assert limits[0] == pytest.approx(limits[0])


def test_one_per_cent_is_wrong_in_fp32_and_a_rounding_is_not():
    tolerance = derived(NumberFormat(), Cost(3e-7, 3e-7))
    assert judge(off_by(0.01), tolerance).verdict is Verdict.FAIL
    assert judge(off_by(1e-4), tolerance).verdict is Verdict.FAIL
    assert judge(off_by(2e-6), tolerance).verdict is Verdict.PASS


def test_a_format_that_is_too_coarse_for_an_input_proves_nothing_there():
    coarse = derived(NumberFormat("fp16", "fp16"), Cost(0.05, 0.05))
    assert judge(off_by(0.05), coarse).verdict is Verdict.PASS
    between = judge(off_by(0.3), coarse)
    assert between.verdict is Verdict.INCONCLUSIVE
    assert "too coarse" in between.reason
    assert judge(off_by(0.45), coarse).verdict is Verdict.FAIL
    # Half precision alone turns this answer into another: a device that does as much is not to blame.
    ruined = derived(NumberFormat("fp16", "fp16"), Cost(1.1, 1.1))
    assert judge(off_by(1.1), ruined).verdict is Verdict.INCONCLUSIVE
    assert judge(off_by(2.3), ruined).verdict is Verdict.FAIL
    lost = judge(off_by(0.3), derived(NumberFormat("fp16", "fp16"), Cost(math.inf, math.inf)))
    assert lost.verdict is Verdict.FAIL
    assert "leave the range of fp16" in lost.reason


def test_what_is_constant_to_within_the_limit_is_no_evidence():
    flat = (1 + 1e-4 * REFERENCE).astype(np.float32)
    half = derived(NumberFormat("fp16", "fp16"), Cost(1e-4, 1e-4))
    error = compare(np.ones_like(flat), flat)
    assert judge(error, half).verdict is Verdict.INCONCLUSIVE
    assert judge(error, derived(NumberFormat(), Cost(1e-7, 1e-7))).verdict is Verdict.FAIL
    assert judge(compare(flat, flat), derived(NumberFormat(), Cost(1e-7, 1e-7))).verdict is Verdict.PASS


def test_the_users_limits_decide_alone():
    base = derived(NumberFormat(), Cost(1e-7, 1e-7))
    assert judge(off_by(0.01), explicit(base, cosine=0.999)).verdict is Verdict.PASS
    assert judge(off_by(0.01), explicit(base, rtol=0.02)).verdict is Verdict.PASS
    assert judge(off_by(0.01), explicit(base, psnr_db=60)).verdict is Verdict.FAIL
    assert judge(off_by(0.01), explicit(base, psnr_db=30)).verdict is Verdict.PASS
    noisy = compare((REFERENCE + RNG.standard_normal(REFERENCE.shape) * 0.3).astype(np.float32), REFERENCE)
    assert judge(noisy, explicit(base, cosine=0.99)).verdict is Verdict.FAIL
    assert judge(off_by(0.01), explicit(base, atol=1.0)).verdict is Verdict.FAIL


@pytest.mark.parametrize("wrong", [{"cosine": 0.5}, {"cosine": 1.5}, {"psnr_db": 1.0}, {"rtol": 0.9}, {"atol": -1.0}])
def test_a_limit_that_judges_nothing_is_refused(wrong):
    with pytest.raises(UsageError, match="judges nothing"):
        explicit(tolerance_for("fp32"), **wrong)
    name, value = next(iter(wrong.items()))
    with pytest.raises(UsageError, match="judges nothing"):
        Overrides(**{name: {"y": value}}).check(["y"])
    with pytest.raises(UsageError, match="no output 'z'"):
        Overrides(rtol={"z": 0.1}).check(["y"])


def test_an_override_holds_for_its_output():
    overrides = Overrides(rtol={"a": 0.1, EVERY: 0.01})
    limits = Limits(["a", "b"], NumberFormat(), FakeCost(), overrides=overrides)
    found = limits.of({}, {}, 1.0)
    assert (found["a"].rtol, found["b"].rtol) == (0.1, 0.01)
    assert limits._cost.asked == 0


def test_later_samples_are_measured_only_where_they_need_it():
    cost = FakeCost()
    limits = Limits(["y"], NumberFormat(), cost)
    good, bad = {"y": off_by(1e-6)}, {"y": off_by(1e-3)}
    for _ in range(30):
        assert limits.of({}, good, 1.0)["y"].rtol < 1e-4
    assert cost.asked == 8
    cost.cost = Cost(1e-4, 1e-4)
    assert limits.of({}, bad, 1.0)["y"].rtol > 1e-3
    assert cost.asked == 9


def test_fixed_limits_hold_where_nothing_can_be_measured():
    limits = Limits(["y"], NumberFormat("fp16"), FakeCost(answers=False), allowance=0.2)
    found = limits.of({}, {"y": off_by(0)}, 1.0)["y"]
    assert (found.basis, found.rtol) == ("fixed", 0.2)


def test_the_allowance_of_a_quantised_original_stays():
    limits = Limits(["y"], NumberFormat(), FakeCost(), allowance=0.05)
    assert limits.of({}, {"y": off_by(0)}, 1.0)["y"].rtol == 0.05


def test_costs_of_a_bundle_are_measured_once(tmp_path, monkeypatch):
    weights = {"w": RNG.standard_normal((8, 3, 3, 3)).astype(np.float32)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("Sigmoid", ["h"], ["y"])]
    model = save(of_nodes(nodes, {"x": (1, 3, 8, 8)}, {"y": (1, 8, 6, 6)}, weights), tmp_path / "m.onnx")
    export_model(model, tmp_path / "b", ExportOptions(verify=False))
    monkeypatch.setenv("MOBILEKIT_CACHE", str(tmp_path / "cache"))
    bundle = open_bundle(tmp_path / "b")
    inputs = {"x": RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)}
    found = {}
    for form in (NumberFormat(), NumberFormat("fp16"), NumberFormat("fp16", "fp16"), NumberFormat("fp32", "bf16")):
        with RoundingCost(bundle, form) as cost:
            found[str(form)] = cost.of(inputs, 60)["y"].relative_l2
    assert 1e-8 < found["fp32"] < 1e-6 < found["fp16 weights"] < found["bf16"] < 0.05
    assert 5e-5 < found["fp16"] < found["bf16"]
    assert len(list((tmp_path / "cache" / "rounding").iterdir())) == 4
    monkeypatch.setattr(RoundingCost, "_measure", lambda *_: pytest.fail("measured again"))
    with RoundingCost(bundle, NumberFormat()) as cost:
        assert cost.of(inputs, 60)["y"].relative_l2 == found["fp32"]
    measured = []
    monkeypatch.setattr(RoundingCost, "_measure", lambda *_: measured.append(1) or {"y": [[1e-3, 1e-3]]})
    monkeypatch.setattr("mobilekit.runners.ort.installed_version", lambda: "0.0")
    with RoundingCost(bundle, NumberFormat()) as cost:
        assert cost.of(inputs, 60)["y"].relative_l2 == 1e-3
    assert measured, "another ONNX Runtime costs something else"


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "3", "{}", '{"y": 3}', '{"y": null}', '{"y": []}', '{"y": [[1]]}', '{"y": [[null, 1]]}',
             '{"y": [["a", "b"]]}', "[" * 100_000]
)  # fmt: skip
def test_what_is_no_cost_in_the_cache_is_measured_again(text, tmp_path, monkeypatch):
    nodes = [helper.make_node("Sigmoid", ["x"], ["y"])]
    model = save(of_nodes(nodes, {"x": (1, 8)}, {"y": (1, 8)}), tmp_path / "m.onnx")
    export_model(model, tmp_path / "b", ExportOptions(verify=False))
    monkeypatch.setenv("MOBILEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(RoundingCost, "_measure", lambda *_: {"y": [[1e-3, 1e-3]]})
    inputs = {"x": np.ones((1, 8), np.float32)}
    for _ in range(2):
        with RoundingCost(open_bundle(tmp_path / "b"), NumberFormat()) as cost:
            assert cost.of(inputs, 60)["y"].relative_l2 == 1e-3
        (file,) = (tmp_path / "cache" / "rounding").iterdir()
        file.write_text(text)


def test_swapped_outputs_are_named():
    tolerance = derived(NumberFormat(), Cost(1e-7, 1e-7))
    other = RNG.standard_normal((1, 256)).astype(np.float32)
    third = RNG.standard_normal((1, 4)).astype(np.float32)
    expected = {"a": REFERENCE, "b": other, "c": third}
    limits = dict.fromkeys(expected, tolerance)
    assert swapped(expected, expected, limits) == {}
    assert swapped({"a": other, "b": REFERENCE, "c": third}, expected, limits) == {"a": "b", "b": "a"}
    assert swapped({"a": third, "b": other, "c": third}, expected, limits) == {"a": "c"}
    assert swapped({"a": REFERENCE + 1, "b": other, "c": third}, expected, limits) == {}
