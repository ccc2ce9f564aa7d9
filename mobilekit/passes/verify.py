"""Hold every rewrite against ONNX Runtime: :class:`PassVerifier`, behind ``--verify-passes``.

The model as read runs once on seeded inputs, and every tensor in it is kept. From then on

* a rewrite rule is checked alone: the nodes that it made run on the kept values of what they read, and must give the
  kept values of what they replace. Feeds are thus what the model computes there: indices exist, masks are masks, and
  a rule that relies on a range gets values in that range;
* a merge of equal nodes compares the two kept values, and needs no run;
* a pass that remakes the whole graph (lifting with folding, functions and unrolling; precision; onnxsim) runs
  entirely, and every tensor that has kept its name is compared, in topological order: the first that is off names the
  node;
* at the end the outputs are compared with the original model's.

Operators that ONNX Runtime has no kernel for run in ONNX's reference evaluator, where the model is small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mobilekit.errors import REPORT_IT, ModelError, UsageError, VerificationError
from mobilekit.passes.evaluate import RANDOM
from mobilekit.passes.functions import EXPANDED
from mobilekit.passes.row_checks import plain, with_computed_rows

if TYPE_CHECKING:
    from types import TracebackType

    from onnx import ModelProto

    from mobilekit.graph import Graph, Node, Value
    from mobilekit.importers.onnx import SourceModel
    from mobilekit.tensors import Array

__all__ = ["Feeds", "PassVerifier"]

Feeds = Callable[[Sequence["Value"]], Mapping[str, "Array"]]
"""Arrays for a graph's inputs, by name; dtypes and shapes are known and static."""

_EXACT_RTOL = 1e-4
"""Relative L2 of one rewrite. Another order of summation costs 1e-7 to 1e-5; a factor of 1.001 costs 1e-3."""

_WHOLE_RTOL = 1e-3
_HALF_RTOL = 5e-2
"""Where float16 became float32 the two sides round differently (see ``validate.tolerance``)."""

_STEPS = 4
"""So many rounding steps of the largest value fed are no error, whatever they are relative to the result."""

_REFERENCE_NODES = 64
_RECURRENCES = frozenset({"GRU", "LSTM", "RNN", "LinearAttention"})


class _Backend(Protocol):
    def create(self, factory: str, arguments: Mapping[str, Any]) -> Any: ...

    def call(self, method: str, arguments: Mapping[str, Any]) -> Any: ...


