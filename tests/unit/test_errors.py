"""The hierarchy: complete in its docstring and in __all__, with the exit codes of design decision 8."""

from __future__ import annotations

import inspect
import re

import pytest

from mobilekit import errors
from mobilekit.errors import MobilekitError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MobilekitError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_error_stands_in_the_drawing_with_its_exit_code(kind: type[MobilekitError]) -> None:
    assert kind.__name__ in errors.__all__
    found = re.search(rf"─ {kind.__name__} +(\d)|^    {kind.__name__} +(\d)", errors.__doc__ or "", re.MULTILINE)
    assert found, f"{kind.__name__} is not in the module's drawing"
    assert int(found.group(1) or found.group(2)) == kind.exit_code


def test_signals_have_names() -> None:
    assert errors.signal_name(11) == "SIGSEGV"
    assert errors.signal_name(200) == "signal 200"
