"""What TensorRT's optimiser made of a model, from the file that the export wrote beside the plan."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilekit.errors import BundleError, UsageError

if TYPE_CHECKING:
    from mobilekit.bundle import TensorRTArtifact

__all__ = ["PlanView", "draw_plan", "inspect_plan"]


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


def draw_plan(view: PlanView, path: Path, title: str) -> Path:
    """Draw what was fused into ``path``, whose suffix says how: a page, a picture, or Graphviz's text.

    Raises :class:`UsageError` for another suffix, :class:`BundleError` where the sidecar makes no sense.
    """
    from mobilekit.paths import write_text
    from mobilekit.report.fusion_graph import dot, html, svg

    plan = view.artifact
    name = f"{title}, TensorRT {plan.flavour} {plan.version}, {plan.precision}"
    kinds = {
        ".html": lambda: html(view.layers, name),
        ".svg": lambda: svg(view.layers),
        ".dot": lambda: dot(view.layers),
    }
    draw = kinds.get(path.suffix.lower())
    if draw is None:
        raise UsageError(f"{path} says not what to draw", hint="--graph takes FILE.html, FILE.svg or FILE.dot")
    write_text(path, draw())
    return path
