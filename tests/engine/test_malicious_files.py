"""A checkpoint or a file of weights from somebody else: reading it never runs what it holds."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pochitrain.engine.checkpoint import MAGIC, Checkpoints, load_weights
from pochitrain.errors import DataError


class Attack:
    """An object whose pickle calls `function(*arguments)` when it is read."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def attacks(sentinel: Path) -> list[Attack]:
    code = f"open({str(sentinel)!r}, 'w').close()"
    nested = pickle.dumps(Attack(exec, code))
    return [
        Attack(os.system, f"touch '{sentinel}'"),
        Attack(eval, code),
        Attack(exec, code),
        Attack(os.mkfifo, str(sentinel)),
        Attack(pickle.loads, nested),
        Attack(subprocess.check_call, ["touch", str(sentinel)]),
        Attack(os.mkdir, str(sentinel)),
        Attack(Path.write_text, sentinel, "x"),
        Attack(Path.touch, sentinel),
        Attack(torch.save, {}, str(sentinel)),
    ]


def disguised(attack: Attack) -> dict[str, bytes]:
    """Return the attack as each kind of file that torch.load has ever read."""
    files = {}
    for kind, new in (("zip", True), ("legacy", False)):
        stream = io.BytesIO()
        torch.save({"model": {"weight": torch.zeros(2)}, "extra": [attack]}, stream, _use_new_zipfile_serialization=new)
        files[kind] = stream.getvalue()
    files["pickle"] = pickle.dumps(attack)
    return files


def remove(sentinel: Path) -> bool:
    """Return whether it was there."""
    if sentinel.is_dir():
        sentinel.rmdir()
    elif sentinel.exists():
        sentinel.unlink()
    else:
        return False
    return True


def test_thirty_malicious_files_are_refused_and_run_nothing(tmp_path: Path) -> None:
    sentinel, weights, directory = tmp_path / "sentinel", tmp_path / "best.pt", tmp_path / "checkpoints"
    directory.mkdir()
    refused = 0
    for attack in attacks(sentinel):
        for kind, raw in disguised(attack).items():
            weights.write_bytes(raw)
            if kind == "pickle":
                pickle.loads(raw)
            else:
                torch.load(weights, weights_only=False)
            assert remove(sentinel), "the attack is no attack"

            with pytest.raises(DataError):
                load_weights(weights)
            digest = hashlib.sha256(raw).digest()
            (directory / "epoch-00001-step-0000000.ckpt").write_bytes(MAGIC + digest + raw)
            with pytest.raises(DataError):
                Checkpoints(directory).load_newest()
            assert not remove(sentinel)
            refused += 1
    assert refused == 30


def test_programs_in_disguise_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)
    with pytest.raises(DataError):
        load_weights(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(DataError):
        load_weights(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'true'\ntR.")
        archive.writestr("archive/version", b"3\n")
    with pytest.raises(DataError):
        load_weights(path)
