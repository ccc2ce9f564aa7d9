"""Task metrics by name, the user's own function, and the truth: what they say, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from mobilekit.errors import UsageError
from mobilekit.validate.task import Truth, parse_metric, read_truth

SCORES = {"y": np.array([[0.1, 0.7, 0.2]], np.float32)}
OTHER = {"y": np.array([[0.6, 0.3, 0.1]], np.float32)}


def test_known_metrics():
    assert parse_metric("top1")(SCORES, SCORES) == 1.0
    assert parse_metric("top1")(OTHER, SCORES) == 0.0
    assert parse_metric("top2")(OTHER, SCORES) == 0.5
    assert parse_metric("cosine=0.9").least == 0.9
    assert parse_metric("cosine")(OTHER, SCORES) < 0.9
    path = {"y": np.eye(3, dtype=np.float32)[[0, 1, 1, 0, 2]][None]}
    assert parse_metric("text")(path, path) == 1.0
    mask = {"y": (np.arange(16).reshape(1, 1, 4, 4) > 7).astype(np.float32)}
    assert parse_metric("iou")(mask, mask) == 1.0
    boxes = {"y": np.array([[[0, 0, 9, 9, 0.9, 1]]], np.float32)}
    none = {"y": np.array([[[0, 0, 9, 9, 0.1, 1]]], np.float32)}
    assert parse_metric("detect", (9, 9))(boxes, boxes) == 1.0
    assert parse_metric("detect-map", (9, 9))(none, boxes) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "top0",
        "topx",
        "splendid",
        "top1=much",
        "top1=nan",
        "top1=inf",
        "no_such_module_here:f",
        "json:nothing",
        "json:__doc__",
    ],
)
def test_what_is_no_metric_is_refused(text):
    with pytest.raises(UsageError):
        parse_metric(text)


def test_a_metric_that_does_not_suit_says_so():
    picture = {"y": np.zeros((1, 3, 4, 4), np.float32)}
    with pytest.raises(UsageError, match="top1 cannot judge these outputs: no output is a list of class scores"):
        parse_metric("top1")(picture, picture)
    with pytest.raises(UsageError, match="none of the detectors' layouts"):
        parse_metric("detect")(picture, picture)


def test_as_many_best_classes_as_there_are_say_nothing():
    for text in ("top3", "top99=0.99"):
        with pytest.raises(UsageError, match="is always 1: the model tells 3 classes apart") as caught:
            parse_metric(text)(OTHER, SCORES)
        assert "up to top2" in (caught.value.hint or "")
    # Of two outputs, the one with fewer classes is left out.
    pair = {"gender": np.array([[0.2, 0.8]], np.float32)}
    assert parse_metric("top2")({**OTHER, **pair}, {**SCORES, **pair}) == 0.5


def test_the_users_own_function(tmp_path, monkeypatch):
    (tmp_path / "own_metric_of_tests.py").write_text(
        "def share(actual, expected):\n    return (actual['y'] == expected['y']).mean()\n"
        "def broken(actual, expected):\n    raise RuntimeError('not today')\n"
        "def nothing(actual, expected):\n    return float('nan')\n"
    )
    monkeypatch.chdir(tmp_path)
    assert parse_metric("own_metric_of_tests:share=0.5")(SCORES, SCORES) == 1.0
    with pytest.raises(UsageError, match="not today"):
        parse_metric("own_metric_of_tests:broken")(SCORES, SCORES)
    with pytest.raises(UsageError, match="gave nan"):
        parse_metric("own_metric_of_tests:nothing")(SCORES, SCORES)


def test_code_of_the_user_that_leaves_is_no_verdict(tmp_path, monkeypatch):
    (tmp_path / "leaving_metric_of_tests.py").write_text("import sys\ndef f(actual, expected):\n    sys.exit(0)\n")
    (tmp_path / "leaving_module_of_tests.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "broken_module_of_tests.py").write_text("def (\n")
    (tmp_path / "killed_metric_of_tests.py").write_text("def f(actual, expected):\n    raise SystemExit(143)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"cannot judge these outputs: it left with sys\.exit\(0\)"):
        parse_metric("leaving_metric_of_tests:f")(SCORES, SCORES)
    with pytest.raises(UsageError, match=r"cannot load the metric .*: it left with sys\.exit\(0\)"):
        parse_metric("leaving_module_of_tests:f")
    for module in ("broken_module_of_tests", "../up"):
        with pytest.raises(UsageError, match="cannot load the metric"):
            parse_metric(f"{module}:f")
    with pytest.raises(SystemExit):  # what a polite kill unwinds as
        parse_metric("killed_metric_of_tests:f")(SCORES, SCORES)


def test_truth_of_classes_and_of_texts(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("file,label\ncat.png, Cat\ndog.png,2\n")
    truth = read_truth(file, ["fox", "cat", "dog"], text=False)
    assert truth.score("cat.png", SCORES) == 1.0
    assert truth.score("cat.png", OTHER) == 0.0
    assert truth.score("dog.png", SCORES) == 0.0
    with pytest.raises(UsageError, match=r"says nothing of 'owl\.png'"):
        truth.score("owl.png", SCORES)
    path = {"y": np.eye(3, dtype=np.float32)[[0, 1, 1, 0, 2]][None]}
    assert Truth({"a": "hi"}, ["h", "i"], text=True).score("a", path) == 1.0
    assert Truth({"a": "ha"}, ["h", "i"], text=True).score("a", path) == 0.5


def test_labels_of_digits_are_labels():
    """Digits in an order of their own: "7" is the class of that label, not class 7."""
    digits = ["7", "0", "1", "2", "3", "4", "5", "6", "8", "9"]
    seventh, sixth = ({"y": np.eye(10, dtype=np.float32)[[n]]} for n in (0, 7))
    truth = Truth({"a": "7", "b": "10"}, digits)
    assert truth.score("a", seventh) == 1.0
    assert truth.score("a", sixth) == 0.0
    numbered = Truth({"a": "7"}, ["zero", "one"])
    assert (numbered.score("a", seventh), numbered.score("a", sixth)) == (0.0, 1.0)


@pytest.mark.parametrize("label", ["tabby", "-1", "3", "1.0", ""])
def test_a_truth_that_is_no_class_is_told_and_does_not_count_as_wrong(label):
    with pytest.raises(UsageError, match="no class from 0 to 2") as caught:
        Truth({"a": label}, ["fox", "cat", "dog"]).score("a", SCORES)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "a\n", "a,b,c\n", "a,b\na,c\n"])
def test_a_damaged_truth_is_refused(tmp_path, text):
    file = tmp_path / "labels.csv"
    file.write_text(text)
    with pytest.raises(UsageError):
        read_truth(file, [], text=False)
    with pytest.raises(UsageError):
        read_truth(tmp_path / "none.csv", [], text=False)


def test_a_name_is_known_however_its_accents_are_written(tmp_path):
    file = tmp_path / "truth.csv"
    file.write_text("caf\u00e9.png,cat\nna\u00efve.png,fox\n", encoding="utf-8")
    truth = read_truth(file, ["fox", "cat", "dog"], text=False)
    assert truth.score("cafe\u0301.png", SCORES) == 1.0
    with pytest.raises(UsageError, match=r"nothing of 'owl\.png' and of 1 more"):
        truth.check(["cafe\u0301.png", "owl.png", "emu.png"])
