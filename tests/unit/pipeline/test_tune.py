"""``mobilekit tune``: what is tried, what is never chosen, what is written, and who goes by it.

Times here are scripted where a choice depends on them (the outputs are ncnn's own): no test waits for a fast machine.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import mobilekit.pipeline.tune as tuning
import mobilekit.pipeline.turns as turns
from mobilekit.bundle import MANIFEST, Bundle, open_bundle, write_manifest
from mobilekit.errors import BundleError, UsageError
from mobilekit.pipeline.compare import CompareOptions, compare
from mobilekit.pipeline.export import export_model
from mobilekit.pipeline.place import open_place
from mobilekit.pipeline.run import RunSettings, run
from mobilekit.pipeline.settings import place_of, remember, setting_at
from mobilekit.pipeline.tune import TuneOptions, candidates, tune_bundle
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.progress import SILENT
from mobilekit.report.tune import TuneReport, page
from mobilekit.runners.base import RunOptions, RunResult
from mobilekit.tuning import Setting, TunedPlace
from mobilekit.validate.tolerance import Verdict
from tests.e2e.bench import mobilekit
from tests.models import conv_classifier, of_nodes, save

ONE = TuneOptions(threads=(1,), samples=1, budget_s=1200, write=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    export_model(save(conv_classifier(), root / "m.onnx"), root / "b")
    return root / "b"


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "b")
    return tmp_path / "b"


class Scripted:
    """The runner it stands before, with its times replaced by ``cost`` of the setting, in ms, and some noise."""

    def __init__(self, inner: Any, cost: Callable[[RunOptions], float], noise: random.Random) -> None:
        self._inner, self._cost, self._noise = inner, cost, noise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, inputs: Mapping[str, Any], options: RunOptions) -> RunResult:
        result = self._inner.run(inputs, replace(options, warmup=0, iterations=1))
        each = self._cost(options) * 1e6
        times = tuple(round(each * self._noise.gauss(1, 0.002)) for _ in range(options.iterations))
        return replace(result, latencies_ns=times)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let every place take the times that a function of the setting gives, and be virtual where that is asked."""

    def use(cost: Callable[[RunOptions], float], **facts_too: Any) -> None:
        noise = random.Random(0)

        @contextmanager
        def place(*args: Any, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
            with open_place(*args, **kwargs) as (runner, facts):
                yield Scripted(runner, cost, noise), facts.model_copy(update=facts_too)

        for module in (tuning, turns):
            monkeypatch.setattr(module, "open_place", place)

    return use


def without_packing_is_fast(options: RunOptions) -> float:
    return 8.0 if not options.packing else 10.0


def test_the_clearly_fastest_is_written_and_everybody_goes_by_it(bundle: Path, timed: Callable[..., None]) -> None:
    timed(without_packing_is_fast)
    found = tune_bundle(bundle, "local", ONE)
    assert (found.outcome, found.written, found.exit_code) == ("tuned", True, 0)
    assert found.chosen is not None
    assert not found.chosen.packing
    # Winograd and fp16 make no difference here: of equals, what changes least is taken.
    assert (found.chosen.winograd, found.chosen.fp16) == (True, False)
    assert found.latency is not None
    assert found.latency.low < 0.8 < found.latency.high
    assert all(each.verdict is Verdict.PASS for each in found.settings if each.turns)
    assert TuneReport.model_validate_json(found.model_dump_json()) == found
    assert str(found.chosen) in page(found)

    manifest = open_bundle(bundle).manifest
    assert [each.setting for each in manifest.tuned] == [found.chosen]
    report = validate_bundle(bundle, "local", ValidateOptions(samples=1, iterations=1))
    assert (report.settings.tuned, report.settings.packing) == (True, False)
    assert report.verdict is Verdict.PASS
    plain = validate_bundle(bundle, "local", ValidateOptions(samples=1, iterations=1, tuned=False))
    assert (plain.settings.tuned, plain.settings.packing) == (False, True)
    part = validate_bundle(bundle, "local", ValidateOptions(samples=1, iterations=1, threads=2, precision="fp16"))
    assert (part.settings.threads, part.settings.precision, part.settings.packing) == (2, "fp16", False)


def test_what_is_not_faster_is_not_chosen_and_an_old_choice_is_taken_out(
    bundle: Path, timed: Callable[..., None]
) -> None:
    timed(without_packing_is_fast)
    assert tune_bundle(bundle, "local", ONE).written
    timed(lambda options: 10.0 if options.packing else 12.0)
    dry = tune_bundle(bundle, "local", replace(ONE, write=False))
    assert (dry.outcome, dry.written) == ("default", False)
    assert len(open_bundle(bundle).manifest.tuned) == 1
    again = tune_bundle(bundle, "local", ONE)
    assert (again.outcome, again.written, again.chosen) == ("default", True, None)
    assert "keep the default" in again.sentence
    assert open_bundle(bundle).manifest.tuned == ()


def test_half_a_percent_is_no_reason(bundle: Path, timed: Callable[..., None]) -> None:
    timed(lambda options: 9.95 if not options.packing else 10.0)
    before = (bundle / MANIFEST).read_bytes()
    found = tune_bundle(bundle, "local", ONE)
    assert found.outcome in ("default", "undecided")
    assert (bundle / MANIFEST).read_bytes() == before


def test_the_fastest_is_never_chosen_where_its_answers_are_wrong(tmp_path: Path, timed: Callable[..., None]) -> None:
    # Beyond half precision, which ncnn then stores these weights in.
    weight = (1e6 * np.random.default_rng(0).standard_normal((4, 16))).astype(np.float32)
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)]
    model = of_nodes(nodes, {"x": (1, 16)}, {"y": (1, 4)}, {"w": weight})
    export_model(save(model, tmp_path / "m.onnx"), tmp_path / "b")
    timed(lambda options: 1.0 if options.fp16 else 10.0)
    found = tune_bundle(tmp_path / "b", "local", replace(ONE, samples=2, winograd=(True,)))
    assert {each.verdict for each in found.settings if each.setting.fp16} == {Verdict.FAIL}
    assert all(each.turns == 0 for each in found.settings if each.setting.fp16)
    assert found.chosen is None
    assert "never chosen" in page(found)


