"""Values that are taken without typer's help are those that typer gives, and what it refuses stays refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from mobilekit.cli._plain import take_plainly


def _shout(text: str) -> str:
    return text.upper()


def _app(seen: list[Any]) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    def command(
        model: str,
        output: Annotated[Path, typer.Option()] = Path("out"),
        there: Annotated[Path | None, typer.Option(exists=True)] = None,
        file: Annotated[Path | None, typer.Option(dir_okay=False)] = None,
        names: Annotated[list[str] | None, typer.Option()] = None,
        paths: Annotated[list[Path] | None, typer.Option()] = None,
        count: Annotated[int, typer.Option(min=1)] = 2,
        level: Annotated[int | None, typer.Option(max=5)] = None,
        ratio: Annotated[float, typer.Option()] = 0.5,
        whole: Annotated[float, typer.Option()] = 3,
        loud: Annotated[str, typer.Option(parser=_shout)] = "quiet",
        flag: Annotated[bool, typer.Option()] = True,
    ) -> None:
        values = dict(locals())
        seen.append({name: (type(value), value) for name, value in sorted(values.items()) if name != "seen"})

    app.command()(command)
    return app


@pytest.mark.parametrize(
    "arguments",
    [
        "m.onnx",
        "m.onnx --output a/b --names x --names y --no-flag",
        "m.onnx --output . --file absent --there . --loud a --ratio 1 --whole 2",
        "m.onnx --paths a --paths b --count 7 --level 5",
        "m.onnx --names=",
        "m.onnx --output=",
        "m.onnx --count 0",
        "m.onnx --count two",
        "m.onnx --level 6",
        "m.onnx --there absent",
        "m.onnx --file .",
        "m.onnx --ratio much",
        "",
    ],
)
def test_values_and_refusals_are_those_of_typer(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    by_typer: list[Any] = []
    plainly: list[Any] = []
    app = _app(plainly)
    take_plainly(app)
    wanted = CliRunner().invoke(_app(by_typer), arguments.split())
    found = CliRunner().invoke(app, arguments.split())
    assert (found.exit_code, found.output) == (wanted.exit_code, wanted.output)
    assert plainly == by_typer
    assert bool(plainly) == (found.exit_code == 0)
