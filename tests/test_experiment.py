"""Folders, names and the lock of experiments."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pochitrain.errors import AlreadyRunningError, ConfigError, DataError
from pochitrain.experiment import (
    Experiment,
    find_experiment,
    find_experiments,
    holder,
    lock,
    read_manifest,
    set_aside,
    write_manifest,
)

A, B, C = "ab12" * 16, "ab34" * 16, "cd56" * 16


def made(work_dir: Path, full_id: str, status: str | None = "complete", task: str = "cats") -> Experiment:
    experiment = Experiment.at(work_dir, task, "resnet18", full_id)
    experiment.dir.mkdir(parents=True)
    write_manifest(experiment, {"status": status} if status else {})
    return experiment


def test_the_folder_is_named_by_twelve_digits(tmp_path: Path) -> None:
    experiment = Experiment.at(tmp_path, "cats", "resnet18", A)
    assert experiment.dir == tmp_path / "cats" / "resnet18" / "ab12ab12ab12"
    assert experiment.best_pt == experiment.dir / "best.pt"
    assert list(tmp_path.iterdir()) == []


def test_two_ids_with_the_same_twelve_digits_do_not_share_a_folder(tmp_path: Path) -> None:
    made(tmp_path, A)
    assert Experiment.at(tmp_path, "cats", "resnet18", A).id == A
    with pytest.raises(DataError, match=A):
        Experiment.at(tmp_path, "cats", "resnet18", A[:12] + "f" * 52)


def test_manifest_comes_back_with_the_id(tmp_path: Path) -> None:
    experiment = made(tmp_path, A)
    write_manifest(experiment, {"status": "stopped", "tags": ["猫"]})
    assert read_manifest(experiment) == {"id": A, "status": "stopped", "tags": ["猫"]}


def test_find_experiments_reports_each_with_its_status(tmp_path: Path) -> None:
    complete, interrupted = made(tmp_path, A), made(tmp_path, B, status=None, task="dogs")
    broken = made(tmp_path, C)
    broken.experiment_json.write_text("[1")
    (tmp_path / "cats" / "resnet18" / "notes").mkdir()
    (tmp_path / "cats" / "resnet18" / ("0" * 12)).write_text("a file, not an experiment")
    infos = find_experiments(tmp_path)
    assert [(info.experiment, info.task, info.status) for info in infos] == [
        (complete, "cats", "complete"),
        (Experiment(broken.dir, broken.dir.name), "cats", "broken"),
        (interrupted, "dogs", "interrupted"),
    ]
    with lock(complete), lock(broken):
        assert [info.status for info in find_experiments(tmp_path)] == ["running", "running", "interrupted"]
    assert find_experiments(tmp_path / "absent") == []


def test_an_experiment_is_found_by_prefix_folder_and_file(tmp_path: Path) -> None:
    work_dir = tmp_path / "work"
    first = made(work_dir, A)
    made(work_dir, B)
    first.checkpoints_dir.mkdir()
    checkpoint = first.checkpoints_dir / "epoch-00001-step-0000000.ckpt"
    checkpoint.touch()
    for text in ("ab1", "AB12", A, str(first.dir), str(checkpoint), os.path.relpath(first.experiment_json)):
        found = find_experiment(work_dir, text)
        assert (found.id, found.dir.resolve()) == (A, first.dir.resolve())
    moved = first.dir.rename(tmp_path / "moved")
    assert find_experiment(work_dir, str(moved)) == Experiment(moved, A)


def test_a_name_that_fits_none_or_many_lists_the_candidates(tmp_path: Path) -> None:
    made(tmp_path, A)
    made(tmp_path, B)
    with pytest.raises(ConfigError, match=r"More than one experiment begins with ab") as many:
        find_experiment(tmp_path, "ab")
    assert "ab12ab12ab12  cats/resnet18  complete" in str(many.value)
    assert "ab34ab34ab34" in str(many.value)
    with pytest.raises(ConfigError, match=r"No experiment is meant by ab13ab\n +ab12ab12ab12"):
        find_experiment(tmp_path, "ab13ab")
    with pytest.raises(ConfigError, match="No experiment"):
        find_experiment(tmp_path, "")
    with pytest.raises(ConfigError, match="No experiment is meant by"):
        find_experiment(tmp_path, str(tmp_path))


def test_set_aside_renames_to_the_next_free_number_and_hides(tmp_path: Path) -> None:
    asides = []
    for _round in range(2):
        asides.append(set_aside(made(tmp_path, A)).name)
    assert asides == ["ab12ab12ab12.old-1", "ab12ab12ab12.old-2"]
    assert find_experiments(tmp_path) == []
    running = made(tmp_path, A)
    with lock(running), pytest.raises(AlreadyRunningError):
        set_aside(running)
    assert running.experiment_json.exists()


def test_a_second_taker_learns_who_runs(tmp_path: Path) -> None:
    experiment = Experiment.at(tmp_path, "cats", "resnet18", A)
    assert holder(experiment) is None
    assert not experiment.dir.exists()
    with lock(experiment):
        who = holder(experiment)
        assert who is not None
        assert who["pid"] == os.getpid()
        begin = time.monotonic()
        with pytest.raises(AlreadyRunningError, match=f"process {os.getpid()} on") as caught, lock(experiment):
            pass
        assert time.monotonic() - begin < 2
        assert caught.value.exit_code == 75
        assert "pytest" in str(caught.value)
    assert holder(experiment) is None
    with lock(experiment):
        pass


def test_a_folder_set_aside_at_the_last_moment_is_not_taken_for_the_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, real_flock = made(tmp_path, A), fcntl.flock

    def overtaken(descriptor: int, kind: int) -> None:
        monkeypatch.undo()
        experiment.dir.rename(tmp_path / "aside")
        real_flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", overtaken)
    with lock(experiment):
        assert holder(experiment) is not None
        assert not experiment.experiment_json.exists()


def test_looking_does_not_keep_anybody_out(tmp_path: Path) -> None:
    experiment = made(tmp_path, A)
    script = f"""