def test_a_wrong_bundle_is_said_and_not_tuned(bundle: Path, timed: Callable[..., None]) -> None:
    manifest = open_bundle(bundle).manifest
    assert manifest.ncnn is not None
    weights = bundle / manifest.ncnn.bin
    data = bytearray(weights.read_bytes())
    kernel = slice(len(data) - (4 + 4 * 8) * 4, len(data) - 4 * 4)  # before its 4 biases
    data[kernel] = (-np.frombuffer(data[kernel], "<f4")).tobytes()
    weights.write_bytes(data)
    write_manifest(bundle, manifest)
    timed(without_packing_is_fast)
    found = tune_bundle(bundle, "local", ONE)
    assert (found.outcome, found.exit_code, found.written) == ("wrong", 1, False)
    assert "wrong as it is" in found.sentence


def test_the_emulators_times_decide_nothing(bundle: Path, timed: Callable[..., None]) -> None:
    timed(without_packing_is_fast, virtual=True)
    found = tune_bundle(bundle, "local", ONE)
    assert (found.outcome, found.exit_code, found.written) == ("undecided", 3, False)
    assert "emulator" in found.sentence
    assert all(each.p50_ms is each.instructions is None for each in found.settings)  # nothing was timed
    assert all(each.verdict is Verdict.PASS for each in found.settings)  # judged all the same
    forced = tune_bundle(bundle, "local", replace(ONE, force=True))
    assert (forced.outcome, forced.written) == ("tuned", True)


def test_a_spent_budget_is_no_answer(bundle: Path, timed: Callable[..., None]) -> None:
    timed(without_packing_is_fast)
    found = tune_bundle(bundle, "local", replace(ONE, budget_s=0))
    assert (found.outcome, found.written) == ("undecided", False)
    assert "budget" in found.sentence


