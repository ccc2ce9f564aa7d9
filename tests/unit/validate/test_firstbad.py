"""The search for the first bad layer, on nets whose faults are made up: what it finds, and in how many runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from mobilekit.metrics.tensors import TensorError
from mobilekit.targets.ncnn.reader import ParamLayer
from mobilekit.targets.ncnn.trace import Trace, TracedBlob
from mobilekit.validate.blobnet import BlobNet, Unit
from mobilekit.validate.firstbad import Search, inner_limit, noise_of
from mobilekit.validate.rounding import NumberFormat

FINE = TensorError(0.0, 0.0, 1e-6, 1.0, 100.0, 1.0, 16)


def off(error: float) -> TensorError:
    return replace(FINE, relative_l2=error, max_abs=error)


def net_of(reads: Sequence[Sequence[int]], sides: Sequence[int] | None = None) -> BlobNet:
    """Layer ``i`` reads the layers ``reads[i]``; without any it is an input. Blob ``i`` has ``sides[i]`` elements."""
    layers = [
        ParamLayer("Layer" if from_ else "Input", f"l{i}", tuple(f"b{j}" for j in from_), (f"b{i}",), ())
        for i, from_ in enumerate(reads)
    ]
    blobs = {f"b{i}": TracedBlob(f"t{i}", ((sides or [16] * len(reads))[i],)) for i in range(len(reads))}
    return BlobNet.of(layers, Trace(blobs, {}), [f"t{i}" for i in range(len(reads))])


class Device:
    """Errors of blobs: ``own`` are the local ones, ``seen`` says what a blob shows when fed the model's inputs."""

    def __init__(self, net: BlobNet, own: dict[str, float], seen: Callable[[str], float] | None = None) -> None:
        self.net, self.own = net, own
        self.bad = {b for b in net.units if set(own) & net.ancestors([b])}
        self.seen = seen or (lambda blob: 0.1 if blob in self.bad else 1e-6)
        self.runs: list[int] = []

    def measure(self, units: Sequence[Unit]) -> dict[str, TensorError]:
        self.runs.append(sum(unit.size_bytes for unit in units))
        return {unit.blob: off(self.seen(unit.blob)) for unit in units}

    def measure_local(self, units: Sequence[Unit]) -> dict[str, TensorError]:
        fed = {parent for unit in units for parent in unit.parents}
        assert not fed & {unit.blob for unit in units}, "a blob that is fed is not computed"
        self.runs.append(sum(unit.size_bytes for unit in units))
        return {unit.blob: off(self.own.get(unit.blob, 1e-6)) for unit in units}

    def search(self, *, runs: int = 15, run_bytes: int = 1 << 20) -> Search:
        search = Search(self.net, self.measure, self.measure_local, 1e-3, 1e-4, 1e-4, runs, run_bytes)
        last = list(self.net.units)[-1]
        search.accumulated[last] = off(self.seen(last))
        return search


def test_a_chain_of_300_layers_takes_at_most_15_runs_of_few_tensors() -> None:
    net = net_of([[]] + [[i] for i in range(300)])
    for guilty in (1, 2, 57, 150, 299, 300):
        device = Device(net, {f"b{guilty}": 0.1})
        found = device.search(run_bytes=4 * 16 * 4).run(["b300"])  # four tensors a run
        assert (found.first, found.confirmed, found.why) == (f"b{guilty}", True, "layer")
        assert len(device.runs) <= 15
        assert max(device.runs) <= 4 * 16 * 4


@pytest.mark.parametrize("seed", range(25))
def test_the_layer_is_found_in_graphs_with_branches(seed: int) -> None:
    rng = random.Random(seed)
    reads: list[list[int]] = [[], []]
    for i in range(2, 120):
        reads.append(sorted({i - 1 - min(i - 1, int(rng.expovariate(0.4))) for _ in range(rng.choice((1, 1, 2, 3)))}))
    net = net_of(reads, [rng.choice((16, 64, 256)) for _ in reads])
    guilty = rng.choice([b for b in net.ancestors(["b119"]) if net.units[b].parents])
    device = Device(net, {guilty: 0.05})
    found = device.search(run_bytes=4096).run(["b119"])
    assert (found.first, found.confirmed) == (guilty, True)
    assert len(device.runs) <= 15


def test_a_fault_that_later_layers_hide_and_bring_out_again_is_found_by_scanning() -> None:
    net = net_of([[]] + [[i] for i in range(40)])
    # b10 is wrong; an activation hides it in b12 to b29, where nothing is to be seen.
    device = Device(net, {"b10": 0.02}, lambda b: 0.02 if int(b[1:]) in (10, 11) or int(b[1:]) >= 30 else 1e-6)
    found = device.search(run_bytes=4 * 16 * 6).run(["b40"])
    assert (found.first, found.confirmed, found.why) == ("b10", True, "layer")
    assert len(device.runs) <= 15


def test_a_layer_that_makes_much_of_small_errors_is_not_called_wrong() -> None:
    net = net_of([[]] + [[i] for i in range(20)])
    device = Device(net, {}, lambda b: 0.2 if int(b[1:]) >= 15 else 5e-4)
    found = device.search().run(["b20"])
    assert (found.first, found.confirmed, found.why) == ("b15", False, "amplifies")


def test_the_layer_whose_error_a_later_one_shows_is_named() -> None:
    net = net_of([[], [0], [1], [2], [0], [3, 4], [5]])
    device = Device(net, {}, lambda b: 0.2 if b in ("b5", "b6") else 1e-6)
    asked: list[list[str]] = []

    def through(units: Sequence[Unit]) -> TensorError:
        asked.append([unit.blob for unit in units])
        return off(0.19 if units[0].blob == "b2" else 1e-5)

    search = device.search()
    search.measure_through = through
    found = search.run(["b6"])
    assert (found.first, found.confirmed, found.why, found.shown_by) == ("b2", True, "layer", "b5")
    assert found.shown == 0.19
    assert asked == [["b4", "b5"], ["b3", "b5"], ["b2", "b3", "b5"]]


