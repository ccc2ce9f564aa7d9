"""Both sides' answers as the task has them: pairs of boxes, regions, classes; what is none is left out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mobilekit.bundle import Manifest, ModelInfo, TensorInfo
from mobilekit.pipeline.answers import answer_of
from mobilekit.report.answers import MASK_SIDE, SampleAnswer
from mobilekit.validate.inputs import Sample

SIZE = 64


def manifest(task: str) -> Manifest:
    return Manifest(
        mobilekit_version="0.1.0",
        model=ModelInfo(id="m", file="m.onnx", sha256="0" * 64, opset=17),
        inputs=(TensorInfo(name="x", dtype="float32", shape=(1, 3, SIZE, SIZE)),),
        outputs=(TensorInfo(name="y", dtype="float32", shape=(1, 2, 6)),),
        task=task,
    )


def answer(actual, expected, task, labels=(), metrics=()):
    sample = Sample("a.png", {"x": np.zeros((1, 3, SIZE, SIZE), "f4")})
    return answer_of(sample, {"y": actual}, {"y": expected}, manifest(task), labels, metrics)


def rows(*boxes):
    return np.array([boxes], "f4")


def test_boxes_of_one_class_that_overlap_are_a_pair_and_the_others_stand_alone():
    expected = rows((0, 0, 10, 10, 0.9, 1), (20, 20, 40, 40, 0.8, 0), (50, 50, 60, 60, 0.3, 0))
    actual = rows((1, 0, 10, 10, 0.85, 1), (20, 20, 40, 40, 0.7, 2), (0, 0, 1, 1, 0.1, 0))
    found = answer(actual, expected, "detection", labels=("cat", "dog"))
    assert found is not None
    assert found.boxes is not None
    told = [(pair.label, pair.reference is not None, pair.device is not None) for pair in found.boxes]
    assert told == [("dog", True, True), ("cat", True, False), ("class 2", False, True), ("cat", True, False)]
    assert found.boxes[0].device is not None
    assert found.boxes[0].device.left == 1.0
    assert (found.width, found.height) == (SIZE, SIZE)
    assert SampleAnswer(**json.loads(found.model_dump_json())) == found


def test_a_detector_of_one_class_is_not_taken_for_selected_boxes():
    centres = np.zeros((1, 500, 6), "f4")
    centres[0, :, 5] = 0.5
    centres[0, 7] = (30, 20, 10, 8, 0.9, 0.95)
    found = answer(centres, centres, "detection")
    assert found is not None
    assert found.boxes is not None
    assert len(found.boxes) == 1
    box = found.boxes[0].reference
    assert box is not None
    assert (box.left, box.top, box.right, box.bottom) == (25, 16, 35, 24)
    assert box.score == pytest.approx(0.9 * 0.95)


def test_many_boxes_are_counted_and_not_all_kept():
    grid = np.arange(100)
    one = np.stack([grid * 3, grid * 0, grid * 3 + 2, grid * 0 + 2, 0.9 - grid / 1000, grid * 0], axis=1)[None]
    found = answer(one.astype("f4"), one.astype("f4"), "detection")
    assert found is not None
    assert found.boxes is not None
    assert len(found.boxes) + found.more_boxes == 100
    assert found.more_boxes > 0


@pytest.mark.parametrize("factor", [1, 4])
def test_regions(factor):
    side = SIZE // factor
    expected = np.zeros((1, 3, side, side), "f4")
    expected[0, 1, : side // 2] = 1
    actual = expected.copy()
    actual[0, 2, 0, 0] = 2
    found = answer(actual, expected, "segmentation")
    assert found is not None
    assert found.mask is not None
    assert found.mask.agreement == pytest.approx(1 - 1 / side**2)
    assert found.mask.reference.runs == ((1, side * side // 2), (0, side * side // 2))
    assert found.mask.device.runs[:2] == ((2, 1), (1, side * side // 2 - 1))


def test_a_large_map_is_thinned_and_a_single_one_is_a_region_above_a_half():
    side = 4 * MASK_SIDE
    sample = Sample("a.png", {"x": np.zeros((1, 3, side, side), "f4")})
    one = np.full((1, 1, side, side), 0.4, "f4")
    one[..., side // 2 :] = 0.6
    found = answer_of(sample, {"y": one}, {"y": one}, manifest("detection"), ())
    assert found is not None
    assert found.mask is not None
    assert (found.mask.reference.width, found.mask.reference.height) == (MASK_SIDE, MASK_SIDE)
    assert found.mask.reference.runs[:2] == ((0, MASK_SIDE // 2), (1, MASK_SIDE // 2))


def test_classes_are_the_best_of_both_sides():
    expected, actual = np.array([[0.6, 0.3, 0.08, 0.02]], "f4"), np.array([[0.02, 0.3, 0.08, 0.6]], "f4")
    found = answer(actual, expected, "classification")
    assert found is not None
    assert [each.label for each in found.classes] == ["class 0", "class 1", "class 2", "class 3"]
    assert found.classes[3].device == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("array", "task"),
    [
        (np.zeros((1, 4), "f4"), "detection"),
        (np.zeros((1, 4, 5, 9), "f4"), "segmentation"),
        (np.array([[np.nan, 1.0]], "f4"), "classification"),
        (np.zeros((2, 3), "f4"), "classification"),
        (np.zeros((1, 1), "f4"), "classification"),
        (np.array(1.0, "f4"), "classification"),
        (np.zeros((1, 3, SIZE, SIZE), "f4"), ""),
    ],
)
def test_what_is_no_such_answer_is_none(array, task):
    assert answer(array, array, task) is None


def test_another_shape_and_values_that_are_none_do_not_stop_the_report():
    expected = rows((0, 0, 10, 10, 0.9, 1), (20, 20, 40, 40, 0.8, 0))
    assert answer(expected[:, :1], expected, "detection") is None
    broken = np.full_like(expected, np.nan)
    found = answer(broken, expected, "detection")
    assert found is not None
    assert found.boxes is not None
    assert all(pair.device is None for pair in found.boxes)


def test_a_metric_says_the_task_where_the_bundle_does_not():
    one = np.zeros((1, 1, SIZE, SIZE), "f4")
    found = answer(one, one, "", metrics=("iou=0.9",))
    assert found is not None
    assert found.mask is not None
    assert found.mask.agreement == 1.0
