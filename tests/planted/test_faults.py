"""A part of the planted faults as tests: those of the smallest public model; ``benchmarks/planted.py`` runs all."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobilekit import ExportOptions, ValidateOptions, export_model, validate_bundle
from mobilekit.pipeline.bisect import BisectOptions, bisect_bundle
from tests.planted.edit import Editor
from tests.planted.faults import FAULTS, VAD, Fault

pytestmark = [pytest.mark.network, pytest.mark.slow]

SMALL = [fault for fault in FAULTS if VAD in fault.models and fault.precision == "fp32"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted") / "good"
    export_model(VAD, folder, ExportOptions(verify=False))
    return folder


def test_the_good_bundle_passes(good: Path) -> None:
    assert validate_bundle(good, "local", ValidateOptions(warmup=0, iterations=1)).verdict.value == "pass"
    assert bisect_bundle(good, "local").stage == "none"


@pytest.mark.parametrize("fault", SMALL, ids=lambda fault: fault.name)
def test_a_planted_fault_fails_and_its_layer_is_named(good: Path, tmp_path: Path, fault: Fault) -> None:
    editor = Editor(good, tmp_path / "bad")
    planted = fault.plant(editor)
    bad = editor.save()
    assert validate_bundle(bad, "local", ValidateOptions(warmup=0, iterations=1)).verdict.value == "fail"
    found = bisect_bundle(bad, "local")
    assert found.stage == planted.stage
    named = {layer.name for layer in found.first.layers} if found.first is not None else set()
    assert (named & set(planted.layers)) or not (planted.layers or named)
    assert found.runs <= BisectOptions().runs
