"""What is done for one row: an export, and a run of its plan."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

from gpucheck.peers import ask_peers
from gpucheck.rows import STREAMS, Row

CALIBRATION_SAMPLES = 16
BUILD_S, RUN_S = 420.0, 120.0
"""What one build and one run of a plan may take: nothing of it may use up a lease."""


def build(model: str, precision: str, bundle: Path, flavour: str | None, level: int | None = None) -> Row:
    """Export ``model``; what it is built from is held against the original on the way. Whatever goes wrong with one
    model is a row like others."""
    from mobilekit.errors import MobilekitError, UnsupportedModelError, VerificationError
    from mobilekit.pipeline.export import ExportOptions, export_model
    from mobilekit.targets.tensorrt import TensorRTOptions

    started = time.perf_counter()
    try:
        settings = TensorRTOptions(
            precision=precision,  # type: ignore[arg-type]
            flavour=flavour,  # type: ignore[arg-type]
            calibration=_calibration(bundle) if precision == "int8" else None,
            optimization_level=level,
            timeout_s=BUILD_S,
        )
        options = ExportOptions(targets=("tensorrt",), tensorrt=settings, replace=True, timeout_s=BUILD_S)
        report = export_model(model, bundle, options)
    except UnsupportedModelError as error:
        first = error.findings[0]
        return Row(model, precision, "refused", f"{first.op} at {first.node}: {first.reason}")
    except VerificationError as error:
        return Row(model, precision, "refused" if precision == "int8" else "failed", error.message.splitlines()[-1])
    except MobilekitError as error:
        return Row(model, precision, "failed", error.message)
    except Exception as error:
        return Row(model, precision, "failed", f"{type(error).__name__}: {error}")
    plan = report.manifest.tensorrt
    assert plan is not None
    return Row(
        model,
        precision,
        "built",
        build_s=round(time.perf_counter() - started, 3),
        plan_bytes=plan.plan_bytes,
        layers=plan.layer_count,
        prepared_error=max((error.relative_l2 for error in report.tensorrt_errors.values()), default=None),
    )


def _calibration(bundle: Path) -> Path:
    """Inputs to take int8's ranges from: of the kind, but not the very ones, that the check feeds."""
    from mobilekit.bundle import open_bundle
    from mobilekit.tensors import save_npy
    from mobilekit.validate.inputs import seeded_samples

    manifest = open_bundle(bundle.with_name(bundle.name.replace("-int8", "-fp32"))).manifest
    folder = bundle.with_name(f"{bundle.name}-calibration")
    shutil.rmtree(folder, ignore_errors=True)
    samples = seeded_samples(manifest.inputs, seed=1000, count=CALIBRATION_SAMPLES, preprocess=manifest.preprocess)
    for index, sample in enumerate(samples):
        for name, array in sample.tensors.items():
            plain = name.replace("/", "_").replace(":", "_")
            file = folder / f"{index:03}.npy" if len(sample.tensors) == 1 else folder / f"{index:03}" / f"{plain}.npy"
            file.parent.mkdir(parents=True, exist_ok=True)
            save_npy(file, array)
    return folder


class ObstacleError(Exception):
    """Why no plan at all can be run here, as far as the first that was tried tells."""


def run_plan(row: Row, bundle: Path, device: str = "gpu") -> Row:
    """Run the bundle's plan, hold it against ONNX Runtime on the original, and time it and its peers.

    Raises :class:`ObstacleError` where it is the machine that is in the way.
    """
    from mobilekit.errors import MobilekitError
    from mobilekit.pipeline.validate import ValidateOptions, validate_bundle

    try:
        options = ValidateOptions(target="tensorrt", streams=STREAMS, timeout_s=RUN_S)
        report = validate_bundle(bundle, device, options)
    except MobilekitError as error:
        if error.exit_code == 4:
            raise ObstacleError(f"{error.message}; {error.hint}" if error.hint else error.message) from error
        return replace(row, state="failed", reason=error.message)
    except Exception as error:
        return replace(row, state="failed", reason=f"{type(error).__name__}: {error}")
    gpu = report.gpu
    return replace(
        row,
        state=report.verdict.value,
        reason="" if report.verdict.exit_code == 0 else report.sentence,
        error=max(output.relative_l2 for output in report.outputs),
        latency_p50_ms=report.latency.p50_ms if report.latency is not None else None,
        compute_p50_ms=gpu.compute.p50_ms if gpu is not None else None,
        per_second={each.streams: round(each.per_second, 2) for each in gpu.throughput} if gpu is not None else {},
        peers=ask_peers(bundle),
    )
