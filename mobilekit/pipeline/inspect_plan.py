"""What TensorRT's optimiser made of a model, from the file that the export wrote beside the plan."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilekit.errors import BundleError, UsageError

if TYPE_CHECKING:
    from mobilekit.bundle import TensorRTArtifact

__all__ = ["PlanView", "inspect_plan"]


@dataclass(frozen=True, slots=True)
class PlanView:
    """``layers`` and ``bindings`` as in ``layers.json``: see :mod:`mobilekit.targets.tensorrt.layers`.

    ``device_memory_bytes`` is ``None``: only an engine that is loaded on a GPU tells.
    """

    artifact: TensorRTArtifact
    layers: tuple[dict[str, Any], ...]
    bindings: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]
    device_memory_bytes: int | None = None


def inspect_plan(folder: Path) -> PlanView:
    """The plan in the bundle ``folder``. Raises :class:`BundleError` for a damaged bundle or sidecar,
    :class:`UsageError` for a bundle without a plan."""
    from mobilekit.bundle import open_bundle

    manifest = open_bundle(folder).manifest
    if manifest.tensorrt is None:
        raise UsageError(f"{folder} holds no TensorRT plan", hint="export the model with --target tensorrt")
    path = folder / manifest.tensorrt.layers
    try:
        facts = json.loads(path.read_text("utf-8"))
        layers, bindings, warnings = (tuple(facts[key]) for key in ("layers", "bindings", "warnings"))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise BundleError(f"cannot read {path}: {error}", hint="export the model again") from error
    return PlanView(manifest.tensorrt, layers, bindings, warnings)
