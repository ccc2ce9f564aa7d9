"""AffineGrid of a fixed size as a matrix product with the base grid."""

from __future__ import annotations

import numpy as np

from mobilekit.graph import Node
from mobilekit.passes.base import Edit, Rule

__all__ = ["LowerAffineGrid"]


class LowerAffineGrid(Rule[Node]):
    """``grid[n, y, x] = theta[n] @ (x, y, 1)`` over the corners or centres of the cells, from -1 to 1.

    Formula: ONNX's text of AffineGrid (opset 20); with three axes likewise.
    """

    name = "lower-affine-grid"
    ops = ("AffineGrid",)

    def pattern(self, node: Node) -> Node | None:
        theta, size = node.inputs[:2]
        if theta is None or theta.shape is None or size is None or size.const is None:
            return None
        # The corners of a single cell: runtimes differ on where it lies.
        return None if node.attrs.get("align_corners", 0) and 1 in size.const[2:] else node

    def rewrite(self, match: Node, edit: Edit) -> list[Node]:
        theta, size, out = match.inputs[0], match.inputs[1], match.outputs[0]
        assert theta is not None
        assert size is not None
        assert size.const is not None
        assert out is not None
        batch, _, *extent = (int(item) for item in size.const)
        corners = bool(match.attrs.get("align_corners", 0))
        lines = [np.linspace(-1, 1, n) if corners else (np.arange(n) * 2 + 1) / n - 1 for n in extent]
        # The last axis of the image is x, the first coordinate.
        axes = np.meshgrid(*lines, indexing="ij")[::-1]
        base = np.stack([*axes, np.ones(extent)], axis=-1).reshape(-1, len(extent) + 1).astype(str(theta.dtype))
        turned, product = edit.value(f"{out.name}_theta", theta.dtype), edit.value(f"{out.name}_flat", theta.dtype)
        grid = edit.constant(f"{out.name}_base", base)
        shape = edit.constant(f"{out.name}_shape", [batch, *extent, len(extent)], "int64")
        return [
            Node("", "Transpose", [theta], [turned], {"perm": [0, 2, 1]}),
            Node(match.name, "MatMul", [grid, turned], [product]),
            Node("", "Reshape", [product, shape], [out]),
        ]
