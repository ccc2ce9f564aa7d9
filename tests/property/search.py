"""Look for random graphs that convert into something wrong: ``python -m tests.property.search --seed 0 --count 10000``.

Prints each failure with the seed, and the first node that is wrong where it is wrong alone too.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx

from tests.conformance.cases import Case, Scoped
from tests.conformance.suite import Outcome, Runner
from tests.property.graphs import Builder, RandomChoices, Tensor, build, single
from tests.property.makers import MAKERS

__all__ = ["RTOL", "blame", "case_of", "outputs_of"]

RTOL, ATOL = 2e-3, 2e-4
"""Of the sum of both. A dozen float32 operators in a row; wrong attributes and axes cost far more."""


def case_of(model: onnx.ModelProto, inputs: Sequence[Tensor], outputs: Sequence[Tensor], name: str = "random") -> Case:
    read = {info.name for info in model.graph.input}
    largest = max((float(np.abs(t.array).max()) for t in outputs if t.kind == "f"), default=1.0)
    return Case(
        Scoped(name, "", "float", False, ""),
        model.SerializeToString(),
        {t.name: t.array for t in inputs if t.name in read},
        {t.name: t.array for t in outputs},
        RTOL,
        ATOL * max(1.0, largest),
    )


def outputs_of(builder: Builder) -> list[Tensor]:
    """What nobody reads, and now and then something that is read too."""
    made = [t for made in builder.nodes for t in made.outputs]
    read = {t.name for made in builder.nodes for t in made.inputs}
    ends = [t for t in made if t.name not in read]
    return ends + [t for t in made if t.name in read and builder.int(0, 5) == 0][:2]


def blame(builder: Builder, runner: Runner) -> str:
    """The node that is wrong alone, or the first tensor that is wrong in the whole."""
    for made in builder.nodes:
        model = single(made, builder.opset)
        outcome = runner.run(case_of(model, made.inputs, made.outputs))
        if outcome.kind not in ("pass", "refused"):
            return f"alone: {outcome.kind} {outcome.reason}\n{onnx.printer.to_text(model)}"
    for count, made in enumerate(builder.nodes, 1):
        model = builder.model(made.outputs)
        outcome = runner.run(case_of(model, builder.inputs, made.outputs))
        if outcome.kind not in ("pass", "refused"):
            return f"up to node {count}: {outcome.kind} {outcome.reason}\n{onnx.printer.to_text(model)}"
    return "only with all its outputs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--only", default="", help="makers whose name contains this")
    options = parser.parse_args()
    makers = [maker for maker in MAKERS if options.only in maker.__name__]
    kinds: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    with Runner(time_limit_s=20) as runner:
        for seed in range(options.seed, options.seed + options.count):
            choices = RandomChoices(seed)
            builder = build(choices, makers, 1 + seed % options.nodes)
            if not builder.nodes:
                continue
            outputs = outputs_of(builder)
            outcome: Outcome = runner.run(case_of(builder.model(outputs), builder.inputs, outputs, str(seed)))
            kinds[outcome.kind] += 1
            if outcome.kind == "refused":
                reasons[outcome.reason.split(";")[0][:100]] += 1
                if outcome.reason.startswith(("ModelError", "UsageError")):  # the model is valid
                    print(f"=== seed {seed} opset {builder.opset}: {outcome.reason}", flush=True)
            elif outcome.kind != "pass":
                print(f"=== seed {seed} opset {builder.opset}: {outcome.kind}: {outcome.reason}", flush=True)
                print(blame(builder, runner), flush=True)
            if seed % 200 == 199:
                print(f"--- {seed + 1}: {dict(kinds)}", flush=True)
    print(f"--- {dict(kinds)}")
    for reason, count in reasons.most_common(40):
        print(count, reason)
    return 0 if not kinds["wrong"] + kinds["crash"] + kinds["hang"] else 1


if __name__ == "__main__":
    sys.exit(main())
