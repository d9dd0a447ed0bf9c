"""`pochi list` and `pochi show` for a person at a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from pochitrain.experiment import Experiment, ExperimentInfo, write_manifest
from pochitrain.tasks.experiments import experiments_table, show_experiment


def info(task: str, monitor: str, when: str) -> ExperimentInfo:
    manifest = {
        "epochs": 100, "epochs_finished": 100, "monitor": monitor, "best": {monitor: 98.87654}, "updated": when,
        "tags": ["night shift", "camera 2"],
    }  # fmt: skip
    return ExperimentInfo(Experiment(Path(task), "a" * 64), task, "efficientnet_v2_s", "interrupted", manifest)


def lines(*infos: ExperimentInfo) -> list[str]:
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(experiments_table(list(infos)))
    return captured.get().splitlines()


@pytest.mark.parametrize("language", ["en", "ja"])
def test_numbers_and_times_are_whole_in_80_columns(monkeypatch: pytest.MonkeyPatch, language: str) -> None:
    monkeypatch.setenv("POCHI_LANG", language)
    text = "\n".join(lines(info("surface_inspection", "val_accuracy", "2024-02-29T12:34:56+09:00")))
    for whole in ("aaaaaaaaaaaa", "100/100", "98.8765", "2024-02-29 12:34", "val_accuracy"):
        assert whole in text
    assert "…" not in text


def test_one_monitor_is_a_title_and_two_are_a_column() -> None:
    one = lines(info("a", "val_accuracy", ""), info("b", "val_accuracy", ""))
    assert "chosen by" not in "".join(one)
    two = lines(info("a", "val_accuracy", ""), info("b", "val_loss", ""))
    assert "chosen" in "".join(two)


def test_what_is_known_stands_in_one_column_also_in_japanese(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POCHI_LANG", "ja")
    experiment = Experiment(tmp_path / "task" / "model" / ("a" * 12), "a" * 64)
    experiment.dir.mkdir(parents=True)
    write_manifest(experiment, {"status": "complete", "monitor": "val_loss", "notes": "メモの内容"})
    show_experiment(tmp_path, "aaa")
    said = capsys.readouterr().out.splitlines()
    columns = {cell_len(line[: line.index(value)]) for line, value in zip(said, ("aaa", str(tmp_path)), strict=False)}
    columns |= {cell_len(line[: line.index("メモの内容")]) for line in said if "メモの内容" in line}
    assert len(columns) == 1
