"""Random graphs end to end: they convert to what ONNX Runtime computes, or are refused with a reason.

``MOBILEKIT_RANDOM_GRAPHS=5000`` makes as many of them, other ones each time; without it a few, the same each time.
``python -m tests.property.search`` looks on after the first failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilekit.errors import MobilekitError, VerificationError
from mobilekit.importers.onnx import load
from mobilekit.passes import prepare
from mobilekit.passes.verify import PassVerifier
from tests.conformance.suite import Outcome, Runner
from tests.models import save
from tests.property.graphs import Builder, RandomChoices, build
from tests.property.makers import MAKERS
from tests.property.search import case_of, outputs_of

MANY = int(os.environ.get("MOBILEKIT_RANDOM_GRAPHS", "0"))


class Drawn:
    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def integer(self, low: int, high: int) -> int:
        return int(self._data.draw(st.integers(low, high)))


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as made:
        yield made


def judged(builder: Builder, runner: Runner, folder: Path) -> Outcome:
    """What came of it; raises where a rewrite rule changed the numbers."""
    outputs = outputs_of(builder)
    model = builder.model(outputs)
    text = onnx.printer.to_text(model)
    arrays = {t.name: t.array for t in builder.inputs}
    try:
        with PassVerifier(lambda values: {v.name: arrays[v.name] for v in values}, isolated=False) as verifier:
            prepare(load(save(model, folder / "m.onnx")), {}, simplify=False, verifier=verifier)
    except VerificationError as error:
        raise AssertionError(f"{error.message}\n{text}") from error
    except MobilekitError:
        pass  # refused: the runner says why
    outcome = runner.run(case_of(model, builder.inputs, outputs))
    assert outcome.kind in ("pass", "refused"), f"{outcome.kind}: {outcome.reason}\n{text}"
    assert outcome.kind == "pass" or outcome.reason, text
    return outcome


@settings(max_examples=MANY or 25, derandomize=not MANY, database=None)
@given(st.data())
def test_random_graphs(runner: Runner, tmp_path: Path, data: st.DataObject) -> None:
    builder = build(Drawn(data), MAKERS, data.draw(st.integers(1, 6)))
    if builder.nodes:
        judged(builder, runner, tmp_path)


def test_most_random_graphs_pass(runner: Runner, tmp_path: Path) -> None:
    """A converter that refused everything would be never wrong either."""
    kinds = [judged(build(RandomChoices(seed), MAKERS, 3), runner, tmp_path).kind for seed in range(60)]
    assert kinds.count("pass") >= 45, kinds