class PassVerifier:
    """Told of each rewrite by :func:`mobilekit.passes.prepare`; a context manager.

    ``feeds`` makes the seeded inputs. ONNX Runtime works in a child process unless ``isolated`` is False (tests: a
    process costs more than the check). Every check raises :class:`VerificationError` naming the rule, the node, the
    tensor and how far off it is; :class:`ModelError` where ONNX Runtime cannot run the model as it was read;
    :class:`UsageError` where it is larger than the 2 GB that fit in a message.
    """

    def __init__(self, feeds: Feeds, *, isolated: bool = True) -> None:
        self._feeds = feeds
        self._isolated = isolated
        self._backend: _Backend | None = None
        self._keys: dict[int, tuple[Value, int]] = {}
        """The number under which the value (held here: ids are used again) is kept."""
        self._names: dict[str, int] = {}
        self._inputs: dict[str, int] = {}
        self._ops: dict[str, tuple[str, str]] = {}
        """Operator and label of the node of the original model that makes each tensor."""
        self._rows: frozenset[str] = frozenset()
        """Tensors that may have more rows than in the original."""
        self._last: Graph | None = None
        self._count = 0
        self._loose = False
        self._random = False
        self.checked = 0
        """Rewrites and tensors that were compared."""

    def __enter__(self) -> PassVerifier:
        if self._isolated:
            from mobilekit.child import Child

            self._backend = Child(what="checking a rewrite with ONNX Runtime")
            self._backend.create("mobilekit.passes.verify:_Evaluator", {})
        else:
            self._backend = _InProcess()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._backend is not None and self._isolated:
            self._backend.close()  # type: ignore[attr-defined]
        self._backend = None

    def begin(self, source: SourceModel, graph: Graph) -> None:
        """Run the model as read; ``graph`` is it with static shapes, lifted, folded and inlined: check that."""
        self._random = any(node.op_type in RANDOM for node in source.proto.graph.node)
        if self._random:
            return
        self._last, self._keys = None, {}
        arrays = self._feeds(graph.inputs)
        self._inputs = {name: self._number() for name in arrays}
        self._call("put", arrays={str(self._inputs[name]): array for name, array in arrays.items()})
        made = [(name, node) for node in source.proto.graph.node for name in node.output if name]
        self._ops = {name: (node.op_type, node.name or node.output[0]) for name, node in made}
        proto = _with_outputs(source.whole_proto(), [name for name, _ in made])
        keep = {name: self._number() for name, _ in made}
        known = self._run(proto, self._inputs, keep, {}, folder=str(source.path.parent))
        if known.get("error"):
            raise ModelError(
                f"--verify-passes needs ONNX Runtime to run the model: {known['error']}",
                hint="leave --verify-passes out",
            )
        self._names = {name: keep[name] for name in known["made"]} | self._inputs
        self._rows, written = with_computed_rows(graph), dict(self._names)
        self.stage("", graph)
        keys = {value.name: self._key(value) for value in graph.outputs}
        for name, (axis, count) in graph.rows.items():
            found = self._call(
                "equal_rows", name=name, actual=keys[name], count=keys[count], axis=axis, expected=written[name]
            )
            self._judge("a computed number of rows", self._ops[name][1], name, found[name])
        # From here on as many rows as there can be are compared.
        self._names |= {value.name: keys[value.name] for value in graph.outputs if value.name in self._rows}

    def stage(self, rule: str, graph: Graph, *, halves: bool = False) -> None:
        """The pass ``rule`` made ``graph``; ``""`` stands for what lifting did, told apart by operator.

        ``halves``: tensors that were float16 or bfloat16 are float32 now.
        """
        from mobilekit.importers.convert import to_proto

        if self._random:
            return
        self._loose |= halves
        names = self._known_names()
        keep = {value.name: self._number() for node in graph.nodes for value in node.outputs if value is not None}
        proto = _with_outputs(to_proto(graph), keep)
        constants = [value for value in graph.values() if value.const is not None and value.name in names]
        expected = {name: names[name] for name in keep if name in names}
        found = self._run(proto, self._inputs, keep, expected)
        if found.get("error"):
            raise VerificationError(f"ONNX Runtime cannot run what {rule or 'lifting'} made: {found['error']}")
        consts = {value.name: value.const for value in constants}
        by_name = {value.name: value for value in graph.values()}
        errors = found["errors"] | self._call("compare", arrays=consts, expected={n: names[n] for n in consts})
        for name, value in by_name.items():
            if name in errors and (rule or name not in self._rows or not errors[name]["mismatch"]):
                self._judge(rule or self._lifting(value), self._label(value), name, errors[name])
        self._last = graph
        self._keys = {}
        for name in [*found["made"], *self._inputs]:
            if name in by_name:
                self._keep(by_name[name], keep.get(name) or self._inputs[name])

    def rewrite(self, rule: str, label: str, nodes: Sequence[Node], opset: int) -> None:
        """``rule`` put ``nodes`` in place of the node ``label``: they still make its outputs."""
        if self._random or not nodes:
            return
        made = {id(value): value for node in nodes for value in node.outputs if value is not None}
        read = {id(v): v for node in nodes for v in node.inputs if v is not None and id(v) not in made}
        feeds = {value.name: self._key(value) for value in read.values() if value.const is None}
        expected = {value.name: self._keys[key][1] for key, value in made.items() if key in self._keys}
        keep = {value.name: self._number() for key, value in made.items() if key not in self._keys}
        found = self._run(_submodel(nodes, read.values(), made.values(), opset), feeds, keep, expected)
        if found.get("error"):
            raise VerificationError(
                f"{rule} at {label!r} made what ONNX Runtime cannot run: {found['error']}", hint=REPORT_IT
            )
        for name, error in found["errors"].items():
            self._judge(rule, label, name, error)
        for value in made.values():
            if value.name in keep:
                self._keep(value, keep[value.name])

    def same(self, rule: str, label: str, old: Value, new: Value) -> None:
        """``rule`` had everyone who read ``old`` read ``new``."""
        if self._random:
            return
        if new.const is not None:
            errors = self._call("compare", arrays={old.name: new.const}, expected={old.name: self._key(old)})
        else:
            errors = self._call("equal", name=old.name, actual=self._key(new), expected=self._key(old))
        for error in errors.values():
            self._judge(rule, label, old.name, error)

    def finish(self, graph: Graph) -> None:
        """The graph is done: its outputs are the original model's."""
        from mobilekit.importers.convert import to_proto

        if self._random:
            return
        expected = {value.name: self._names[value.name] for value in graph.outputs}
        found = self._run(_with_outputs(to_proto(graph), ()), self._inputs, {}, expected)
        if found.get("error"):
            raise VerificationError(f"ONNX Runtime cannot run the prepared model: {found['error']}", hint=REPORT_IT)
        for value in graph.outputs:
            self._judge("all rules together", self._label(value), value.name, found["errors"][value.name], _WHOLE_RTOL)

    def _lifting(self, value: Value) -> str:
        """What was done to the original node that made the tensor."""
        op = self._ops.get(value.name, ("", ""))[0]
        if value.const is not None:
            what = "folding"
        elif op in EXPANDED or op == "LayerNormalization":
            what = "the function body"
        elif op in _RECURRENCES:
            what = "unrolling"
        else:
            what = "folding" if value.producer is not None and value.producer.op == "Identity" else "lifting"
        return f"{what} of {op or 'a node'}"

    def _label(self, value: Value) -> str:
        if value.name in self._ops:
            return self._ops[value.name][1]
        return value.producer.label if value.producer is not None else value.name

    def _judge(self, rule: str, label: str, name: str, error: Mapping[str, Any], rtol: float = _EXACT_RTOL) -> None:
        self.checked += 1
        if error["exact"]:
            wrong = error["max_abs"] != 0
        else:
            rtol = _HALF_RTOL if self._loose else rtol
            floor = _STEPS * float(np.finfo(np.float32).eps) * error["fed"]
            wrong = not (error["relative_l2"] <= rtol or error["max_abs"] <= floor)
        if wrong:
            how = error["mismatch"] or f"relative L2 {error['relative_l2']:.3g}, max abs {error['max_abs']:.3g}"
            raise VerificationError(f"{rule} at {label!r} changed the numbers: {name!r} is off ({how})", hint=REPORT_IT)

    def _known_names(self) -> dict[str, int]:
        if self._last is None:
            return self._names
        return {v.name: self._keys[id(v)][1] for v in self._last.values() if id(v) in self._keys}

    def _run(
        self,
        proto: ModelProto,
        feeds: Mapping[str, int],
        keep: Mapping[str, int],
        expected: Mapping[str, int],
        folder: str = "",
    ) -> Any:
        try:
            model = np.frombuffer(plain(proto).SerializeToString(), np.uint8)
        except ValueError:
            raise UsageError(
                "--verify-passes takes models below 2 GB", hint="leave it out: the export is still verified as a whole"
            ) from None
        inputs = {info.name for info in proto.graph.input}
        return self._call(
            "run",
            model=model,
            feeds={name: key for name, key in feeds.items() if name in inputs},
            keep=keep,
            expected=expected,
            folder=folder,
        )

    def _call(self, method: str, **arguments: Any) -> Any:
        assert self._backend is not None, "use the verifier in a with statement"
        return self._backend.call(method, arguments)

    def _number(self) -> int:
        self._count += 1
        return self._count

    def _keep(self, value: Value, key: int) -> None:
        self._keys[id(value)] = (value, key)

    def _key(self, value: Value) -> int:
        return self._keys[id(value)][1]


