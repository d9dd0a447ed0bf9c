"""Best epoch, early stopping and the CSV files as functions of records."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import Any

import pytest

from pochitrain.history import best_epoch, gradients_csv, metrics_csv, monitored, stopped_early

NAN = math.nan


@dataclass(frozen=True)
class Stopping:
    enabled: bool = True
    patience: int = 2
    min_delta: float = 0.0
    monitor: str = "val_accuracy"


def history(name: str, *values: float | None) -> list[dict[str, Any]]:
    return [{"epoch": epoch, "train_loss": 1.0 / epoch, name: value} for epoch, value in enumerate(values, 1)]


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize(
    ("monitor", "values", "best"),
    [
        ("val_accuracy", (50.0, 70.0, 70.0, 60.0), 2),
        ("val_loss", (3.0, 1.0, 1.0, 2.0), 2),
        ("val_accuracy", (NAN, 10.0, NAN), 2),
        ("val_loss", (NAN, NAN), None),
        ("val_loss", (), None),
        ("val_accuracy", (None, None, None), 3),  # no validation: the lowest train_loss
        ("val_loss", (math.inf, 5.0), 2),
        ("val_accuracy", (0.0, 0.0), 1),
    ],
)
def test_best_epoch(monitor: str, values: tuple[float | None, ...], best: int | None) -> None:
    assert best_epoch(history(monitor, *values), monitor) == best


def test_monitored_names_what_is_really_used() -> None:
    assert monitored(history("val_loss", 1.0), "val_loss") == "val_loss"
    assert monitored(history("train_accuracy", 1.0), "val_loss") == "train_loss"
    assert monitored([], "val_accuracy") == "val_accuracy"


@pytest.mark.parametrize(
    ("settings", "values", "stops_after"),
    [
        (Stopping(), (50.0, 50.0, 50.0, 60.0), 3),  # equal is no improvement, also with min_delta 0
        (Stopping(), (50.0, 49.0, 51.0, 50.0, 50.0), 5),
        (
            Stopping(min_delta=3.0),
            (50.0, 52.0, 53.0, 54.0, 55.0),
            5,
        ),  # against the last improvement, not the last epoch
        (Stopping(min_delta=3.0, monitor="val_loss"), (9.0, 6.0, 4.0, 3.1), 4),
        (Stopping(monitor="val_loss"), (1.0, 2.0, 0.5, 0.4), None),
        (Stopping(), (NAN, NAN, 50.0), 2),
        (Stopping(), (50.0, NAN, 51.0, NAN, NAN), 5),
        (Stopping(), (NAN, 10.0, 9.0, 11.0), None),
        (Stopping(enabled=False), (50.0, 50.0, 50.0), None),
        (
            Stopping(min_delta=3.0),
            (None, None, None),
            None,
        ),  # train_loss falls; 3 points of accuracy mean nothing to it
    ],
)
def test_stopped_early(settings: Stopping, values: tuple[float | None, ...], stops_after: int | None) -> None:
    records = history(settings.monitor, *values)
    stops = [length for length in range(len(records) + 1) if stopped_early(records[:length], settings)]
    assert stops[:1] == ([] if stops_after is None else [stops_after])


def test_metrics_csv_has_the_columns_of_the_guide_first_and_exact_numbers() -> None:
    records = [
        {
            "seconds": 1.5,
            "lr_fc": 0.1 + 0.2,
            "epoch": 1,
            "learning_rate": 1e-3,
            "train_loss": 1 / 3,
            "train_accuracy": 50.0,
            "val_loss": NAN,
            "val_accuracy": 99.9,
            "gradient_norm/fc": 2.0,
            "lr_layer1,2": 5e-324,
        },
        {"epoch": 2, "learning_rate": 1e-3, "train_loss": 0.25, "train_accuracy": 75.0, "extra": "x"},
    ]
    text = metrics_csv(records)
    header = 'epoch,learning_rate,train_loss,train_accuracy,val_loss,val_accuracy,lr_fc,"lr_layer1,2",seconds,extra'
    assert text.splitlines()[0] == header
    first, second = read(text)
    assert float(first["train_loss"]) == 1 / 3
    assert float(first["lr_fc"]) == 0.1 + 0.2
    assert float(first["lr_layer1,2"]) == 5e-324
    assert first["epoch"] == "1"
    assert math.isnan(float(first["val_loss"]))
    assert (second["val_loss"], second["val_accuracy"], second["extra"]) == ("", "", "x")
    assert "\r" not in text
    assert text.endswith("\n")


def test_metrics_csv_keeps_the_validation_columns_without_validation() -> None:
    assert metrics_csv([]) == "epoch,learning_rate,train_loss,train_accuracy,val_loss,val_accuracy\n"


def test_gradients_csv_holds_the_epochs_that_recorded() -> None:
    records = [
        {"epoch": 1, "gradient_norm/conv1": 0.5, "gradient_norm/層": 1.0},
        {"epoch": 2},
        {"epoch": 3, "gradient_norm/conv1": 1 / 3},
    ]
    text = gradients_csv(records)
    assert text == f"epoch,conv1,層\n1,0.5,1.0\n3,{1 / 3!r},\n"
    assert gradients_csv([{"epoch": 1}]) is None
