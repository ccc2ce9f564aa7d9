"""How deep a network is: ncnn recurses once for each layer of the longest chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilekit.targets.ncnn.emit import Blob, Layer

__all__ = ["depth_of"]


def depth_of(layers: Sequence[Layer], outputs: Sequence[Blob] = ()) -> int:
    """Layers on the longest chain; a blob with several readers (``outputs`` read theirs too) counts the ``Split``
    that it gets. Linear in the model's size."""
    readers: dict[int, int] = {}
    for blob in [*(blob for layer in layers for blob in layer.inputs), *outputs]:
        readers[id(blob)] = readers.get(id(blob), 0) + 1
    reach: dict[int, int] = {}
    deepest = 0
    for layer in layers:
        here = 1 + max((reach.get(id(blob), 0) for blob in layer.inputs), default=0)
        for blob in layer.outputs:
            reach[id(blob)] = here + (readers.get(id(blob), 0) > 1)
        deepest = max(deepest, here, *(reach[id(blob)] for blob in layer.outputs))
    return deepest
