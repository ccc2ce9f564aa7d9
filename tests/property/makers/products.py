"""Makers of matrix products."""

from __future__ import annotations

from tests.property.graphs import Builder, Tensor, Unfit

__all__ = ["MAKERS"]


def matmul(b: Builder) -> None:
    x = b.pick(ranks=range(1, 6))
    fitting = [v for v in b.values if v.kind == "f" and v.rank and v.shape[-2 if v.rank > 1 else 0] == x.shape[-1]]
    if fitting and b.maybe():
        y = b.one(fitting)
    else:
        lead = tuple(size if b.maybe() else 1 for size in x.shape[:-2])[b.int(0, max(0, x.rank - 2)) :]
        shape = (*lead, x.shape[-1], b.int(1, 5)) if b.int(0, 4) else (x.shape[-1],)
        y = b.weights(*shape)
    y = b.add("MatMul", [x, y])
    if b.int(0, 2) == 0 and y.rank:
        b.add("Add", [y, b.weights(y.shape[-1])])


def gemm(b: Builder) -> None:
    x = b.pick(ranks=(2,))
    flip, turned = b.int(0, 1), b.int(0, 1)
    inner, rows = (x.shape[0], x.shape[1]) if flip else (x.shape[1], x.shape[0])
    columns = b.int(1, 5)
    shape = (columns, inner) if turned else (inner, columns)
    w = b.weights(*shape) if b.int(0, 3) else b.input(shape)
    extra: list[Tensor] = []
    if b.maybe():
        extra = [b.weights(*b.one([(), (1,), (columns,), (1, columns), (rows, 1), (rows, columns)]))]
    b.add("Gemm", [x, w, *extra], transA=flip, transB=turned, alpha=b.float(0.5, 1.5), beta=b.float(0.5, 1.5))


def einsum(b: Builder) -> None:
    if b.opset < 12:
        raise Unfit
    x = b.pick(ranks=(2, 3, 4))
    letters = "abcd"[: x.rank]
    second = letters[-1] + "z"
    kept = "".join(letters[i] for i in b.perm(x.rank) if letters[i] != letters[-1] and b.int(0, 4)) + "z"
    b.add("Einsum", [x, b.weights(x.shape[-1], b.int(1, 4))], equation=f"{letters},{second}->{kept}")


MAKERS = (matmul, gemm, einsum)
