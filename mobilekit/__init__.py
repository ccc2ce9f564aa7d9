"""mobilekit: ONNX models on NCNN and TensorRT devices: converted, pushed, run, and judged.

The public API has the verbs of the command line::

    import mobilekit
    mobilekit.export_model("model.onnx", "build/model", mobilekit.ExportOptions(precision="fp16"))
    report = mobilekit.validate_bundle("build/model", device="virtual")

Everything is imported when it is first used, so ``import mobilekit`` costs nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, open_bundle
    from mobilekit.errors import MobilekitError
    from mobilekit.pipeline.bisect import BisectOptions, bisect_bundle
    from mobilekit.pipeline.compare import CompareOptions, compare
    from mobilekit.pipeline.endurance import LongTimings
    from mobilekit.pipeline.export import ExportOptions, ExportReport, export_model
    from mobilekit.pipeline.inspect import ModelReport, inspect_model
    from mobilekit.pipeline.int8 import Calibration
    from mobilekit.pipeline.parity import ParityOptions, parity_of_bundle
    from mobilekit.pipeline.record import RecordOptions, record_reference
    from mobilekit.pipeline.repair import RepairOptions, repair_bundle
    from mobilekit.pipeline.run import run as run_bundle
    from mobilekit.pipeline.tune import TuneOptions, tune_bundle
    from mobilekit.pipeline.validate import ValidateOptions, validate_bundle
    from mobilekit.report.comparison import ComparisonReport
    from mobilekit.report.model import ValidationReport
    from mobilekit.report.parity import ParityReport
    from mobilekit.validate.endurance import CoolDown, SingleStream

__version__ = "0.1.0"

# From 1.29 on, ONNX Runtime sends the names of model files, hashes of graphs and more to its maker, unless this is set
# before it is imported (its pull request 27379). What users convert is theirs; a value of their own stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "BisectOptions",
    "Bundle",
    "Calibration",
    "CompareOptions",
    "ComparisonReport",
    "CoolDown",
    "ExportOptions",
    "ExportReport",
    "LongTimings",
    "MobilekitError",
    "ModelReport",
    "ParityOptions",
    "ParityReport",
    "RecordOptions",
    "RepairOptions",
    "SingleStream",
    "TuneOptions",
    "ValidateOptions",
    "ValidationReport",
    "bisect_bundle",
    "compare",
    "export_model",
    "inspect_model",
    "open_bundle",
    "parity_of_bundle",
    "record_reference",
    "repair_bundle",
    "run_bundle",
    "tune_bundle",
    "validate_bundle",
]

_HOME = {
    "Bundle": "bundle:Bundle",
    "BisectOptions": "pipeline.bisect:BisectOptions",
    "Calibration": "pipeline.int8:Calibration",
    "CompareOptions": "pipeline.compare:CompareOptions",
    "ComparisonReport": "report.comparison:ComparisonReport",
    "CoolDown": "validate.endurance:CoolDown",
    "ExportOptions": "pipeline.export:ExportOptions",
    "ExportReport": "pipeline.export:ExportReport",
    "LongTimings": "pipeline.endurance:LongTimings",
    "MobilekitError": "errors:MobilekitError",
    "ModelReport": "pipeline.inspect:ModelReport",
    "ParityOptions": "pipeline.parity:ParityOptions",
    "ParityReport": "report.parity:ParityReport",
    "RecordOptions": "pipeline.record:RecordOptions",
    "RepairOptions": "pipeline.repair:RepairOptions",
    "SingleStream": "validate.endurance:SingleStream",
    "TuneOptions": "pipeline.tune:TuneOptions",
    "ValidateOptions": "pipeline.validate:ValidateOptions",
    "ValidationReport": "report.model:ValidationReport",
    "bisect_bundle": "pipeline.bisect:bisect_bundle",
    "compare": "pipeline.compare:compare",
    "export_model": "pipeline.export:export_model",
    "inspect_model": "pipeline.inspect:inspect_model",
    "open_bundle": "bundle:open_bundle",
    "parity_of_bundle": "pipeline.parity:parity_of_bundle",
    "record_reference": "pipeline.record:record_reference",
    "repair_bundle": "pipeline.repair:repair_bundle",
    "run_bundle": "pipeline.run:run",
    "tune_bundle": "pipeline.tune:tune_bundle",
    "validate_bundle": "pipeline.validate:validate_bundle",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mobilekit' has no attribute {name!r}")
    import importlib

    module, _, attribute = _HOME[name].partition(":")
    return getattr(importlib.import_module(f"mobilekit.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
