"""What a validation has done so far, kept sample by sample, so that one that was stopped can go on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from mobilekit.paths import cache_dir, storage_errors
from mobilekit.runners.base import RunResult

if TYPE_CHECKING:
    from mobilekit.pipeline.measure import SampleRecord

__all__ = ["Partial"]

_VERSION = "2"


class Partial:
    """A file of one line for each sample, in the cache, named by everything that a result depends on but the sample.

    ``parts`` are those things. A line that was cut off when the machine went down is left out with all behind it.
    """

    def __init__(self, *parts: object, resume: bool) -> None:
        key = hashlib.sha256(repr((_VERSION, *parts)).encode("utf-8", "surrogatepass")).hexdigest()[:40]
        self.path = cache_dir("partial") / f"{key}.jsonl"
        self.timed: RunResult | None = None
        self._known: dict[str, SampleRecord] = {}
        if resume:
            self._read()
        else:
            self.discard()

    @property
    def count(self) -> int:
        """Samples known from before."""
        return len(self._known)

    def known(self, digest: str, name: str) -> SampleRecord | None:
        """The record of a sample with these inputs, under its present name."""
        record = self._known.get(digest)
        return None if record is None else replace(record, name=name)

    def add(self, digest: str, record: SampleRecord, timed: RunResult | None) -> None:
        """Raises :class:`~mobilekit.errors.StorageError`."""
        line = {"digest": digest, "record": _plain(record)}
        if timed is not None:
            line["timed"] = asdict(replace(timed, outputs={}, facts={}))
        with storage_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def discard(self) -> None:
        with suppress(FileNotFoundError), storage_errors(self.path):
            self.path.unlink()

    def _read(self) -> None:
        whole = 0
        with suppress(FileNotFoundError), storage_errors(self.path):
            for line in self.path.read_bytes().splitlines(keepends=True):
                try:
                    raw = json.loads(line)
                    self._known[str(raw["digest"])] = _record(raw["record"])
                    if "timed" in raw:
                        timed = raw["timed"]
                        self.timed = RunResult(**{**timed, "latencies_ns": tuple(timed["latencies_ns"])})
                except (ValueError, KeyError, TypeError, RecursionError):
                    break
                whole += len(line)
            os.truncate(self.path, whole)


def _plain(record: SampleRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "errors": {name: asdict(error) for name, error in record.errors.items()},
        "tolerances": {name: asdict(tolerance) for name, tolerance in record.tolerances.items()},
        "doubts": dict(record.doubts),
        "variation": dict(record.variation),
        "top1": dict(record.top1),
        "metrics": dict(record.metrics),
        "right": record.right,
        "answer": record.answer.model_dump() if record.answer is not None else None,
        "shown": record.shown.model_dump(mode="json") if record.shown is not None else None,
    }


def _record(raw: Mapping[str, Any]) -> SampleRecord:
    from mobilekit.metrics.tensors import TensorError
    from mobilekit.pipeline.measure import SampleRecord
    from mobilekit.report.answers import SampleAnswer
    from mobilekit.report.model import AnswerPair
    from mobilekit.validate.tolerance import Tolerance

    return SampleRecord(
        name=raw["name"],
        errors={name: TensorError(**error) for name, error in raw["errors"].items()},
        tolerances={name: Tolerance(**tolerance) for name, tolerance in raw["tolerances"].items()},
        doubts=raw["doubts"],
        variation=raw["variation"],
        top1=raw["top1"],
        metrics=raw["metrics"],
        right=None if raw["right"] is None else (raw["right"][0], raw["right"][1]),
        answer=None if raw["answer"] is None else AnswerPair(**raw["answer"]),
        shown=None if raw["shown"] is None else SampleAnswer(**raw["shown"]),
    )
