"""Arithmetic of two or more tensors, with numpy's broadcasting."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mobilekit.graph import Value
from mobilekit.targets.ncnn.emit import Blob, Emission, as_float
from mobilekit.targets.ncnn.layout import MAX_DIMS, Dims, Groups, dims_of, match, natural, unique
from mobilekit.targets.ncnn.node import NodeView, Refuse, static_shape
from mobilekit.targets.ncnn.registry import emits

ADD, SUB, MUL, DIV, MAX, MIN, POW, RSUB, RDIV, RPOW, ATAN2, FMOD = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12
"""ncnn's BinaryOp types (``src/layer/binaryop.h``); the R ones swap their operands."""

_TYPES = {"Add": ADD, "Sub": SUB, "Mul": MUL, "Div": DIV}
_SWAPPED = {ADD: ADD, MUL: MUL, MAX: MAX, MIN: MIN, SUB: RSUB, DIV: RDIV, POW: RPOW}

Operand = tuple["Value | Blob", tuple[int, ...]]
"""What to compute with, and its ONNX shape."""


def scalar(out: Emission, op: int, blob: Blob, number: float) -> Blob:
    """``blob op number``, element by element; ``number`` has to be finite."""
    return out.layer("BinaryOp", [blob], blob.dims, op_type=op, with_scalar=1, b=number)


def binary(out: Emission, op: int, operands: Sequence[Operand], shape: tuple[int, ...]) -> Blob:
    """Two operands broadcast to ``shape``.

    ncnn broadcasts like numpy where both Mats have the same number of dims; where they do not it aligns them by
    rules of its own, so both are always brought to the same dims first.
    """
    (a, a_shape), (b, b_shape) = operands
    for one, other, swap in ((b, a, False), (a, b, True)):
        number = _number(one)
        if number is not None and _elements(other) == math.prod(shape):
            x = out.native(other) if isinstance(other, Value) else other
            return scalar(out, _SWAPPED[op] if swap else op, x, number)
    shapes = [(1,) * (len(shape) - len(s)) + tuple(s) for s in (a_shape, b_shape)]
    groups = _common(out, [(a, shapes[0]), (b, shapes[1])], shape)
    dims = [dims_of(padded, groups) for padded in shapes]
    blobs = [
        _channel_vector(operand, own, other, out)
        or (out.view(operand, own) if isinstance(operand, Value) else out.reshape(operand, own))
        for operand, own, other in zip((a, b), dims, dims[::-1], strict=True)
    ]
    return out.layer("BinaryOp", blobs, dims_of(shape, groups), op_type=op)


def _channel_vector(operand: Value | Blob, dims: Dims, other: Dims, out: Emission) -> Blob | None:
    """``operand`` as the 1-dim Mat it is, where it holds a number for each channel of ``other``.

    Of ncnn's own rules for Mats with fewer dims the one that cannot be mistaken: as long as the outermost dim.
    """
    if not 2 <= len(dims) == len(other) or dims[0] != other[0] or math.prod(dims) != dims[0] or dims == other:
        return None
    if isinstance(operand, Blob):
        return operand if operand.dims == dims[:1] else None
    storage = out.storage(operand)
    if storage.const is not None or storage.kind != "float32" or dims in storage.views:
        return None
    return storage.views.get(dims[:1])


def _number(operand: Value | Blob) -> float | None:
    """A constant of one finite element."""
    if isinstance(operand, Blob) or operand.const is None or operand.const.size != 1:
        return None
    number = float(as_float(operand.const, operand.name).reshape(-1)[0])
    return number if math.isfinite(number) else None


def _elements(operand: Value | Blob) -> int:
    return math.prod(operand.dims if isinstance(operand, Blob) else static_shape(operand))


