"""What several commands take in the same way."""

from __future__ import annotations

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from mobilekit.cli._options import seconds
from mobilekit.errors import UsageError


def _taken(*arguments: str) -> str:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def command(budget: Annotated[float, seconds("--budget", least=1, help="How long.")] = 300.0) -> None:
        print(budget)

    done = CliRunner().invoke(app, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output.strip()


@pytest.mark.parametrize(
    ("given", "taken"), [("20", 20.0), ("20s", 20.0), ("1.5", 1.5), ("2m", 120.0), ("1h", 3600.0), (None, 300.0)]
)
def test_a_time_is_seconds_or_a_duration(given: str | None, taken: float) -> None:
    assert float(_taken(*([] if given is None else ["--budget", given]))) == taken


@pytest.mark.parametrize(
    ("given", "said"), [("soon", "--budget: 'soon' is no duration"), ("0", "too short"), ("0.5s", "too short")]
)
def test_what_is_no_time_is_told_with_its_option(given: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        _taken("--budget", given)
    assert caught.value.hint