import pathlib
from pochitrain.experiment import Experiment, holder
experiment = Experiment(pathlib.Path({str(experiment.dir)!r}), {A!r})
print("looking", flush=True)
while True:
    holder(experiment)
"""
    looker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert looker.stdout is not None
    try:
        assert looker.stdout.readline() == b"looking\n"
        for _round in range(300):
            with lock(experiment):
                pass
    finally:
        looker.kill()
        looker.communicate()


STARTS = """
import os, pathlib, sys, time
from pochitrain.errors import AlreadyRunningError
from pochitrain.experiment import Experiment, lock

experiment = Experiment(pathlib.Path(sys.argv[1]) / "t" / "m" / ("a" * 12), "a" * 64)
for _round in range(10):
    go, begin = os.pipe()
    end, done = os.pipe()
    children = []
    for _child in range(5):
        if (pid := os.fork()) == 0:
            os.close(begin)
            os.close(done)
            os.read(go, 1)  # all start together
            code = 0
            started = time.monotonic()
            try:
                with lock(experiment):
                    os.read(end, 1)  # at work until all others are gone
            except AlreadyRunningError as error:
                code = error.exit_code if time.monotonic() - started < 2 else 1
            os._exit(code)
        children.append(pid)
    os.close(begin)
    codes = [os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1]) for _ in range(4)]
    os.close(done)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1]))
    print(*codes)
"""


def test_of_five_starts_at_once_one_runs(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", STARTS, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["75 75 75 75 0"] * 10


HOLDER = """
import fcntl, os, pathlib, subprocess, sys, time
from pochitrain.experiment import Experiment, lock

experiment = Experiment(pathlib.Path(sys.argv[1]), "a" * 64)
plain = open(sys.argv[2], "w")
fcntl.flock(plain, fcntl.LOCK_EX)
with lock(experiment):
    if (orphan := os.fork()) == 0:
        time.sleep(60)
        os._exit(0)
    command = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
    print(orphan, command.pid, flush=True)
    time.sleep(60)
"""


def test_the_lock_goes_with_a_killed_holder_whose_children_live_on(tmp_path: Path) -> None:
    experiment, plain = made(tmp_path, A), made(tmp_path, B)
    arguments = [sys.executable, "-c", HOLDER, str(experiment.dir), str(plain.dir / ".lock")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    assert process.stdout is not None
    orphans = [int(pid) for pid in process.stdout.readline().split()]
    try:
        assert holder(experiment) is not None
        process.kill()
        process.wait()
        for orphan in orphans:
            os.kill(orphan, 0)  # alive
        with lock(experiment):
            pass
        assert holder(plain) is not None  # a lock that a forked child shares would still be held
    finally:
        process.stdout.close()
        for orphan in orphans:
            os.kill(orphan, signal.SIGKILL)
