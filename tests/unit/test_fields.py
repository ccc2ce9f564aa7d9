"""What is wrong in a file is told in words for whoever wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from mobilekit.fields import first_wrong, unreadable, wrong_fields
from mobilekit.manifest import Manifest
from mobilekit.preprocess import Preprocess


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"mean": "x"}, "mean: 'x' should be a list"),
        ({"mean": ["a", 1, 2]}, "mean.0: 'a' should be a number"),
        ({"resize": "stretched"}, "resize: 'stretched' is none of 'stretch', 'shorter', 'letterbox', 'height'"),
        ({"foo": 1}, "foo: is not known"),
        ({"std": [0, 0, 0]}, "std must not be zero"),
        ({"resize_to": 1.5}, "resize_to: 1.5 should be a whole number"),
        ([], "[] should be a table"),
    ],
)
def test_a_wrong_field_in_words(value: Any, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Preprocess).validate_python(value)
    assert first_wrong(caught.value) == said


@pytest.mark.parametrize("content", [None, b"\xff", b"{", b"[" * 100_000], ids=["absent", "no text", "no JSON", "deep"])
def test_why_a_file_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((OSError, ValueError, RecursionError)) as caught:
        json.loads(path.read_text("utf-8"))
    said = unreadable(caught.value)
    assert said
    assert "Errno" not in said
    assert "codec" not in said
    assert str(path) not in said


def test_every_wrong_field_is_told_and_the_library_not() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Manifest).validate_python({"schema_version": 1, "inputs": 5, "model": {"file": "x" * 500}})
    said = wrong_fields(caught.value)
    assert "outputs: is missing" in said
    assert "schema_version: 1 should be text" in said
    assert "pydantic" not in "".join(said)
    assert max(map(len, said)) < 120
