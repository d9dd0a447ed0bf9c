"""What a training says at its start and after an epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pochitrain.config.loader import load_config
from pochitrain.data.source import load_data
from pochitrain.engine.run import build_run
from pochitrain.sinks.console import Log
from pochitrain.tasks.prepare import plan
from pochitrain.tasks.summary import say_epoch, say_start
from tests.engine.test_checks import STRIDED

WriteConfig = Callable[..., Path]


@pytest.mark.parametrize(
    ("speed", "shown"), [(0.0, "0.2 s *"), (0.4, "0.2 s 0.4 images/s *"), (1234.5, "0.2 s 1234 images/s *")]
)
def test_the_speed_of_an_epoch(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], speed: float, shown: str
) -> None:
    """An epoch that only had its validation left has none."""
    record = {"epoch": 1, "learning_rate": 0.1, "train_loss": 1.0, "train_accuracy": 50.0}
    record |= {"seconds": 0.2, "images_per_second": speed, "data_seconds": 0.0}
    say_epoch(Log(), record, load_config(write_config()), [record])
    assert capsys.readouterr().out.rstrip().endswith(shown)


def test_a_precision_that_the_model_forces_is_said(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(write_config(STRIDED.format(precision="auto")))
    data = load_data(config)
    say_start(Log(), plan(config, data), build_run(config, data))
    told = "precision   fp32: In bf16 this processor computes the convolution 1 wrong on an image of 1 × 1 pixels"
    native = any(torch.cpu.get_capabilities().get(flag) for flag in ("avx512_bf16", "amx_bf16"))
    assert (told in capsys.readouterr().out.splitlines()) is bool(native)
