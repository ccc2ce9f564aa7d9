"""What is wrong in a file that somebody wrote, in words for its writer: why it cannot be read, what pydantic found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = ["first_wrong", "unreadable", "wrong_fields"]

_SHOULD_BE = {
    "bool": "true or false",
    "bytes": "text",
    "dict": "a table",
    "float": "a number",
    "frozen": "a list",
    "int": "a whole number",
    "list": "a list",
    "mapping": "a table",
    "model": "a table",
    "dataclass": "a table",
    "path": "a path",
    "string": "text",
    "tuple": "a list",
}
"""By the first word of pydantic's name for what is wrong (``tuple_type``, ``int_parsing``)."""

_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def wrong_fields(error: ValidationError) -> tuple[str, ...]:
    """A phrase for each field: ``"resize: 'stretched' is none of 'stretch', 'shorter'"``."""
    return tuple(dict.fromkeys(_wrong(one) for one in error.errors(include_url=False)))


def unreadable(error: Exception) -> str:
    """Why a text file could not be read, without the file's name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError):
        return "it is no UTF-8 text"
    return "it nests too deeply" if isinstance(error, RecursionError) else str(error)


def first_wrong(error: ValidationError) -> str:
    return wrong_fields(error)[0]


def _wrong(one: Mapping[str, Any]) -> str:
    where = ".".join(map(str, one["loc"]))
    return f"{where}: {_what(one)}" if where else _what(one)


def _what(one: Mapping[str, Any]) -> str:
    kind, context = str(one["type"]), one.get("ctx", {})
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return "is missing"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return "is not known"
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    given = repr(one["input"])
    given = given if len(given) <= 60 else f"{given[:57]}..."
    if kind == "literal_error":
        return f"{given} is none of {context['expected'].replace(' or ', ', ')}"
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"{given} should be {words} {context[bound]}"
    wanted = _SHOULD_BE.get(kind.split("_")[0])
    if wanted is not None and kind.endswith(("_type", "_parsing", "_from_float", "_attributes_type", "_exact_type")):
        return f"{given} should be {wanted}"
    return f"{given}: {str(one['msg'])[:1].lower()}{str(one['msg'])[1:]}"
