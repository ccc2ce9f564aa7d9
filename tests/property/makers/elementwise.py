"""Makers of operators on each element."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.property.graphs import Builder, Tensor, Unfit

__all__ = ["MAKERS"]


_SMOOTH = ("Abs", "Neg", "Sigmoid", "Tanh", "Relu", "Exp", "Sin", "Cos", "Atan", "Erf", "Softplus", "Softsign", "Sinh",
           "Cosh", "Asinh", "Selu", "Elu", "LeakyRelu", "HardSigmoid", "Celu", "ThresholdedRelu", "Identity",
           "Reciprocal", "Mish", "HardSwish", "Gelu", "Swish", "Shrink", "Dropout")  # fmt: skip


def unary(b: Builder) -> None:
    op, x = b.one(_SMOOTH), b.pick()
    attrs: dict[str, Any] = {}
    if op in ("Elu", "LeakyRelu", "Celu", "Selu", "ThresholdedRelu") and b.maybe():
        attrs["alpha"] = b.float(0.1, 1.5)
    if op == "HardSigmoid" and b.maybe():
        attrs = {"alpha": b.float(0.1, 0.5), "beta": b.float(0.0, 1.0)}
    if op == "Gelu" and b.maybe():
        attrs["approximate"] = "tanh"
    if op in ("ThresholdedRelu", "Shrink") and not x.exact:
        raise Unfit
    if op == "Shrink":
        attrs = {"lambd": b.float(0.0, 1.0), "bias": b.float(0.0, 1.0)}
    b.add(op, [x], exact=op in ("Abs", "Neg", "Relu", "Identity", "Dropout"), **attrs)


def positive(b: Builder) -> None:
    x = b.pick()
    b.add(b.one(("Log", "Sqrt", "Reciprocal")), [b.add("Add", [b.add("Abs", [x]), b.const(np.float32(0.5))])])


def jump(b: Builder) -> None:
    op = b.one(("Floor", "Ceil", "Round", "Sign", "IsNaN", "IsInf"))
    b.add(op, [b.pick(exact=True)], exact=True)


def binary(b: Builder) -> None:
    op = b.one(("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum"))
    x = b.pick()
    y = b.partner(x)
    if op == "Div" and np.abs(y.array).min() < 0.05:
        y = b.const(np.abs(b.data(x.shape[-1:])) + np.float32(0.5))
    pair = [y, x] if b.maybe() and op != "Div" else [x, y]
    if op in ("Max", "Min", "Mean", "Sum") and b.int(0, 3) == 0:
        pair.append(b.partner(x))
    b.add(op, pair, exact=op in ("Max", "Min"))


def power(b: Builder) -> None:
    x = b.pick()
    if b.maybe():
        b.add("Pow", [x, b.const(np.float32(b.one((2.0, 3.0, 1.0, 0.0))))])
    else:
        b.add("Pow", [b.add("Abs", [x]), b.const(np.float32(b.one((0.5, 1.5, 2.0))))])


def whole_numbers(b: Builder) -> None:
    x = b.pick("i")
    op = b.one(("Add", "Sub", "Mul", "Max", "Min", "Abs", "Neg", "Div", "Mod"))
    if op in ("Abs", "Neg"):
        b.add(op, [x])
    elif op in ("Div", "Mod"):
        b.add(op, [x, b.const(np.abs(b.data(x.shape[-1:], "i")) + 1)])
    else:
        b.add(op, [x, b.partner(x)])


def compared(b: Builder) -> None:
    x = b.pick("fi", exact=True)
    y = b.partner(x)
    if y.exact:
        b.add(b.one(("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")), [x, y])


def logic(b: Builder) -> None:
    x = b.pick("b")
    op = b.one(("And", "Or", "Xor", "Not"))
    b.add(op, [x] if op == "Not" else [x, b.partner(x)])


def where(b: Builder) -> None:
    x = b.pick("fi")
    c = b.partner(b.pick("b")) if b.maybe() else b.input(x.shape[b.int(0, x.rank) :], "b")
    b.add("Where", [c, x, b.partner(x)], exact=True)


def cast(b: Builder) -> None:
    x = b.pick("fib", exact=True)
    b.add("Cast", [x], to=b.one((1, 6, 7, 9)), exact=True)


def clip(b: Builder) -> None:
    low = b.float(-2, 0)
    bounds = [b.const(np.float32(low)), b.const(np.float32(b.float(low, 2)))]
    shown: list[Tensor | None] = [bounds[0] if b.int(0, 3) else None, bounds[1] if b.int(0, 3) else None]
    b.add("Clip", [b.pick(), *shown], exact=True)


def prelu(b: Builder) -> None:
    x = b.pick()
    shape = tuple(size if b.maybe() else 1 for size in x.shape)[b.int(0, x.rank) :]
    b.add("PRelu", [x, b.weights(*shape)])


MAKERS = (unary, positive, jump, binary, power, whole_numbers, compared, logic, where, cast, clip, prelu)
