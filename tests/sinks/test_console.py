"""Names of the user's are shown and logged as they are: no markup, no emoji."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.table import Table

from pochitrain.sinks.console import Log

NAMES = ["[/x]", "[red]", ":smile:"]


def test_names_are_no_markup_on_the_terminal_and_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, table = Log(), Table("[/head]", title="[red]title")
    log.write_to(tmp_path / "train.log")
    for name in NAMES:
        table.add_row(name)
        log.info(name)
        log.warning(name)
    log.table(table)
    for said in (capsys.readouterr().out, (tmp_path / "train.log").read_text(encoding="utf-8")):
        assert [said.count(name) for name in NAMES] == [3, 4, 3], "the title holds one of them"
        assert "[/head]" in said
