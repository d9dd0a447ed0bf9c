"""SIGKILL at every event of a training, and again and again in one training; then compare with the undisturbed run.

    python -m tests.faults.events            # F1 and F3 in full: a table, exit code 1 when anything differs
    python -m tests.faults.events --every 20

The training has everything that draws random numbers (order, augmentation, dropout), layer-wise rates, a scheduler,
momentum, gradient norms, and a checkpoint after each step.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.conftest import TINY, make_images
from tests.faults.lives import RICH, Work, all_events, differing, empty, left_behind, live, temporaries, trained


def write_rich_config(folder: Path) -> Path:
    """Write the images and the config of a training in which everything is random that can be."""
    make_images(folder / "train", {"ant": 10, "bee": 7, "cat": 6})
    make_images(folder / "val", {"ant": 3, "bee": 3, "cat": 3}, seed=1)
    path = folder / "tiny_config.py"
    text = TINY.format(train=str(folder / "train"), val=str(folder / "val"), work_dir=str(folder / "work"))
    path.write_text(text + RICH, encoding="utf-8")
    return path


def kill_and_resume(path: Path, folder: Path, event: str) -> list[str]:
    """Kill a training at an event, let it go on, and return what differs from the undisturbed one in `counted`."""
    work_dir, output = _empty_work_dir(folder), folder / "output.txt"
    output.unlink(missing_ok=True)
    work = trained(path, work_dir=str(work_dir))
    if (code := live(work, output, at=event)) != -9:
        return [f"not killed: exit {code}"]
    return _end(work, work_dir, folder)


def kill_often(path: Path, folder: Path, numbers: random.Random, most: int) -> tuple[int, list[str]]:
    """Kill a training at random events up to `most` times, then let it end; return the kills and what differs."""
    work_dir, output = _empty_work_dir(folder), folder / "output.txt"
    output.unlink(missing_ok=True)
    work, kills = trained(path, work_dir=str(work_dir)), 0
    while kills < most and live(work, output, at=numbers.randint(1, 100)) == -9:
        kills += 1
    return kills, _end(work, work_dir, folder)


def _empty_work_dir(folder: Path) -> Path:
    """Return where nothing is yet, in a folder of the same name as that of `all_events`: events tell it."""
    parent = empty(folder / "killed") / "counted"
    parent.mkdir()
    return parent / "work_dirs"


def _end(work: Work, work_dir: Path, folder: Path) -> list[str]:
    output = folder / "output.txt"
    if (code := live(work, output)) != 0:
        return [f"does not go on: exit {code}\n{output.read_text()}"]
    stale = [f"stale {path.name}" for path in temporaries(work_dir)]
    return stale + differing(left_behind(folder / "counted" / "work_dirs"), left_behind(work_dir))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="kill at every so many events")
    parser.add_argument("--lives", type=int, default=20)
    parser.add_argument("--kills", type=int, default=60, help="at most, in one life")
    options = parser.parse_args()
    started, failures = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = write_rich_config(folder)
        events = all_events(path, folder)
        chosen = events[:: options.every]
        results = {event: kill_and_resume(path, folder, event) for event in chosen}
        print(f"F1: SIGKILL at {len(chosen)} of {len(events)} events, then resume")
        kinds = Counter(event.split()[0] for event in chosen)
        for kind, count in sorted(kinds.items()):
            same = sum(not results[event] for event in chosen if event.split()[0] == kind)
            print(f"  {kind:8} {same:4} of {count:4} identical")
        for event, problems in results.items():
            if problems:
                failures += 1
                print(f"  {event}: {problems[:5]}")
        numbers, kills = random.Random(0), []
        for number in range(options.lives):
            count, problems = kill_often(path, folder, numbers, options.kills)
            kills.append(count)
            if problems:
                failures += 1
                print(f"  life {number}: {problems[:5]}")
        print(f"F3: {options.lives} lives with {sum(kills)} kills ({min(kills)} to {max(kills)} in a life)")
    print(f"{failures} of {len(chosen) + options.lives} differ, {time.monotonic() - started:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
