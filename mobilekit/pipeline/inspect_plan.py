"""What TensorRT's optimiser made of a model, from the file that the export wrote beside the plan."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilekit.errors import BundleError, UsageError

if TYPE_CHECKING:
    from mobilekit.bundle import TensorRTArtifact

__all__ = ["PlanView", "draw_plan", "inspect_plan", "inspect_plan_on_gpu"]


@dataclass(frozen=True, slots=True)
class PlanView:
    """``layers`` and ``bindings`` as in ``layers.json``: see :mod:`mobilekit.targets.tensorrt.layers`.

    ``device_memory_bytes``: scratch memory of an execution context; ``None`` where the plan was not loaded on a GPU,
    which alone tells. ``gpu``: the one that it was loaded on.
    """

    artifact: TensorRTArtifact
    layers: tuple[dict[str, Any], ...]
    bindings: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]
    device_memory_bytes: int | None = None
    gpu: str = ""


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


def inspect_plan_on_gpu(folder: Path, device: str = "gpu", on: str | None = None) -> PlanView:
    """The plan in the bundle ``folder``, asked on a GPU of this machine, or of ``on`` (``ssh://user@host``), what it is
    made of.

    Raises what :func:`inspect_plan` does, :class:`~mobilekit.errors.NoDeviceError` without a GPU, and what loading the
    plan raises.
    """
    from mobilekit.pipeline.place_plan import worker_host
    from mobilekit.targets.tensorrt import inspect
    from mobilekit.targets.tensorrt.flavour import FLAVOURS
    from mobilekit.targets.tensorrt.gpus import local_gpus, parse_gpu, pick_gpu
    from mobilekit.targets.tensorrt.host import LocalHost
    from mobilekit.targets.tensorrt.layers import read_engine

    view = inspect_plan(folder)
    host = None if on is None else worker_host(on)
    index = parse_gpu(device)
    if index is None:
        raise UsageError(f"a plan tells of itself on a GPU, not on {device!r}", hint="--device gpu, or gpu:1")
    gpus = local_gpus() if host is None else None
    with host or LocalHost() as worker:
        gpu = pick_gpu(gpus if gpus is not None else worker.hello().gpus, index, worker.name)
        plan = folder / view.artifact.plan
        told = inspect(plan, FLAVOURS[view.artifact.flavour], worker, device=index, timeout_s=_TIMEOUT_S)
    try:
        layers = tuple(asdict(layer) for layer in read_engine(told.information))
    except ValueError as error:
        layers = ()
        told = replace(told, warnings=(*told.warnings, f"its layers cannot be read: {error}"))
    return replace(
        view,
        layers=layers or view.layers,
        bindings=tuple(asdict(binding) for binding in told.bindings),
        warnings=(*view.warnings, *told.warnings),
        device_memory_bytes=told.device_memory_bytes,
        gpu=gpu.name,
    )


_TIMEOUT_S = 300.0


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
