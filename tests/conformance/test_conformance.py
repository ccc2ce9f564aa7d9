"""Every case is in the class that ``results.csv`` says. ``python -m tests.conformance.update`` writes that file."""

from __future__ import annotations

import collections

import pytest

from tests.conformance.cases import Case, load_cases, read_scope
from tests.conformance.suite import read_results, run_cases, shard

SHARDS = 16

pytestmark = pytest.mark.conformance


@pytest.fixture(scope="session")
def cases() -> dict[str, Case]:
    return load_cases()


@pytest.mark.parametrize("index", range(SHARDS))
def test_each_case_is_in_its_class(cases: dict[str, Case], index: int) -> None:
    recorded = read_results()
    names = shard(list(cases), index, SHARDS)
    outcomes = run_cases(cases[name] for name in names)
    changed = [
        f"{name}: {recorded[name].kind if name in recorded else 'not recorded'} -> {found.kind} ({found.reason})"
        for name, found in outcomes.items()
        if name not in recorded or recorded[name].kind != found.kind
    ]
    if changed:
        pytest.fail(
            f"{len(changed)} cases changed; if that is meant: python -m tests.conformance.update\n" + "\n".join(changed)
        )


def test_the_results_cover_the_scope_and_nothing_is_silently_wrong() -> None:
    recorded = read_results()
    scope = [name for name, scoped in read_scope().items() if not scoped.excluded_because]
    assert list(recorded) == scope
    assert len(scope) == 1222
    kinds = collections.Counter(outcome.kind for outcome in recorded.values())
    assert set(kinds) == {"pass", "refused"}, kinds
    assert all(outcome.reason for outcome in recorded.values() if outcome.kind == "refused")


def test_the_tier_follows_from_what_stays_an_input(cases: dict[str, Case]) -> None:
    for case in cases.values():
        arrays = [*case.inputs.values(), *case.outputs.values()]
        assert case.inputs, case.name
        assert case.scoped.tier == ("float" if all(a.dtype.kind == "f" for a in arrays) else "int"), case.name
