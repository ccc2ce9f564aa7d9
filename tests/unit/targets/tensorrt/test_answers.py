"""What a worker answers is checked: the one that answers may run on another machine."""

from __future__ import annotations

from typing import Any

import pytest

from mobilekit.errors import ChildError
from mobilekit.targets.tensorrt.answers import Built, Checked, parse_answer

PROBLEM = {"node": "n", "op": "DFT", "reason": "no such operator"}
BUILT: dict[str, Any] = {"version": "10.3", "problems": [], "warnings": ["w"], "log": ["Layers:"], "seconds": 1.5}


def test_what_the_worker_answers_is_understood() -> None:
    assert parse_answer(Checked, {"version": "1.7", "problems": [PROBLEM]}, "the parser").problems[0].op == "DFT"
    gpu = {"index": 0, "name": "Orin", "compute_capability": "8.7", "memory_bytes": 1, "integrated": True}
    answer = BUILT | {"gpu": gpu, "timing_cache": {"hit": True, "path": "p"}, "plan_bytes": 3}
    built = parse_answer(Built, answer, "the builder")
    assert built.gpu is not None
    assert built.gpu.name == "Orin"
    assert built.timing_cache is not None
    assert built.timing_cache.hit


@pytest.mark.parametrize(
    "answer",
    [
        {},
        BUILT | {"version": None},
        BUILT | {"problems": [{"node": "n"}]},
        BUILT | {"problems": "none"},
        BUILT | {"log": [1]},
        BUILT | {"log": "Layers:"},
        BUILT | {"gpu": {"name": "Orin"}},
        BUILT | {"timing_cache": True},
    ],
)
def test_nonsense_is_told_from_an_answer(answer: dict[str, Any]) -> None:
    with pytest.raises(ChildError, match="the builder gave an answer that makes no sense"):
        parse_answer(Built, answer, "the builder")