def _common(out: Emission, operands: Sequence[Operand], shape: tuple[int, ...]) -> Groups:
    """A grouping of the output's axes under which each operand is whole or 1 in every dim; fewest Reshapes win."""
    full = [tuple(size == 1 or have == size for size, have in zip(shape, s, strict=True)) for _, s in operands]
    single = [tuple(have == 1 for have in s) for _, s in operands]

    def valid(groups: Groups) -> bool:
        return all(
            all(full[i][axis] for axis in group) or all(single[i][axis] for axis in group)
            for i in range(len(operands))
            for group in groups
        )

    views = [
        [operand.dims]
        if isinstance(operand, Blob)
        else []
        if out.is_const(operand)
        else list(out.storage(operand).views)
        for operand, _ in operands
    ]
    candidates = [
        match(shape, dims)
        for dims_list, (_, s) in zip(views, operands, strict=True)
        if s == shape
        for dims in dims_list
    ]
    runs: list[list[int]] = []
    kinds: list[tuple[bool, ...]] = []
    for axis, size in enumerate(shape):
        kind = tuple(f[axis] for f in full)
        if runs and (size == 1 or kind == kinds[-1]):
            runs[-1].append(axis)
        elif size == 1:
            runs.append([axis])
            kinds.append(kind)
        elif runs and all(shape[a] == 1 for a in runs[-1]):
            runs[-1].append(axis)
            kinds[-1] = kind
        else:
            runs.append([axis])
            kinds.append(kind)
    candidates += [natural(shape), tuple(map(tuple, runs)) or ((),)]
    fitting = [groups for groups in unique(candidates) if len(groups) <= MAX_DIMS and valid(groups)]
    if not fitting:
        raise Refuse(
            f"broadcasting {' with '.join(str(list(s)) for _, s in operands)} needs more than ncnn's four dims",
            "expand one operand in the model first",
        )

    def reshapes(have: list[Dims], own: Dims, other: Dims) -> bool:
        vector = math.prod(own) == own[0] == other[0] and own[:1] in have
        return bool(have) and own not in have and not vector

    def cost(groups: Groups) -> int:
        wanted = [dims_of(s, groups) for _, s in operands]
        return sum(map(reshapes, views, wanted, wanted[::-1]))

    return min(fitting, key=cost)


@emits("Add", "Sub", "Mul", since=14, data="exact")
@emits("Div", since=14, data="exact")
def arithmetic(node: NodeView, out: Emission) -> None:
    if node.op == "Div" and node.output().dtype != "float32":
        from mobilekit.targets.ncnn.ops.integer import integer_division

        integer_division(node, out)
        return
    operands = [(value, static_shape(value)) for value in node.inputs()]
    out.bind(node.output(), binary(out, _TYPES[node.op], operands, node.out_shape()))


def _chain(node: NodeView, out: Emission, op: int) -> Blob:
    """``((a op b) op c) ...`` over all inputs, broadcasting at each step."""
    values = node.inputs()
    shape = static_shape(values[0])
    if len(values) == 1:
        return out.native(values[0])
    left: Value | Blob = values[0]
    for value in values[1:]:
        other = static_shape(value)
        result = tuple(np.broadcast_shapes(shape, other))
        left = binary(out, op, [(left, shape), (value, other)], result)
        shape = result
    assert isinstance(left, Blob)
    return left


@emits("Max", "Min", since=13, data="any")
@emits("Sum", since=13)
def extreme(node: NodeView, out: Emission) -> None:
    if len(node) == 1:
        out.alias(node.output(), node.input(0))
    else:
        out.bind(node.output(), _chain(node, out, {"Max": MAX, "Min": MIN, "Sum": ADD}[node.op]))


@emits("Mean", since=13)
def mean(node: NodeView, out: Emission) -> None:
    if len(node) == 1:
        out.alias(node.output(), node.input(0))
    else:
        total = _chain(node, out, ADD)
        out.bind(node.output(), scalar(out, DIV, total, float(len(node))))


_LARGEST_PRODUCT = 64
_SQUARE, _SQRT, _RECIPROCAL = 4, 5, 15


_NEVER_NEGATIVE = frozenset({"Abs", "Exp", "HardSigmoid", "ReduceL1", "ReduceL2", "ReduceSumSquare", "Relu", "Sigmoid",
                             "Softmax", "Softplus", "Sqrt"})  # fmt: skip
_KEEP_SIGN = frozenset({"Add", "AveragePool", "Div", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Mul", "Pad",
                        "Pow", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Reshape", "Slice", "Squeeze",
                        "Transpose", "Unsqueeze"})  # fmt: skip


