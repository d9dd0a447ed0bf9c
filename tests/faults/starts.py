"""Many starts of one experiment at the same moment, and a start right after the one at work was killed.

python -m tests.faults.starts                # 50 times two starts, then 50 starts at once
python -m tests.faults.starts --rounds 5
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.conftest import TINY, make_images
from tests.faults.lives import Life, Work, command, empty, state_at_end

SLOW = """
import time
def train_transform(image):
    time.sleep(0.05)
    return transforms.ToTensor()(image)
epochs = 100
"""


def start_at_once(path: Path, folder: Path, count: int) -> tuple[Life, list[float]]:
    """Start the same training `count` times; return the one that trains, and the seconds until each other one left.

    Raises:
        AssertionError: not exactly one trains, or another one leaves with something else than 75.
    """
    gate = multiprocessing.get_context("fork").Barrier(count + 1)

    def waiting(work: Work) -> Work:
        def work_later() -> None:
            gate.wait()
            work()

        return work_later

    lives = [Life(waiting(command("train", "-c", path)), folder / f"{number}.txt") for number in range(count)]
    gate.wait()
    opened, running, seconds = time.monotonic(), list(lives), []
    while len(running) > 1:
        time.sleep(0.01)
        still = [life for life in running if life.running]
        seconds += [time.monotonic() - opened] * (len(running) - len(still))
        running = still
    codes = Counter(life.end() for life in lives if life not in running)
    assert codes == {75: count - 1}, (codes, [life.said for life in lives])
    return running[0], seconds


def end_and_follow(path: Path, winner: Life, folder: Path) -> float:
    """Kill the one that trains and start it anew; return the seconds until the new one trains."""
    os.kill(winner.pid, signal.SIGKILL)
    winner.end()
    killed = time.monotonic()
    life = Life(command("train", "-c", path, "--epochs", 3), folder / "next.txt")
    life.wait_for("experiment  ")
    seconds = time.monotonic() - killed
    assert life.end() == 0, life.said
    assert state_at_end(path.parent / "work_dirs") == (3, 0)
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="times two starts")
    parser.add_argument("--crowd", type=int, default=50, help="starts at once")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_images(folder / "train", {"ant": 10, "bee": 7, "cat": 6})
        path = folder / "tiny_config.py"
        text = TINY.format(train=str(folder / "train"), val=None, work_dir=str(folder / "work_dirs"))
        path.write_text(text.replace("'None'", "None") + SLOW)
        left, followed = [], []
        for count in [2] * options.rounds + [options.crowd]:
            empty(folder / "work_dirs")
            said = empty(folder / "said")
            winner, seconds = start_at_once(path, said, count)
            left.append(max(seconds))
            followed.append(end_and_follow(path, winner, said))
        print(f"{options.rounds} times 2 starts: 1 trains, the other leaves with 75 after {_times(left[:-1])}")
        print(f"{options.crowd} starts at once: 1 trains, {options.crowd - 1} leave with 75 within {left[-1]:.1f} s")
        print(f"after SIGKILL of the one that trains, the next start trains after {_times(followed)}")
    return 0


def _times(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"{ordered[len(ordered) // 2]:.2f} s (median), {ordered[-1]:.2f} s (most)"


if __name__ == "__main__":
    sys.exit(main())