def _with_outputs(proto: ModelProto, names: Iterable[str]) -> ModelProto:
    """The model with these tensors among its outputs."""
    from onnx import ModelProto, ValueInfoProto

    wide = ModelProto()
    wide.CopyFrom(proto)
    there = {info.name for info in wide.graph.output}
    wide.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in there)
    for node in wide.graph.node:
        node.name = ""  # ONNX Runtime wants them to be unique, ONNX does not
    return wide


def _submodel(nodes: Sequence[Node], read: Iterable[Value], made: Iterable[Value], opset: int) -> ModelProto:
    """The model of ``nodes`` alone: what they read is an input or, where constant, an initializer."""
    from onnx import ModelProto, ValueInfoProto, helper

    from mobilekit.importers.convert import to_node, type_of
    from mobilekit.importers.tensors import to_tensor

    model = ModelProto(ir_version=10, opset_import=[helper.make_opsetid("", opset)])
    model.graph.name = "rewrite"
    for value in read:
        if value.const is not None:
            model.graph.initializer.append(to_tensor(value.const, value.name))
        else:
            model.graph.input.append(ValueInfoProto(name=value.name, type=type_of(value)))
    model.graph.node.extend(to_node(node) for node in nodes)
    model.graph.output.extend(ValueInfoProto(name=value.name) for value in made)
    return model


