"""SIGKILL from outside, at random times, through the real command line; then compare with the undisturbed run.

    python -m tests.faults.kills             # F2: 200 kills
    python -m tests.faults.kills --kills 30

Half of the kills come at a random time, a quarter while a checkpoint is being written, a quarter with loading processes
at work. Each training is killed a few times and then goes to its end.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Protocol

from tests.conftest import TINY, make_images
from tests.faults.lives import RICH, differing, empty, left_behind, only_experiment, relatives, temporaries

SLOW = """
import time
class Slow:
    def __call__(self, image):
        time.sleep(0.005)
        return image
train_transform.transforms.insert(0, Slow())
checkpoint_every_minutes = 0.01
def model(num_classes):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, num_classes),
    )
    net.register_buffer("ballast", torch.zeros(2_000_000))  # 8 MB, so that writing a checkpoint takes a while
    return net
"""


class Process(Protocol):
    """What is killed here: a process of the command line, or a forked life."""

    pid: int

    @property
    def running(self) -> bool: ...

    def end(self, seconds: float = 60) -> int: ...


class Pochi:
    """`pochi …` in a process and a session of its own."""

    def __init__(self, *arguments: object, output: Path) -> None:
        with output.open("a") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pochitrain", *map(str, arguments)],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def end(self, seconds: float = 120) -> int:
        return self._process.wait(seconds)


def kill(process: Process, work_dir: Path, moment: str, delay: float) -> bool:
    """Kill the process, only itself, at its moment; return False when it ended before.

    Args:
        moment: "anywhere" is `delay` after its start, "training" so long after it began to train, "checkpoint" in the
            first write after that.
    """
    began = time.monotonic()
    while process.running:
        training = moment == "anywhere" or any(work_dir.glob("*/*/*/.lock"))
        if not training:
            began = time.monotonic()
        elif time.monotonic() - began >= delay and (moment != "checkpoint" or _writing(work_dir)):
            os.kill(process.pid, signal.SIGKILL)
            process.end()
            return True
        time.sleep(0.0005)
    return False


def _writing(work_dir: Path) -> bool:
    return any(work_dir.glob("*/*/*/checkpoints/.*.tmp"))


def orphans_leave(process: Process, seconds: float = 20) -> float:
    """Return the seconds after which no process of a killed training is left.

    Raises:
        AssertionError: some are still there after `seconds`.
    """
    started = time.monotonic()
    while left := relatives(process.pid):
        assert time.monotonic() - started < seconds, left
        time.sleep(0.05)
    return time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    numbers, wrong, kills, trainings, longest = random.Random(options.seed), [], Counter[str](), 0, 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_images(folder / "train", {"ant": 10, "bee": 7, "cat": 6})
        make_images(folder / "val", {"ant": 3, "bee": 3, "cat": 3}, seed=1)
        path, work_dir = folder / "tiny_config.py", folder / "work" / "work_dirs"
        text = TINY.format(train=str(folder / "train"), val=str(folder / "val"), work_dir=str(work_dir))
        path.write_text(text + RICH + SLOW)
        start = time.monotonic()
        straight = Pochi("train", "-c", path, "--set", f"work_dir='{folder}/straight'", output=folder / "straight.txt")
        assert straight.end() == 0, (folder / "straight.txt").read_text()
        usual, expected = time.monotonic() - start, left_behind(folder / "straight")
        while kills.total() < options.kills:
            trainings += 1
            empty(work_dir.parent)
            output = folder / f"{trainings}.txt"
            for _life in range(numbers.randint(1, 5)):
                moment = numbers.choice(["anywhere", "training", "checkpoint", "training"])
                workers = numbers.choice([0, 2])
                process = Pochi("train", "-c", path, "--set", f"num_workers={workers}", output=output)
                delay = numbers.uniform(0, usual if moment == "anywhere" else 2.0)
                if not kill(process, work_dir, moment, delay):
                    break
                kills[f"{moment}, num_workers {workers}"] += 1
                longest = max(longest, orphans_leave(process))
            last = Pochi("train", "-c", path, "--set", f"num_workers={numbers.choice([0, 2])}", output=output)
            code = last.end()
            problems = [f"exit {code}"] if code else differing(left_behind(work_dir), expected)
            problems += [f"stale {name}" for name in temporaries(only_experiment(work_dir).dir)]
            problems += relatives(last.pid)
            if problems:
                wrong.append(problems)
                print(f"training {trainings}: {problems[:5]}\n{output.read_text()}")
        for moment, count in sorted(kills.items()):
            print(f"  {count:4} kills: {moment}")
        print(f"F2: {kills.total()} kills in {trainings} trainings, {trainings - len(wrong)} of them identical;")
        print(f"    the last loading process was gone {longest:.1f} s after a kill, no stale temporaries")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
