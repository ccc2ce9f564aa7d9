"""The child's side: one case through the importer, the passes, the ncnn target and the ncnn runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mobilekit.bundle import NcnnArtifact, TensorInfo
from mobilekit.errors import HarnessCrashError, HarnessTimeoutError, MobilekitError, UnsupportedModelError, UsageError
from mobilekit.graph import Graph, Value
from mobilekit.importers.onnx import load
from mobilekit.passes import prepare
from mobilekit.runners.blobs import extracted, from_blobs, to_blob
from mobilekit.runners.ncnn_host import infer
from mobilekit.targets.ncnn import NcnnOptions, NcnnTarget
from tests.own_layers import HarnessHost

__all__ = ["Worker", "difference"]

Array = np.ndarray[Any, Any]
_STEPS = 4


class Worker:
    """Lives in a child process; a case that kills it is a crash of that case alone. Models of our own layers run in a
    harness, which ends with its parent."""

    _harness: HarnessHost | None = None

    def run(
        self, model: str, inputs: Mapping[str, Array], outputs: Mapping[str, Array], rtol: float, atol: float
    ) -> dict[str, str]:
        """``{"outcome": "pass" | "refused" | "wrong" | "crash", "reason": ...}`` for one case.

        What our own code raises besides :mod:`mobilekit.errors` is a crash: it would be a traceback for the user.
        """
        try:
            return self._run(Path(model), inputs, outputs, rtol, atol)
        except Exception as error:
            return {"outcome": "crash", "reason": f"{type(error).__name__}: {error}"}

    def _run(
        self, model: Path, inputs: Mapping[str, Array], outputs: Mapping[str, Array], rtol: float, atol: float
    ) -> dict[str, str]:
        with tempfile.TemporaryDirectory(prefix="mobilekit-conformance-") as folder:
            root = Path(folder)
            (root / "ncnn").mkdir()
            target, options = NcnnTarget(), NcnnOptions()
            try:
                source = load(model)
                # onnxsim never makes one node less than one; its process would cost more than the rest.
                graph = prepare(source, {}, simplify=len(source.proto.graph.node) > 1)
                findings = target.check(graph, options)
                if findings:
                    raise UnsupportedModelError("refused", findings=findings)
                artifact = target.build(graph, root / "ncnn", options)
                infos = {value.name: _info(value) for value in _ends(graph)}
                blobs = {b.blob: to_blob(inputs[b.tensor], infos[b.tensor], b) for b in artifact.inputs}
            except UnsupportedModelError as error:
                reasons = dict.fromkeys(f"{finding.op}: {finding.reason}" for finding in error.findings)
                return {"outcome": "refused", "reason": "; ".join(reasons) or error.message}
            except UsageError as error:
                return {"outcome": "refused", "reason": error.message}
            except MobilekitError as error:
                return {"outcome": "refused", "reason": f"{type(error).__name__}: {error.message}"}
            if artifact.inputs and {b.tensor for b in artifact.inputs} != inputs.keys():
                return {"outcome": "wrong", "reason": "the inputs of the bundle are not the model's"}
            try:
                if artifact.custom_layers:
                    self._harness = self._harness or HarnessHost()
                    found = self._harness.run(root, artifact, blobs, extracted(artifact.outputs))
                else:
                    found = _on_wheel(root, artifact, blobs)
                results = from_blobs(found, infos.values(), artifact.outputs)
            except MobilekitError as error:
                kind = {HarnessCrashError: "crash", HarnessTimeoutError: "hang"}.get(type(error), "wrong")
                return {"outcome": kind, "reason": f"{type(error).__name__}: {error.message}"}
        if results.keys() != outputs.keys():
            return {"outcome": "wrong", "reason": f"it has the outputs {', '.join(results)}"}
        for name, expected in outputs.items():
            differs = difference(results[name], expected, rtol, atol)
            if differs:
                return {"outcome": "wrong", "reason": f"output {name}: {differs}"}
        return {"outcome": "pass", "reason": ""}


def _on_wheel(root: Path, artifact: NcnnArtifact, blobs: Mapping[str, Array]) -> dict[str, Array]:
    wanted = extracted(artifact.outputs)
    answer = infer(
        param=str(root / artifact.param),
        weights=str(root / artifact.bin),
        inputs=blobs,
        outputs=wanted,
        depth=artifact.depth,
        threads=1,
        fp16=False,
        bf16=False,
        warmup=0,
        iterations=1,
    )
    return dict(zip(wanted, answer["outputs"], strict=True))


def difference(actual: Array, expected: Array, rtol: float, atol: float) -> str:
    """In which way ``actual`` is not ``expected``, ``""`` where it is: ONNX's backend runner's own comparison.

    Shape and element type are exact, integers and booleans too; floats as ``numpy.testing.assert_allclose`` has it.
    ``atol`` alone (1e-7) is less than one rounding step of a sum of numbers around 1 that cancel out, so it is at least
    four steps of the largest finite element that is expected.
    """
    if actual.shape != expected.shape:
        return f"the shape is {list(actual.shape)}, not {list(expected.shape)}"
    if actual.dtype != expected.dtype:
        return f"the element type is {actual.dtype}, not {expected.dtype}"
    if expected.dtype.kind == "f":
        largest = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
        atol = max(atol, _STEPS * float(np.finfo(np.float32).eps) * float(largest))
        bad = ~np.isclose(actual, expected, rtol=rtol, atol=atol, equal_nan=True)
    else:
        bad = actual != expected
    if not bad.any():
        return ""
    with np.errstate(all="ignore"):
        distance = np.abs(actual[bad].astype(np.float64) - expected[bad].astype(np.float64))
    return f"{int(bad.sum())} of {bad.size} elements differ, by up to {float(distance.max()):.3g}"


def _ends(graph: Graph) -> list[Value]:
    return [*graph.inputs, *graph.results]


def _info(value: Value) -> TensorInfo:
    assert value.dtype is not None
    assert value.shape is not None
    return TensorInfo(name=value.name, dtype=value.dtype, shape=tuple(int(str(axis)) for axis in value.shape))
