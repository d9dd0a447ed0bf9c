"""Two machines on one study: two processes with folders of their own, and PostgreSQL as the documentation starts it."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pochitrain import load_config, optimize
from pochitrain.experiment import find_experiments
from pochitrain.reports.trials import COMPLETE
from tests.tasks.test_optimize import search_elsewhere, statistics, trials

WriteConfig = Callable[..., Path]

PAGE = Path(__file__).parents[2] / "docs" / "optimize.md"
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))  # where Debian puts them
PASSWORD = "choose-a-password"

pytestmark = [
    pytest.mark.skipif(not BINARIES, reason="PostgreSQL is not installed (apt-get install postgresql)"),
    pytest.mark.skipif(not importlib.util.find_spec("psycopg"), reason="psycopg is not installed"),
]


def documented(marker: str) -> str:
    """Return the shell block of the documentation that holds `marker`."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (found,) = (block for block in blocks if marker in block)
    return str(found)


@pytest.fixture
def server() -> Iterator[str]:
    """Return the URL of a PostgreSQL that was started by the documented lines, on a port that is free."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # short: the path of a socket has a hundred letters at most
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = pwd.getpwnam("postgres").pw_name
        shutil.chown(folder, user)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "PGPORT": port, "HOME": str(folder), "LC_ALL": "C.UTF-8"}

    def shell(lines: str) -> None:
        command = ["bash", "-euc", lines]
        done = subprocess.run(
            command, cwd=folder, user=user, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout

    shell(documented("initdb -D study_db"))
    try:
        yield f"postgresql://optuna:{PASSWORD}@localhost:{port}/study"
    finally:
        shell(f"{BINARIES[-1].parent}/pg_ctl -D study_db -m immediate stop")
        shutil.rmtree(folder)


def test_two_machines_share_one_study(write_config: WriteConfig, tmp_path: Path, server: str) -> None:
    lines = f"""
import time
from pathlib import Path
_met = Path({str(tmp_path)!r})
def train_epoch(run, epoch):
    (_met / f"at-{{Path(run.config.work_dir).name}}").touch()
    while not ((_met / "at-one").exists() and (_met / "at-other").exists()):
        time.sleep(0.05)
    time.sleep(0.05)
    return {{"train_loss": float(run.config.seed), "train_accuracy": 0.0}}
optuna = {{"n_trials": 10, "optuna_epochs": 2, "metric": "train_loss", "direction": "minimize", "pruner": None,
          "sampler": "RandomSampler", "storage": {server!r},
          "search_space": {{"seed": {{"type": "int", "low": 1, "high": 10**9}}}}}}
"""
    path = write_config(lines)
    one, other = tmp_path / "one", tmp_path / "other"
    process = multiprocessing.get_context("forkserver").Process(target=search_elsewhere, args=(path, one), daemon=False)
    process.start()
    found = optimize(load_config(path), other)
    process.join(60)
    assert process.exitcode == 0
    assert [row.state for row in found.rows] == [COMPLETE] * 10
    assert len({row.point["seed"] for row in found.rows}) == 10
    assert [entry["value"] for entry in trials(one)] == [entry["value"] for entry in trials(other)]
    shares = [{info.task for info in find_experiments(folder)} for folder in (one, other)]
    assert all(shares)
    assert not shares[0] & shares[1]
    assert len(shares[0] | shares[1]) == 10
    assert statistics(one)["best_trial"] == statistics(other)["best_trial"]
    for folder in (one, other):
        for file in folder.rglob("*"):
            if file.is_file() and file.name not in ("config.py", "optimized_config.py"):
                assert PASSWORD.encode() not in file.read_bytes(), file
