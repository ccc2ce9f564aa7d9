"""A validation that was stopped keeps what it did, says so, and goes on with --resume."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

import mobilekit.pipeline.validate as validating
from mobilekit.bundle import open_bundle, write_manifest
from mobilekit.errors import DeviceLostError, HarnessTimeoutError, UsageError
from mobilekit.pipeline.export import export_model
from mobilekit.pipeline.record import RecordOptions, record_reference
from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
from mobilekit.report import json
from mobilekit.validate.recording import RecordingWriter, open_recording
from mobilekit.validate.tolerance import Verdict
from tests.models import of_nodes, save


class Flaky:
    """The runner, until it has run ``left`` times."""

    def __init__(self, runner, left, error, ran):
        self.runner, self.left, self.error, self.ran = runner, left, error, ran

    def run(self, inputs, options):
        if self.left == 0:
            raise self.error
        self.left -= 1
        self.ran.append(options)
        return self.runner.run(inputs, options)


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILEKIT_CACHE", str(tmp_path / "cache"))  # what is kept there is not for the tests beside
    weights = {"w": np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)}
    model = of_nodes([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": (1, 3, 8, 8)}, {"y": (1, 8, 6, 6)}, weights)
    export_model(save(model, tmp_path / "m.onnx"), tmp_path / "b")
    return tmp_path / "b"


@pytest.fixture
def fails(monkeypatch):
    """``fails(after, error)``: the place goes wrong after so many runs; gives the list of those that went well. What
    else is named is what the place says of itself."""
    right = validating.open_place

    def arrange(left, error=None, **said):
        ran = []

        @contextmanager
        def place(*args, **kwargs):
            with right(*args, **kwargs) as (runner, facts):
                yield Flaky(runner, left, error, ran), facts.model_copy(update=said)

        monkeypatch.setattr(validating, "open_place", place)
        return ran

    return arrange


OPTIONS = {"samples": 5, "iterations": 4, "warmup": 0}


@pytest.mark.parametrize("error", [DeviceLostError("it went away"), HarnessTimeoutError("nothing came within 3 s")])
def test_what_was_done_is_told_and_not_done_again(bundle, fails, error):
    whole = validate_bundle(bundle, "local", ValidateOptions(**OPTIONS))
    fails(2, error)
    report = validate_bundle(bundle, "local", ValidateOptions(**OPTIONS))
    assert report.samples == ("seed 0", "seed 1")
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.stopped is not None
    assert (report.stopped.done, report.stopped.error, report.stopped.exit_code) == (2, error.message, 4)
    assert "--resume" in report.stopped.hint
    assert json.loads(json.dumps(report)) == report
    ran = fails(-1)
    again = validate_bundle(bundle, "local", ValidateOptions(**OPTIONS, resume=True, timeout_s=200))
    assert len(ran) == 3
    assert all(options.iterations == 1 for options in ran)
    assert again.outputs == whole.outputs
    assert again.samples == whole.samples
    assert again.stopped is None
    assert again.latency.iterations == 4
    assert again.latency.values_ms == report.latency.values_ms
    ran = fails(-1)
    validate_bundle(bundle, "local", ValidateOptions(**OPTIONS, resume=True))
    assert len(ran) == 5, "nothing is left of a validation that ended well"


def test_a_damaged_file_among_many_costs_only_itself(bundle, fails, tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    for number in range(4):
        np.save(folder / f"{number}.npy", np.random.default_rng(number).standard_normal((1, 3, 8, 8)).astype("f4"))
    good = (folder / "3.npy").read_bytes()
    (folder / "3.npy").write_bytes(good[:-9])
    options = ValidateOptions(inputs=folder, iterations=2, warmup=0)
    with pytest.raises(UsageError, match=r"3\.npy is not a readable") as caught:
        validate_bundle(bundle, "local", options)
    assert "--resume: what was done (3 samples) is kept" in caught.value.hint
    (folder / "3.npy").write_bytes(good)
    ran = fails(-1)
    report = validate_bundle(bundle, "local", replace(options, resume=True))
    assert len(ran) == 1
    assert report.samples == ("0.npy", "1.npy", "2.npy", "3.npy")
    (folder / "0.npy").write_bytes(b"")
    with pytest.raises(UsageError) as caught:  # nothing was done yet
        validate_bundle(bundle, "local", options)
    assert "--resume" not in caught.value.hint


def test_other_settings_begin_anew_and_a_cut_line_is_left_out(bundle, fails, tmp_path):
    fails(3, DeviceLostError("gone"))
    validate_bundle(bundle, "local", ValidateOptions(**OPTIONS))
    ran = fails(-1)
    validate_bundle(bundle, "local", ValidateOptions(**{**OPTIONS, "seed": 100}, resume=True))
    assert len(ran) == 5
    fails(3, DeviceLostError("gone"))
    validate_bundle(bundle, "local", ValidateOptions(**OPTIONS))
    from mobilekit.paths import cache_dir

    (file,) = cache_dir("partial").glob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-20])
    ran = fails(-1)
    assert validate_bundle(bundle, "local", ValidateOptions(**OPTIONS, resume=True)).verdict is Verdict.PASS
    assert len(ran) == 3


@pytest.mark.parametrize("what", ["version", "limits", "rtol", "reference"])
def test_what_a_verdict_hangs_on_begins_anew(bundle, fails, what, tmp_path, monkeypatch):
    golden = tmp_path / "golden"
    options = dict(OPTIONS)
    if what == "reference":
        record_reference(bundle, golden, RecordOptions(samples=5))
        options["reference"] = golden
    fails(3, DeviceLostError("gone"))
    assert validate_bundle(bundle, "local", ValidateOptions(**options)).stopped is not None
    if what == "version":
        monkeypatch.setattr("mobilekit.__version__", "999.0")
    elif what == "limits":
        manifest = open_bundle(bundle).manifest
        write_manifest(bundle, replace(manifest, rtol=0.05, rtol_reason="a test"))
    elif what == "rtol":
        options["rtol"] = 0.01
    else:
        writer = open_recording(golden)  # the same inputs and outputs, recorded again with another doubt
        again = RecordingWriter(tmp_path / "again")
        (tmp_path / "again").mkdir()
        for index, sample in enumerate(writer.samples()):
            again.add("input", sample.tensors)
            again.add("output", writer.tensors(index, "output"))
            again.end_sample(sample.name, {"y": 0.5})
        facts = writer.manifest
        again.finish(facts.mobilekit_version, facts.model, facts.provider, seed=facts.seed, left_out={})
        shutil.rmtree(golden)
        (tmp_path / "again").rename(golden)
    ran = fails(-1)
    assert validate_bundle(bundle, "local", ValidateOptions(**options, resume=True)).stopped is None
    assert len(ran) == 5


def test_a_device_that_never_answered_is_an_error(bundle, fails):
    fails(0, DeviceLostError("gone"))
    with pytest.raises(DeviceLostError):
        validate_bundle(bundle, "local", ValidateOptions(**OPTIONS))


VIRTUAL = {"virtual": True, "cpu_profile": "cortex-a53"}


@pytest.mark.parametrize(
    ("before", "after", "known"),
    [
        (VIRTUAL | {"serial": "127.0.0.1:5600"}, VIRTUAL | {"serial": "127.0.0.1:41000"}, True),
        (VIRTUAL | {"serial": "127.0.0.1:5600"}, VIRTUAL | {"serial": "127.0.0.1:5600", "cpu_profile": "max"}, False),
        ({"serial": "10.0.0.5:5555", "hardware_serial": "R58M"}, {"serial": "R58M", "hardware_serial": "R58M"}, True),
        (
            {"serial": "10.0.0.5:5555", "hardware_serial": "R5"},
            {"serial": "10.0.0.5:5555", "hardware_serial": "R6"},
            False,
        ),
        ({"serial": "R58M"}, {"serial": "R58N"}, False),
    ],
)
def test_a_device_is_known_again_by_what_it_is_not_by_its_address(bundle, fails, before, after, known):
    fails(3, DeviceLostError("gone"), **before)
    report = validate_bundle(bundle, "local", ValidateOptions(**OPTIONS))
    assert report.samples == ("seed 0", "seed 1", "seed 2")
    assert "hardware_serial" not in json.dumps(report)
    ran = fails(-1, **after)
    assert validate_bundle(bundle, "local", ValidateOptions(**OPTIONS, resume=True)).stopped is None
    assert len(ran) == (2 if known else 5)
