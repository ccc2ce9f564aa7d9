"""The NAME:shape notation and .npy files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilekit.errors import UsageError
from mobilekit.tensors import TensorSpec, format_shape, load_npy, parse_named_shape, save_npy


@given(st.text(min_size=1), st.lists(st.integers(1, 10**6), min_size=1, max_size=6))
def test_any_name_is_read_back(name: str, shape: list[int]) -> None:
    assert parse_named_shape(f"{name}:{'x'.join(map(str, shape))}") == (name, tuple(shape))


def test_the_shape_is_what_follows_the_last_colon() -> None:
    assert parse_named_shape("serving_default_input:0:1x224x224x3") == ("serving_default_input:0", (1, 224, 224, 3))
    assert parse_named_shape("s:scalar") == ("s", ())


@pytest.mark.parametrize(
    "text", ["", "x", "x:", ":1x3", "x:1x", "x:ax3", "x:1x0", "x:-1x3", "x:1 x3", "x:1X3", "x:1,3"]
)
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_named_shape(text)
    assert caught.value.hint


def test_an_open_shape_says_which_option_fixes_it() -> None:
    with pytest.raises(UsageError) as caught:
        TensorSpec("x", "float32", (1, "H", None)).static_shape()
    assert "--input-shape 'x:1xNxN'" in caught.value.hint
    assert format_shape((1, "H", None)) == "1xHx?"


def test_npy_round_trip(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float16).reshape(1, 2, 3)
    save_npy(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(load_npy(tmp_path / "a.npy"), array)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="not a readable"):
        load_npy(tmp_path / "evil.npy")


HEADER = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (9, ), "


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"random bytes, long enough to be looked at",
        HEADER.ljust(127) + b"\n" + bytes(36),  # no end of the dictionary
        HEADER.replace(b"False", b"F\0lse") + b"}".ljust(55) + b"\n" + bytes(36),
        HEADER.replace(b"(9, )", b"(9**9") + b"}".ljust(55) + b"\n" + bytes(36),
    ],
)
def test_bytes_that_are_no_array_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(UsageError):
        load_npy(tmp_path / "x.npy")
    with pytest.raises(UsageError, match="no file"):
        load_npy(tmp_path / "absent.npy")
