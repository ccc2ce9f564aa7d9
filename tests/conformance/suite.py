"""Run cases, each safely isolated, and keep what came of them."""

from __future__ import annotations

import csv
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mobilekit.child import Child
from mobilekit.errors import ChildCrashError, ChildError, ChildTimeoutError
from tests.conformance.cases import Case, Scoped

__all__ = ["RESULTS", "Outcome", "Runner", "read_results", "run_cases", "shard", "write_results"]

RESULTS = Path(__file__).with_name("results.csv")
_TIME_LIMIT_S = 120.0
_MEMORY_BYTES = 4 << 30
_REASON_LENGTH = 240
_COLUMNS = ("case", "op", "tier", "expanded", "class", "reason")


@dataclass(frozen=True, slots=True)
class Outcome:
    """``kind`` is ``pass``, ``refused``, ``wrong`` (the emission computes something else), ``crash`` or ``hang``."""

    kind: str
    reason: str


class Runner:
    """One child process that takes case after case; it is made anew after a case that killed it or hung."""

    def __init__(self, worker: str = "tests.conformance.worker:Worker", time_limit_s: float = _TIME_LIMIT_S) -> None:
        self._worker = worker
        self._time_limit_s = time_limit_s
        self._child: Child | None = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def run(self, case: Case) -> Outcome:
        if self._child is None:
            self._child = Child(what="the case", memory_bytes=_MEMORY_BYTES)
            self._child.create(self._worker, {})
        with tempfile.TemporaryDirectory(prefix="mobilekit-conformance-") as folder:
            model = Path(folder) / "model.onnx"
            model.write_bytes(case.model)
            request = {
                "model": str(model),
                "inputs": case.inputs,
                "outputs": case.outputs,
                "rtol": case.rtol,
                "atol": case.atol,
            }
            try:
                answer = self._child.call("run", request, timeout_s=self._time_limit_s)
            except ChildTimeoutError as error:
                self.close()
                return Outcome("hang", error.message)
            except ChildCrashError as error:
                self.close()
                return Outcome("crash", error.message)
            except ChildError as error:
                self.close()
                return Outcome("crash", f"{error.message} {error.hint}".strip())
        reason = " ".join(str(answer["reason"]).split())
        return Outcome(str(answer["outcome"]), reason[:_REASON_LENGTH])

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()


def run_cases(
    cases: Iterable[Case], jobs: int = 1, report: Callable[[Case, Outcome], None] | None = None
) -> dict[str, Outcome]:
    """Run ``cases`` in ``jobs`` child processes."""
    pending = list(cases)
    outcomes: dict[str, Outcome] = {}
    lock = threading.Lock()
    queue = iter(pending)

    def work() -> None:
        with Runner() as runner:
            while True:
                with lock:
                    case = next(queue, None)
                if case is None:
                    return
                outcome = runner.run(case)
                with lock:
                    outcomes[case.name] = outcome
                    if report is not None:
                        report(case, outcome)

    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(work) for _ in range(jobs)]:
            future.result()
    return {case.name: outcomes[case.name] for case in pending}


def shard(names: Sequence[str], index: int, count: int) -> list[str]:
    """Every ``count``-th of ``names`` from ``index`` on: neighbours are alike in cost, so shards are too."""
    return list(names[index::count])


def read_results() -> dict[str, Outcome]:
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return {row["case"]: Outcome(row["class"], row["reason"]) for row in csv.DictReader(file)}


def write_results(scope: Mapping[str, Scoped], outcomes: Mapping[str, Outcome]) -> None:
    """All of ``outcomes``, in the order of ``scope``."""
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for name, scoped in scope.items():
            if name in outcomes:
                outcome = outcomes[name]
                writer.writerow([name, scoped.op, scoped.tier, int(scoped.expanded), outcome.kind, outcome.reason])
