"""Run the suite and write ``results.csv``: ``python -m tests.conformance.update [--only REGEX] [--dry-run]``."""

from __future__ import annotations

import argparse
import collections
import os
import re
import sys
import time

from tests.conformance.cases import Case, load_cases, read_scope
from tests.conformance.suite import RESULTS, Outcome, read_results, run_cases, write_results

CLASSES = ("pass", "refused", "wrong", "crash", "hang")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name or operator matches; the others keep their rows")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--dry-run", action="store_true", help="print what changed, write nothing")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every case")
    arguments = parser.parse_args()

    scope = {name: scoped for name, scoped in read_scope().items() if not scoped.excluded_because}
    wanted = {
        name
        for name, scoped in scope.items()
        if re.search(arguments.only, name) or re.fullmatch(arguments.only, scoped.op)
    }
    before = read_results() if RESULTS.exists() else {}
    cases = load_cases(wanted)
    missing = sorted(wanted - cases.keys())
    if missing:
        sys.exit(f"the installed onnx does not generate {', '.join(missing)}")

    def report(case: Case, outcome: Outcome) -> None:
        old = before.get(case.name)
        if arguments.verbose or old is None or old.kind != outcome.kind:
            print(f"{case.name}: {old.kind if old else 'new'} -> {outcome.kind} {outcome.reason}", flush=True)

    started = time.monotonic()
    outcomes = run_cases(cases.values(), arguments.jobs, report)
    merged = {name: outcome for name, outcome in (before | outcomes).items() if name in scope}
    if not arguments.dry_run:
        write_results(scope, merged)
    print(f"{len(outcomes)} cases in {time.monotonic() - started:.0f} s")
    counts: dict[tuple[str, bool], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for name, outcome in merged.items():
        counts[scope[name].tier, scope[name].expanded][outcome.kind] += 1
    for (tier, expanded), counter in sorted(counts.items()):
        line = ", ".join(f"{kind} {counter[kind]}" for kind in CLASSES)
        print(f"{tier}{' expanded' if expanded else ''} ({counter.total()}): {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
