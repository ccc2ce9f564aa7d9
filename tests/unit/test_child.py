"""Native code in a child: values travel, errors keep their types, signals and time limits are errors of ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilekit.child import Child, call
from mobilekit.errors import ChildCrashError, ChildError, ChildTimeoutError, UnsupportedModelError, UsageError

HERE = "tests.unit.child_work"


def test_arrays_and_nested_values_travel_both_ways() -> None:
    given_ = {"a": [np.arange(6, dtype=np.int8).reshape(2, 3), {"b": np.float32(1.5)}], "text": "é\0x"}
    got = call(f"{HERE}:echo", {"value": given_}, what="echo")
    np.testing.assert_array_equal(got["a"][0], given_["a"][0])
    assert got["a"][0].dtype == np.int8
    assert got["a"][1]["b"] == 1.5
    assert got["text"] == given_["text"]


@settings(max_examples=5)
@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists, max_leaves=5))
def test_any_json_value_comes_back_as_it_went(value: object) -> None:
    assert call(f"{HERE}:echo", {"value": value}, what="echo") == value


def test_an_object_lives_over_many_calls() -> None:
    with Child(what="counting") as child:
        child.create(f"{HERE}:Counter", {"start": 40})
        assert child.call("add", {"amount": 1}) == 41
        assert child.call("add", {"amount": 1}) == 42


def test_a_process_that_was_started_early_has_its_modules_and_is_the_one_that_answers() -> None:
    with Child(what="waiting", preload=("there.is.no.such", "fractions")) as child:
        child.start()
        child.start()
        assert child.request({"function": f"{HERE}:is_imported", "arguments": {"module": "fractions"}}, 60)
        child.create(f"{HERE}:Counter", {"start": 1})
        assert child.call("add", {"amount": 1}) == 2


def test_its_environment_is_ours_where_we_say_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    for ours, theirs in ((None, "passive"), ("active", "active")):
        if ours is not None:
            monkeypatch.setenv("OMP_WAIT_POLICY", ours)
        with Child(what="asking", env={"OMP_WAIT_POLICY": "passive"}) as child:
            question = {"function": f"{HERE}:environment", "arguments": {"name": "OMP_WAIT_POLICY"}}
            assert child.request(question, 60) == theirs


def test_our_errors_keep_their_type_message_and_hint() -> None:
    with pytest.raises(UsageError, match="no such thing") as caught:
        call(f"{HERE}:refuse", {}, what="refusing")
    assert caught.value.hint == "do something else"


def test_findings_survive() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        call(f"{HERE}:unsupported", {}, what="checking")
    assert [finding.op for finding in caught.value.findings] == ["TopK"]


def test_a_foreign_error_is_a_child_error_that_says_what_failed() -> None:
    with pytest.raises(ChildError, match=r"dividing failed: ZeroDivisionError"):
        call(f"{HERE}:divide", {}, what="dividing")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_signal_is_a_typed_error(number: int) -> None:
    with pytest.raises(ChildCrashError) as caught:
        call(f"{HERE}:die", {"number": int(number)}, what="dying")
    assert caught.value.signal == number


def test_a_hang_is_ended_at_the_limit() -> None:
    with Child(what="hanging") as child:
        child.create(f"{HERE}:Counter", {"start": 0})
        pid = child.call("pid", {})
        with pytest.raises(ChildTimeoutError):
            child.call("hang", {}, timeout_s=0.5)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_lower_limit_of_the_user_holds() -> None:
    ours = "import resource as r, sys; r.setrlimit(r.RLIMIT_DATA, (2 << 30, 2 << 30)); "
    ask = f"from mobilekit.child import call; print(call({HERE + ':echo'!r}, {{'value': 8}}, what='echo'))"
    done = subprocess.run([sys.executable, "-c", ours + ask], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["8"], done.stderr


def test_too_much_memory_is_an_error_not_a_dead_machine() -> None:
    with pytest.raises(ChildError, match="memory"):
        call(f"{HERE}:eat", {"size": 1 << 30}, what="eating", memory_bytes=300 << 20)


def test_the_child_dies_with_its_parent() -> None:
    script = (
        "from mobilekit.child import Child\n"
        "child = Child(what='x'); child.create('tests.unit.child_work:Counter', {'start': 0})\n"
        "print(child.call('pid', {}), flush=True)\n"
        "child.call('hang', {})\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        if "\nState:\tZ" in state:
            return
        time.sleep(0.05)
    pytest.fail("the child outlived its parent")
