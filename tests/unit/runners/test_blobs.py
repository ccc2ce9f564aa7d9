"""ONNX tensors to ncnn blobs and back."""

from __future__ import annotations

import numpy as np
import pytest

from mobilekit.bundle import NcnnBlob, NcnnRows, TensorInfo
from mobilekit.errors import UsageError, VerificationError
from mobilekit.runners.blobs import blob_dims, extracted, from_blob, from_blobs, to_blob


def info(dtype: str, *shape: int) -> TensorInfo:
    return TensorInfo(name="x", dtype=dtype, shape=shape)


def blob(*axes: int, kind: str = "float32") -> NcnnBlob:
    return NcnnBlob(tensor="x", blob="x", axes=axes, kind=kind)


@pytest.mark.parametrize(
    ("shape", "axes", "dims"),
    [
        ((1, 3, 4, 5), (1, 2, 3), (3, 4, 5)),
        ((1, 7), (1,), (7,)),
        ((), (), (1,)),
        ((1, 1), (), (1,)),
        ((2, 3), (0, 1), (2, 3)),
    ],
)
def test_there_and_back(shape: tuple[int, ...], axes: tuple[int, ...], dims: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    there = to_blob(array, info("float32", *shape), blob(*axes))
    assert there.shape == dims == blob_dims(shape, blob(*axes))
    assert there.flags.c_contiguous
    back = from_blob(there, info("float32", *shape), blob(*axes))
    assert back.shape == shape
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("dtype", ["int64", "int32", "bool", "uint8"])
def test_integers_and_booleans_there_and_back(dtype: str) -> None:
    array = np.array([[0, 1, 1]]).astype(dtype)
    there = to_blob(array, info(dtype, 1, 3), blob(1))
    assert there.dtype == np.float32
    back = from_blob(there, info(dtype, 1, 3), blob(1))
    assert back.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(back, array)


def test_ids_travel_as_integers() -> None:
    there = to_blob(np.array([[5, 2**30]]), info("int64", 1, 2), blob(1, kind="int32"))
    assert there.dtype == np.int32
    back = from_blob(there.view(np.float32), info("int64", 1, 2), blob(1, kind="int32"))
    np.testing.assert_array_equal(back, [[5, 2**30]])


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(UsageError, match="1x3"):
        to_blob(np.zeros((1, 4), np.float32), info("float32", 1, 3), blob(1))


def test_a_wrong_dtype_is_refused() -> None:
    with pytest.raises(UsageError, match="float64"):
        to_blob(np.zeros((1, 3)), info("float32", 1, 3), blob(1))


@pytest.mark.parametrize(("value", "kind"), [(2**24 + 1, "float32"), (-(2**24) - 1, "float32"), (2**31, "int32")])
def test_integers_that_do_not_fit_are_refused(value: int, kind: str) -> None:
    with pytest.raises(UsageError, match="integer"):
        to_blob(np.array([value]), info("int64", 1), blob(0, kind=kind))


def test_an_output_of_another_size_is_an_error() -> None:
    with pytest.raises(VerificationError, match="4 elements"):
        from_blob(np.zeros(4, np.float32), info("float32", 1, 3), blob(1))


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, 2.0**25])
def test_an_integer_output_that_is_none_is_an_error(value: float) -> None:
    with pytest.raises(VerificationError, match="integers"):
        from_blob(np.array([value], np.float32), info("int64", 1), blob(0))


def test_rows_past_the_count_are_left_out() -> None:
    rows = NcnnBlob(tensor="x", blob="x", axes=(0, 1), rows=NcnnRows(axis=0, count="n"))
    data = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert extracted([rows, rows]) == ["x", "n"]
    made = from_blobs({"x": data, "n": np.array([2], np.float32)}, [info("int64", 4, 3)], [rows])
    np.testing.assert_array_equal(made["x"], data[:2].astype(np.int64))


@pytest.mark.parametrize("count", [-1.0, 5.0, 1.5, np.nan, np.inf])
def test_a_count_that_is_none_is_an_error(count: float) -> None:
    rows = NcnnBlob(tensor="x", blob="x", axes=(0,), rows=NcnnRows(axis=0, count="n"))
    with pytest.raises(VerificationError, match="4 at most"):
        from_blobs({"x": np.zeros(4, np.float32), "n": np.array([count], np.float32)}, [info("float32", 4)], [rows])


def test_more_than_four_long_axes_lie_flat() -> None:
    flat = NcnnBlob(tensor="x", blob="x", axes=(), dims=(32,))
    array = np.arange(32, dtype=np.float32).reshape(2, 2, 2, 2, 2)
    there = to_blob(array, info("float32", 2, 2, 2, 2, 2), flat)
    assert there.shape == (32,)
    np.testing.assert_array_equal(from_blob(there, info("float32", 2, 2, 2, 2, 2), flat), array)


@pytest.mark.parametrize(
    ("ids", "said"), [([0, -1], "takes it for 9, give that"), ([10, 3], "the id 10"), ([-11], "-11")]
)
def test_ids_that_are_no_rows_of_their_table(ids: list[int], said: str) -> None:
    table = TensorInfo(name="x", dtype="int64", shape=(len(ids),), limit=10)
    with pytest.raises(UsageError, match=said):
        to_blob(np.array(ids), table, blob(0, kind="int32"))
    np.testing.assert_array_equal(
        to_blob(np.full(len(ids), 9), table, blob(0, kind="int32")), np.full(len(ids), 9, np.int32)
    )