def _at_least_zero(value: Value | None) -> bool:
    """A constant without negative elements."""
    return value is not None and value.const is not None and float(np.min(value.const, initial=0)) >= 0


def not_negative(value: Value | None) -> bool:
    """Whether the operators that make ``value`` cannot make a negative number."""
    while value is not None and (node := value.producer) is not None and not node.domain:
        first, second, third = [*node.inputs, None, None][:3]
        if node.op in _NEVER_NEGATIVE or (node.op == "Mul" and first is second):
            return True
        if node.op == "Clip":
            return _at_least_zero(second)
        value = first
        if node.op == "Pow":
            number = None if second is None else _number(second)
            if number is not None and number % 2 == 0:
                return True
        elif node.op in ("Add", "Mul") and first is not None and first.const is not None:
            value, second = second, first
        if node.op in ("Add", "Mul", "Div") and not _at_least_zero(second):
            return False
        if node.op == "Pad" and third is not None and not _at_least_zero(third):
            return False
        if node.op not in _KEEP_SIGN:
            return False
    return False


@emits("Pow", since=15, data="exact", own="MkPow", stock=True)
def power(node: NodeView, out: Emission) -> None:
    """Powers by products and roots where they are constant, ncnn's own (exp(y log x)) for positive numbers only, else
    C's: an integer's power is one too, without its fraction."""
    try:
        _stock_power(node, out)
    except Refuse:
        if out.stock_only:
            raise
        from mobilekit.targets.ncnn.ops.activation import apply
        from mobilekit.targets.ncnn.ops.own import broadcast

        blob = broadcast(node, out, "MkPow")
        out.bind(node.output(), blob if node.output().dtype == "float32" else apply(out, "Trunc", blob))


def _stock_power(node: NodeView, out: Emission) -> None:
    base, exponent = node.input(0), node.input(1)
    if exponent.const is None or exponent.const.size != 1 or exponent.const.dtype.kind not in "fiu":
        number = _number(base)
        if number is None or number <= 0:
            raise Refuse(
                "ncnn raises only positive numbers to a computed power",
                "write x ** n as products, or exp(y * log(x)) if x is always positive",
            )
        out.bind(node.output(), binary(out, POW, [(v, static_shape(v)) for v in (base, exponent)], node.out_shape()))
        return
    if math.prod(node.out_shape()) != math.prod(node.shape(0)):
        raise Refuse("its exponent broadcasts its base", "expand the base first")
    power = float(exponent.const.reshape(-1)[0])
    x = out.native(base)
    whole, rest = divmod(abs(power), 1.0)
    if power > 0 and (rest not in (0.0, 0.5) or power > _LARGEST_PRODUCT) and not_negative(base):
        # ncnn's logarithm of zero is NaN; the smallest positive number's power is as good as zero.
        x = scalar(out, MAX, x, float(np.finfo(np.float32).tiny))
        out.bind(node.output(), scalar(out, POW, x, power))
        return
    if base.dtype != "float32" and (rest or power < 0):
        raise Refuse("an integer's power is a fraction", "cast it to float32")
    if rest not in (0.0, 0.5) or not 0 < abs(power) <= _LARGEST_PRODUCT:
        raise Refuse(
            f"ncnn's power {power:g} is right for positive numbers only",
            "write it as exp(y * log(x)) if x is always positive",
        )
    result: Blob | None = None
    square = x
    while whole:
        if int(whole) % 2:
            result = square if result is None else out.layer("BinaryOp", [result, square], x.dims, op_type=MUL)
        whole //= 2
        if whole:
            square = out.layer("UnaryOp", [square], x.dims, op_type=_SQUARE)
    if rest:
        root = out.layer("UnaryOp", [x], x.dims, op_type=_SQRT)
        result = root if result is None else out.layer("BinaryOp", [result, root], x.dims, op_type=MUL)
    assert result is not None
    if power < 0:
        result = out.layer("UnaryOp", [result], x.dims, op_type=_RECIPROCAL)
    if result is x:
        out.alias(node.output(), base)
    else:
        out.bind(node.output(), result)
