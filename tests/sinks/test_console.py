"""What a run says: names as they are, no markup, no emoji; and what ends the saying."""

from __future__ import annotations

import sys
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_ends_the_saying_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        log = Log()
        log.write_to(tmp_path / "train.log")
        log.info("one")
        log.info("two")
    said = [line[20:] for line in (tmp_path / "train.log").read_text(encoding="utf-8").splitlines()]
    assert said == ["warning: The disk is full (stdout)", "one", "two"]