class _InProcess:
    """The evaluator here, in the place of a :class:`mobilekit.child.Child`."""

    def __init__(self) -> None:
        self._evaluator = _Evaluator()

    def create(self, factory: str, arguments: Mapping[str, Any]) -> None: ...

    def call(self, method: str, arguments: Mapping[str, Any]) -> Any:
        return getattr(self._evaluator, method)(**arguments)


class _Evaluator:
    """Lives in the child: runs models, keeps values under numbers, and compares."""

    def __init__(self) -> None:
        self._values: dict[int, Array] = {}

    def put(self, arrays: Mapping[str, Array]) -> None:
        self._values |= {int(key): array for key, array in arrays.items()}

    def run(
        self,
        model: Array,
        feeds: Mapping[str, int],
        keep: Mapping[str, int],
        expected: Mapping[str, int],
        folder: str,
    ) -> dict[str, Any]:
        """``made``: the names of ``keep`` that are tensors; ``errors`` of what is in ``expected``; or ``error``."""
        inputs = {name: self._values[key] for name, key in feeds.items()}
        names = [*keep, *(name for name in expected if name not in keep)]
        try:
            results = _compute(model.tobytes(), inputs, names, folder)
        except Exception as error:  # ONNX Runtime and the reference raise what they like
            return {"error": str(error).strip().split("\n", 1)[0] or type(error).__name__}
        fed = max((_largest(array) for array in inputs.values()), default=0.0)
        errors = {
            name: _distance(results[name], self._values[key], fed) for name, key in expected.items() if name in results
        }
        for name, key in keep.items():
            if name in results:
                self._values[key] = results[name]
        return {"made": list(results), "errors": errors}

    def compare(self, arrays: Mapping[str, Array], expected: Mapping[str, int]) -> dict[str, Any]:
        return {name: _distance(arrays[name], self._values[key], 0.0) for name, key in expected.items()}

    def equal_rows(self, name: str, actual: int, count: int, axis: int, expected: int) -> dict[str, Any]:
        """Only the first ``count`` of ``actual`` along ``axis``."""
        real = self._values[actual].take(np.arange(int(self._values[count][0])), axis)
        return {name: _distance(real, self._values[expected], 0.0)}

    def equal(self, name: str, actual: int, expected: int) -> dict[str, Any]:
        return {name: _distance(self._values[actual], self._values[expected], 0.0)}


def _compute(model: bytes, inputs: dict[str, Array], names: list[str], folder: str) -> dict[str, Array]:
    """The tensors among ``names``; sequences and the like are left out."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if folder:
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        session = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        results = session.run(names, inputs)
    except Exception:  # ONNX Runtime's exceptions share no base class of its own
        from onnx import ModelProto
        from onnx.reference import ReferenceEvaluator

        proto = ModelProto.FromString(model)
        if len(proto.graph.node) > _REFERENCE_NODES:
            raise
        try:
            results = ReferenceEvaluator(proto).run(names, inputs)
        except Exception:  # what ONNX Runtime said is the better message
            results = None
        if results is None:
            raise
    return {name: made for name, made in zip(names, results, strict=True) if isinstance(made, np.ndarray)}


def _largest(array: Array) -> float:
    if array.dtype.kind != "f":
        return 0.0
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def _distance(actual: Array, expected: Array, fed: float) -> dict[str, Any]:
    from mobilekit.metrics.tensors import compare

    if actual.dtype.kind == "f" and expected.dtype.kind in "fV" and actual.dtype != expected.dtype:
        expected = expected.astype(actual.dtype)  # the precision pass
    if actual.dtype.kind not in "fiub" or expected.dtype.kind not in "fiub":
        same = (
            actual.shape == expected.shape and actual.dtype == expected.dtype and actual.tobytes() == expected.tobytes()
        )
        return {"exact": True, "max_abs": 0.0 if same else math.inf, "relative_l2": 0.0, "mismatch": "", "fed": 0.0}
    error = compare(actual, expected)
    return {
        "exact": expected.dtype.kind in "iub",
        "max_abs": error.max_abs,
        "relative_l2": error.relative_l2,
        "mismatch": error.mismatch,
        "fed": max(fed, error.expected_max_abs if math.isfinite(error.expected_max_abs) else 0.0),
    }
