"""``mobilekit report``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="What validate --json wrote; the first is reported, the others stand beside it. Among these, what "
            "bisect --json and profile --json wrote."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.")] = Path("report.html"),
    inputs: Annotated[Path | None, typer.Option(help="The folder of pictures that was validated.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML, too.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write Markdown, too.")] = None,
) -> None:
    """Make a report to show from recorded validations: one HTML file that opens offline.

    \b
    mobilekit report run.json -o report.html
    mobilekit report new.json old.json phone.json -o report.html      runs of one model, side by side
    mobilekit report run.json --inputs photos/                        with the worst samples' pictures
    mobilekit report run.json bisect.json profile.json                with each layer's error and time
    """
    from mobilekit.cli._common import remark
    from mobilekit.pipeline.report import ReportFiles, read_beside, read_report, write_reports

    files = ReportFiles(html=output, junit=junit, markdown=markdown)
    write_reports(read_report(runs[0]), files, inputs=inputs, beside=read_beside(runs[1:]))
    remark(f"wrote {output}")


def register(app: typer.Typer) -> None:
    app.command("report")(report)
