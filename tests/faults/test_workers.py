"""A process that loads images is killed, raises or hangs under `pochi train`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.lives import Life, command, relatives

WriteConfig = Callable[..., Path]

BAD = """
import os, signal, time
from torch.utils.data import get_worker_info
class Bad:
    def __call__(self, image):
        if get_worker_info() is not None and sum(image.getpixel((0, 0))) == {sum}:
            {action}
        return transforms.ToTensor()(image)
{split}_transform = Bad()
num_workers = 2
worker_timeout_seconds = 1
epochs = 20
"""
ACTIONS = {
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "died or hangs: DataLoader worker"),
    "left": ("os._exit(7)", "died or hangs: DataLoader worker"),
    "raising": ("raise KeyError('nothing here')", "A sample cannot be used: KeyError: 'nothing here'"),
    "hanging": ("time.sleep(1000)", "died or hangs: no answer for 1 s"),
    "deaf and hanging": (
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64)); time.sleep(1000)",
        "died or hangs: no answer for 1 s",
    ),
}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("fault", ACTIONS)
def test_the_error_names_the_sample_and_nothing_hangs(
    write_config: WriteConfig, tmp_path: Path, images: Path, fault: str, split: str
) -> None:
    from PIL import Image

    action, words = ACTIONS[fault]
    bad = images / split / "bee" / "002.png"
    with Image.open(bad) as image:
        pixel = sum(image.convert("RGB").getpixel((0, 0)))  # type: ignore[arg-type]
    path = write_config(BAD.format(sum=pixel, action=action, split=split))
    started = time.monotonic()
    life = Life(command("train", "-c", path), tmp_path / "said.txt")
    assert life.end(30) == 3, life.said
    assert time.monotonic() - started < 10
    assert words in life.said
    assert f"where: {bad}" in life.said
    assert relatives(life.pid) == []
