"""What the tests of mobilekit.child run in a child."""

from __future__ import annotations

import os
import sys
import time

from mobilekit.errors import Finding, UnsupportedModelError, UsageError


def echo(value: object) -> object:
    return value


def environment(name: str) -> str | None:
    return os.environ.get(name)


def is_imported(module: str) -> bool:
    return module in sys.modules


def refuse() -> None:
    raise UsageError("no such thing", hint="do something else")


def unsupported() -> None:
    raise UnsupportedModelError("no", findings=[Finding("n", "TopK", "because", "use another")])


def divide() -> float:
    return 1 / 0


def die(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(10)


def eat(size: int) -> int:
    return len(bytearray(size))


class Counter:
    def __init__(self, start: int) -> None:
        self.value = start

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    def pid(self) -> int:
        return os.getpid()

    def hang(self) -> None:
        time.sleep(60)
