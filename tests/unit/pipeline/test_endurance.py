"""Long timings on a runner that heats up, cools down and goes away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from mobilekit.errors import DeviceLostError
from mobilekit.pipeline import endurance
from mobilekit.pipeline.endurance import Endurance, LongTimings
from mobilekit.runners.base import Runner, RunnerInfo, RunOptions, RunResult, Watched
from mobilekit.runners.host_state import host_state
from mobilekit.validate.endurance import CoolDown, SingleStream


class Phone:
    """Implements Runner and Watched: 1 ms an inference; the temperatures that it is given, one a question, the last for
    ever; it goes away at the call ``lost_at``."""

    def __init__(self, celsius: list[float], lost_at: int = 10**9) -> None:
        self.celsius, self.lost_at = celsius, lost_at
        self.calls = 0

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def info(self) -> RunnerInfo:
        return RunnerInfo("phone", "1", "here")

    def run(self, inputs: Mapping[str, np.ndarray], options: RunOptions) -> RunResult:
        self.calls += 1
        if self.calls >= self.lost_at:
            raise DeviceLostError("the cable was pulled", hint="plug it in")
        assert options.warmup == 0
        return RunResult({}, (1_000_000,) * options.iterations)

    def state(self) -> Mapping[str, object]:
        heat = self.celsius.pop(0) if len(self.celsius) > 1 else self.celsius[0] if self.celsius else None
        zones = {} if heat is None else {"cpu": heat, "skin": heat - 10}
        return {"temperatures_celsius": zones, "frequencies_khz": {"cpu0": 1000, "cpu1": 2000}}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endurance, "_ASK_S", 0.001)


def test_it_waits_until_the_hottest_zone_is_cool() -> None:
    phone = Phone([50, 46, 41, 39.5])
    assert isinstance(phone, Watched)
    work = Endurance(LongTimings(cool_down=CoolDown(40)), phone)
    work.cool("the first sample")
    (wait,) = work.waits
    assert (wait.before_celsius, wait.after_celsius, wait.reached) == (50, 39.5, True)


def test_it_waits_no_longer_than_it_may() -> None:
    work = Endurance(LongTimings(cool_down=CoolDown(40, 0.01)), Phone([50, 45]))
    work.cool("the first sample")
    (wait,) = work.waits
    assert (wait.after_celsius, wait.reached) == (45, False)


def test_without_a_sensor_nothing_is_waited_for() -> None:
    work = Endurance(LongTimings(cool_down=CoolDown(40)), Phone([]))
    work.cool("the first sample")
    (wait,) = work.waits
    assert (wait.before_celsius, wait.reached) == (None, False)


def test_a_single_stream_has_all_its_queries_and_says_when_they_are_too_few() -> None:
    for wanted, virtual, compliant in (
        (SingleStream(), False, True),
        (SingleStream(), True, False),
        (SingleStream(100, 0.5), False, False),
    ):
        work = Endurance(LongTimings(single_stream=wanted), Phone([]))
        work.run({}, RunOptions(warmup=3, iterations=20), virtual=virtual)
        assert work.stream is not None
        assert work.stream.queries >= wanted.queries
        assert work.stream.seconds >= wanted.seconds
        assert work.stream.p90_ms == pytest.approx(1.0)
        assert work.stream.compliant is compliant
        assert bool(work.stream.remark) is not compliant


def test_a_sustained_run_keeps_its_curve() -> None:
    work = Endurance(LongTimings(sustained_s=0.2), Phone([40, 41, 42]))
    work.run({}, RunOptions(), virtual=False)
    found = work.sustained
    assert found is not None
    assert found.seconds >= 0.2
    assert found.inferences == sum(one.inferences for one in found.stretches)
    assert {one.frequency_khz for one in found.stretches} == {3000}
    assert found.stretches[-1].temperature_celsius == 42
    assert not found.throttled
    assert work.stopped is None


def test_what_was_measured_before_the_device_went_is_kept() -> None:
    work = Endurance(LongTimings(sustained_s=3600, single_stream=SingleStream(10, 0)), Phone([40], lost_at=12))
    work.run({}, RunOptions(), virtual=False)
    assert work.stream is not None
    assert work.sustained is not None
    assert work.sustained.error == "the cable was pulled"
    assert work.sustained.inferences > 0
    assert isinstance(work.stopped, DeviceLostError)


def test_a_device_that_goes_before_the_first_block_leaves_nothing_but_the_reason() -> None:
    work = Endurance(LongTimings(sustained_s=3600), Phone([40], lost_at=1))
    work.run({}, RunOptions(), virtual=False)
    assert work.sustained is None
    assert isinstance(work.stopped, DeviceLostError)


def test_this_machine_is_read_as_a_device_is(tmp_path: Path) -> None:
    for zone, milli in (("thermal_zone0", "41500"), ("thermal_zone1", "38"), ("thermal_zone2", "no number")):
        (tmp_path / "class/thermal" / zone).mkdir(parents=True)
        (tmp_path / "class/thermal" / zone / "temp").write_text(milli + "\n")
    core = tmp_path / "devices/system/cpu/cpu0/cpufreq"
    core.mkdir(parents=True)
    (core / "scaling_cur_freq").write_text("1800000\n")
    state = host_state(tmp_path)
    assert state["temperatures_celsius"] == {"thermal_zone0": 41.5, "thermal_zone1": 38.0}
    assert state["frequencies_khz"] == {"cpu0": 1_800_000}
    assert host_state(tmp_path / "nothing") == {"temperatures_celsius": {}, "frequencies_khz": {}}
