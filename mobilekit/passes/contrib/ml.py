"""Operators of domain ``ai.onnx.ml`` that are arithmetic on rows: what scikit-learn's converter writes.

Meanings are from ONNX's Operators-ml.md. Trees and support vectors are refused by name.
"""

from __future__ import annotations

import numpy as np

from mobilekit.graph import Value
from mobilekit.passes.contrib._build import Build, Rule, UnclearError

__all__ = ["RULES"]

DOMAIN = "ai.onnx.ml"
_AS_TENSORS = "convert the estimator with options={'zipmap': False} and tensors as outputs"
_FLOAT, _INT64 = 1, 7


def _real(it: Build) -> Value:
    x = it.input(0)
    return x if x.dtype == "float32" else it("Cast", x, to=_FLOAT)


def _numbers(it: Build, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.asarray(it.attr(name, []), dtype=np.float32)


def _scaler(it: Build) -> None:
    offset, scale = _numbers(it, "offset"), _numbers(it, "scale")
    it.bind(0, it("Mul", it("Sub", _real(it), it.const(offset)), it.const(scale)))


def _linear(it: Build, rows: int) -> Value:
    """``x`` times the transposed coefficients, plus the intercepts."""
    weights, bias = _numbers(it, "coefficients"), _numbers(it, "intercepts")
    if rows < 1 or not weights.size or weights.size % rows:
        raise UnclearError(f"its {weights.size} coefficients are no {rows} rows", "export the model again")
    weights = weights.reshape(rows, -1)
    made = it("MatMul", _real(it), it.const(np.ascontiguousarray(weights.T)))
    return it("Add", made, it.const(bias)) if bias.size else made


def _transformed(it: Build, scores: Value) -> Value:
    kind = it.attr("post_transform", "NONE")
    op = {"NONE": "", "LOGISTIC": "Sigmoid", "SOFTMAX": "Softmax"}.get(kind)
    if op is None:
        raise UnclearError(f"its post_transform {kind} is not known", "convert the estimator with its raw scores")
    return it(op, scores, **({"axis": -1} if op == "Softmax" else {})) if op else scores


def _regressor(it: Build) -> None:
    it.bind(0, _transformed(it, _linear(it, int(it.attr("targets", 1)))))


def _classifier(it: Build) -> None:
    labels = [int(label) for label in it.attr("classlabels_ints", [])]
    bias = _numbers(it, "intercepts")
    if it.output(0) is not None and not labels:
        raise UnclearError("its labels are strings", "convert the estimator with numbers as its classes")
    if len(labels) < 2 or bias.size != len(labels):
        raise UnclearError("it has one row of coefficients for two classes", _AS_TENSORS)
    scores = _linear(it, len(labels))
    best = it("ArgMax", scores, axis=-1, keepdims=0)
    it.bind(0, it("Gather", it.const(labels, "int64"), best, axis=0))
    it.bind(1, _transformed(it, scores))


def _normalizer(it: Build) -> None:
    """A row of zeros stays one."""
    kind, x = it.attr("norm", "MAX"), _real(it)
    op = {"MAX": "ReduceMax", "L1": "ReduceL1", "L2": "ReduceL2"}.get(kind)
    if op is None:
        raise UnclearError(f"its norm {kind} is not known", "normalise in the application")
    size = it(op, x, it.const([-1], "int64"), keepdims=1)
    nothing = it("Equal", size, it.const(0.0))
    it.bind(0, it("Div", x, it("Where", nothing, it.const(1.0), size)))


def _extractor(it: Build) -> None:
    x, places = it.input(0), it.input(1)
    if x.shape is None:
        raise UnclearError("the shape of its input is not known", "mend what stands before it")
    shape, count = it.shape(x), int(np.prod(it.shape(places)))
    flat = it.reshape(places if places.dtype == "int64" else it("Cast", places, to=_INT64), count)
    picked = it("Gather", x, flat, axis=len(shape) - 1)
    it.bind(0, it.reshape(picked, 1, count) if len(shape) == 1 else picked)


def _binarizer(it: Build) -> None:
    x = it.input(0)
    it.bind(0, it("Cast", it("Greater", x, it.like(it.attr("threshold", 0.0), x)), to=1))


def _imputer(it: Build) -> None:
    """Numbers for those that are missing: NaN, or ``replaced_value_float``; one for all, or one for each column."""
    x, missing = it.input(0), it.attr("replaced_value_float", 0.0)
    if x.dtype != "float32":
        raise UnclearError("its input holds no float32", "cast it to float32 before")
    lost = it("IsNaN", x) if np.isnan(missing) else it("Equal", x, it.const(missing))
    it.bind(0, it("Where", lost, it.const(_numbers(it, "imputed_value_floats")), x))


def _refused(what: str) -> Rule:
    def rule(it: Build) -> None:
        raise UnclearError(f"its {what} are no layers of a network", f"run {it.node.op} in the application")

    return rule


RULES: dict[tuple[str, str], Rule] = {
    (DOMAIN, "ArrayFeatureExtractor"): _extractor,
    (DOMAIN, "Binarizer"): _binarizer,
    (DOMAIN, "Imputer"): _imputer,
    (DOMAIN, "LinearClassifier"): _classifier,
    (DOMAIN, "LinearRegressor"): _regressor,
    (DOMAIN, "Normalizer"): _normalizer,
    (DOMAIN, "Scaler"): _scaler,
    (DOMAIN, "SVMClassifier"): _refused("support vectors"),
    (DOMAIN, "SVMRegressor"): _refused("support vectors"),
    (DOMAIN, "TreeEnsemble"): _refused("decision trees"),
    (DOMAIN, "TreeEnsembleClassifier"): _refused("decision trees"),
    (DOMAIN, "TreeEnsembleRegressor"): _refused("decision trees"),
}
