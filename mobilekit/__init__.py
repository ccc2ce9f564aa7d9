"""mobilekit: ONNX models on NCNN and TensorRT devices: converted, pushed, run, and judged.

The public API has the verbs of the command line::

    import mobilekit
    report = mobilekit.export("model.onnx", "build/model", mobilekit.ExportOptions(precision="fp16"))
    verdict = mobilekit.validate("build/model", device="virtual")

Everything is imported when it is first used, so ``import mobilekit`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilekit.bundle import Bundle, open_bundle
    from mobilekit.errors import MobilekitError
    from mobilekit.pipeline.export import ExportOptions, ExportReport, export

__version__ = "0.1.0"

__all__ = ["Bundle", "ExportOptions", "ExportReport", "MobilekitError", "export", "open_bundle"]

_HOME = {
    "Bundle": "bundle",
    "ExportOptions": "pipeline.export",
    "ExportReport": "pipeline.export",
    "MobilekitError": "errors",
    "export": "pipeline.export",
    "open_bundle": "bundle",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mobilekit' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"mobilekit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