class Clock:
    """Stands before ``time`` where it is read: a second passes with each run of a model."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (tuning, turns):
        monkeypatch.setattr(module, "time", made)
    return made


@pytest.mark.parametrize("budget", [4.0, 12.0, 20.0, 40.0, 90.0, 200.0])
def test_the_budget_holds_however_slow_the_model_is(
    bundle: Path, timed: Callable[..., None], clock: Clock, budget: float
) -> None:
    """A run of either model takes a second here, so a turn takes two and a session twelve. What the default needs to
    be judged is over before the budget counts; then nothing begins that does not fit."""
    started: list[float] = []

    def cost(options: RunOptions) -> float:
        clock.now += 1.0
        started.append(clock.now)
        return without_packing_is_fast(options)

    timed(cost)
    found = tune_bundle(bundle, "local", replace(ONE, budget_s=budget))
    # The default's judgement, and what was begun before anybody knew how long it takes: one session of twelve runs.
    assert clock.now <= budget + 12
    if budget < 60:
        assert (found.outcome, found.written) == ("undecided", False)
        assert "--budget" in found.sentence
    if budget == 200:
        assert (found.outcome, found.written) == ("tuned", True)


def test_no_time_to_make_sure_says_how_much_it_takes(bundle: Path, timed: Callable[..., None], clock: Clock) -> None:
    def cost(options: RunOptions) -> float:
        clock.now += 1.0
        return without_packing_is_fast(options)

    timed(cost)
    sentence = tune_bundle(bundle, "local", replace(ONE, budget_s=90)).sentence
    # A session is twelve runs (one of each side to see how long it takes, five rounds of both), an answer six, and
    # 40% of a budget are for them.
    assert "no time was left to make sure: give --budget 180 seconds or more" in sentence


def test_candidates_are_all_combinations_and_the_default_is_none_of_them() -> None:
    default = Setting()
    alike = candidates(default, 4, {"all": 4, "big": 4, "little": 0}, TuneOptions())
    assert len(alike) == len(set(alike)) == 3 * 2 * 2 * 2 - 1
    assert {each.cluster for each in alike} == {"all"}
    assert {each.threads for each in alike} == {0, 1, 2}  # ncnn's own choice is 4
    assert default not in alike
    phone = candidates(default, 4, {"all": 8, "big": 4, "little": 4}, TuneOptions(winograd=(True,), packing=(True,)))
    assert {each.cluster for each in phone} == {"all", "big", "little"}
    assert max(each.threads for each in phone if each.cluster == "little") < 8
    assert 8 in {each.threads for each in phone if each.cluster == "all"}
    distances = [default.distance(each) for each in phone]
    assert distances == sorted(distances)


def test_what_the_device_lacks_is_refused() -> None:
    cores = {"all": 4, "big": 4, "little": 0}
    with pytest.raises(UsageError, match="no little cores"):
        candidates(Setting(), 4, cores, TuneOptions(clusters=("little",)))
    with pytest.raises(UsageError, match="8 threads on 4 cores"):
        candidates(Setting(), 4, cores, TuneOptions(threads=(2, 8)))


def test_a_setting_is_for_one_kind_of_device(bundle: Path) -> None:
    opened = open_bundle(bundle)
    elsewhere = TunedPlace(kind="adb", model="Google Pixel 7", abi="arm64-v8a", cpu_features=("asimdhp",))
    assert remember(opened, elsewhere, Setting(threads=2, cluster="big", fp16=True))
    assert not remember(opened, elsewhere, Setting(threads=2, cluster="big", fp16=True))
    with open_place(opened, "local", target="ncnn") as (_, facts):
        here = place_of(facts)
    assert here is not None
    assert "Pixel" not in str(here)
    heard: list[str] = []

    class Heard(type(SILENT)):  # type: ignore[misc]
        def note(self, text: str) -> None:
            heard.append(text)

    now = open_bundle(bundle)
    assert setting_at(now.manifest, facts, progress=Heard()) == (Setting(), False)
    assert "Pixel 7" in heard[0]
    assert remember(opened, here, Setting(winograd=False))  # opened before the other was written, which stays
    assert [each.place for each in open_bundle(bundle).manifest.tuned] == [elsewhere, here]
    assert remember(opened, here, None)
    assert [each.place for each in open_bundle(bundle).manifest.tuned] == [elsewhere]


def test_a_bundle_that_was_exported_anew_meanwhile_is_left_alone(bundle: Path) -> None:
    old = open_bundle(bundle)
    export_model(save(conv_classifier(classes=5), bundle.parent / "n.onnx"), bundle)
    before = (bundle / MANIFEST).read_bytes()
    with pytest.raises(BundleError, match="anew"):
        remember(old, TunedPlace(kind="local", model="m", abi="x86_64"), Setting(threads=1))
    assert (bundle / MANIFEST).read_bytes() == before


def test_run_and_compare_go_by_it_too(bundle: Path, made: Path, tmp_path: Path) -> None:
    opened = open_bundle(bundle)
    with open_place(opened, "local", target="ncnn") as (_, facts):
        here = place_of(facts)
    assert here is not None
    remember(opened, here, Setting(threads=1, fp16=True, packing=False))
    heard: list[str] = []

    class Heard(type(SILENT)):  # type: ignore[misc]
        def note(self, text: str) -> None:
            heard.append(text)

    np.save(tmp_path / "x.npy", np.ones((1, 3, 8, 8), np.float32))
    run(bundle, [f"serving_default_input:0={tmp_path / 'x.npy'}"], progress=Heard())
    assert heard == ["as tuned for this device: 1 thread, fp16, no packing"]
    heard.clear()
    run(bundle, [f"serving_default_input:0={tmp_path / 'x.npy'}"], RunSettings(tuned=False), progress=Heard())
    assert heard == []
    options = CompareOptions(samples=1, budget_s=0)
    assert "no packing" in compare(made, bundle, "local", options).sentence
    assert "no packing" not in compare(made, bundle, "local", replace(options, tuned=False, threads=1)).sentence


def test_the_command_line_measures_and_leaves_the_bundle_alone(bundle: Path, tmp_path: Path) -> None:
    before = (bundle / MANIFEST).read_bytes()
    html = tmp_path / "t.html"
    done = mobilekit(
        "tune", bundle, "--device", "local", "--threads", "1", "--precision", "fp32", "--winograd", "--samples", 1,
        "--budget", 20, "--dry-run", "--json", "-", "--report", html,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    found = TuneReport.model_validate_json(done.stdout)
    assert found.default == Setting()
    assert all(each.verdict is Verdict.PASS for each in found.settings)
    assert not found.written
    assert (bundle / MANIFEST).read_bytes() == before
    assert "<script" not in html.read_text("utf-8")


def test_odd_options_are_usage_errors(bundle: Path) -> None:
    for options in (["--threads", "0"], ["--threads", "two"], ["--cluster", "medium"], ["--precision", "int8"]):
        done = mobilekit("tune", bundle, "--device", "local", *options)
        assert done.returncode == 2, (options, done.stderr)
        assert "Traceback" not in done.stderr


def test_inspect_shows_it(bundle: Path) -> None:
    place = TunedPlace(kind="adb", model="Google Pixel 7", abi="arm64-v8a")
    remember(open_bundle(bundle), place, Setting(threads=4, cluster="big", fp16=True))
    shown = mobilekit("inspect", bundle)
    assert "4 threads, big cores, fp16" in shown.stdout
    assert "Pixel 7" in shown.stdout
    assert json.loads(mobilekit("inspect", bundle, "--json").stdout)["tuned"][0]["setting"]["cluster"] == "big"


def test_a_manifest_of_an_older_schema_is_read(bundle: Path) -> None:
    raw = json.loads((bundle / MANIFEST).read_text())
    del raw["tuned"]
    raw["schema_version"] = "1.1"
    (bundle / MANIFEST).write_text(json.dumps(raw))
    opened: Bundle = open_bundle(bundle)
    assert opened.manifest.tuned == ()