def test_a_shaky_layer_of_a_right_branch_is_not_blamed_for_a_wrong_one() -> None:
    # 1 and 2 are the scores' branch, of which 2 is shaky; 3 to 5 the boxes', of which 4 is wrong; 6 joins them.
    net = net_of([[], [0], [1], [0], [3], [4], [2, 5]])
    seen = {"b2": 2e-3, "b4": 0.2, "b5": 0.2, "b6": 0.15}
    device = Device(net, {"b2": 2e-3, "b4": 0.2}, lambda b: seen.get(b, 1e-6))
    for run_bytes in (64, 1 << 20):
        found = device.search(run_bytes=run_bytes).run(["b6"])
        assert (found.first, found.confirmed, found.why) == ("b4", True, "layer")
    # a small fault that the layers behind it enlarge stays the first
    device = Device(net, {"b1": 2e-3}, lambda b: {"b1": 2e-3, "b2": 0.2, "b6": 0.15}.get(b, 1e-6))
    assert device.search().run(["b6"]).first == "b1"


def test_where_no_layer_before_explains_it_the_enlarging_one_is_named() -> None:
    net = net_of([[]] + [[i] for i in range(20)])
    device = Device(net, {}, lambda b: 0.2 if int(b[1:]) >= 15 else 5e-4)
    search = device.search()
    search.measure_through = lambda _: off(0.05)
    found = search.run(["b20"])
    assert (found.first, found.confirmed, found.why, found.shown_by) == ("b15", False, "amplifies", None)


def test_running_out_of_runs_is_said() -> None:
    net = net_of([[]] + [[i] for i in range(300)])
    device = Device(net, {"b100": 0.1})
    found = device.search(runs=2, run_bytes=64).run(["b300"])
    assert found.exhausted
    assert not found.confirmed
    assert len(device.runs) == 2


def test_accumulated_mode_confirms_nothing_and_local_mode_needs_no_outputs() -> None:
    net = net_of([[]] + [[i] for i in range(20)])
    device = Device(net, {"b7": 0.1})
    assert device.search().run(["b20"], "accumulated") == type(device.search().run(["b20"]))("b7", False, "layer")
    hidden = Device(net, {"b7": 0.1}, lambda _: 1e-6)
    assert hidden.search().run(["b20"], "local").first == "b7"


def test_blank_tensors_are_no_evidence_of_anything() -> None:
    net = net_of([[]] + [[i] for i in range(10)])
    device = Device(net, {"b4": 0.1})
    blank = replace(FINE, evidence=False, relative_l2=0.0, max_abs=0.0)
    measure = device.measure
    device.measure = lambda units: measure(units) | {u.blob: blank for u in units if u.blob in ("b5", "b6")}  # type: ignore[method-assign]
    assert device.search().run(["b10"]).first == "b4"


def test_dominators_are_what_every_way_passes() -> None:
    net = net_of([[], [0], [1], [1], [2, 3], [4], [5, 0]])
    assert net.cuts("b5", net.ancestors(["b5"])) == {"b0", "b1", "b4", "b5"}
    assert net.cuts("b6", net.ancestors(["b6"])) == {"b0", "b6"}


def test_copies_are_seen_through_and_layers_between_tensors_belong_together() -> None:
    layers = [
        ParamLayer("Input", "in", (), ("x",), ()),
        ParamLayer("Split", "s", ("x",), ("x/0", "x/1"), ()),
        ParamLayer("Permute", "p", ("x/0",), ("inner",), ()),
        ParamLayer("MemoryData", "m", (), ("const",), ()),
        ParamLayer("BinaryOp", "add", ("inner", "const"), ("y",), ()),
        ParamLayer("BinaryOp", "mul", ("y", "x/1"), ("z",), ()),
    ]
    blobs = {name: TracedBlob(name, (4,)) for name in ("x", "x/0", "x/1", "y", "z")}
    net = BlobNet.of(layers, Trace(blobs, {}), ["x", "y", "z"])
    assert list(net.units) == ["x", "y", "z"]
    assert [layer.name for layer in net.units["y"].layers] == ["p", "m", "add"]
    assert net.units["z"].parents == ("x", "y")
    assert net.find("x/1") is net.units["x"]


def test_the_inner_limit_lies_between_rounding_and_what_is_to_be_explained() -> None:
    noise = noise_of(NumberFormat())
    assert inner_limit(noise, 2e-3) == pytest.approx((2e-6 * 2e-3) ** 0.5)
    assert inner_limit(noise, float("inf")) == inner_limit(noise, 1.0) == pytest.approx(noise**0.5)
    assert inner_limit(noise, 3e-5) == 10 * noise
    assert noise_of(NumberFormat("fp16", "fp32")) == noise_of(NumberFormat("fp32", "fp16")) > 100 * noise


def test_a_right_layer_of_values_near_zero_is_not_blamed_for_a_large_fault_behind_it() -> None:
    # As a saturated sigmoid: off by more than the limit, right or wrong, and the fault comes after it.
    net = net_of([[]] + [[i] for i in range(30)])
    device = Device(net, {"b20": 0.5}, lambda b: 0.5 if int(b[1:]) >= 20 else 2e-4 if b == "b10" else 1e-6)
    device.own["b10"] = 2e-4
    search = device.search()
    search.limit = inner_limit(noise_of(NumberFormat()), 0.5)
    assert search.run(["b30"]).first == "b20"
