"""Checkpoints: what comes back, what a damaged file does, and what the training thread waits for."""

from __future__ import annotations

import hashlib
import io
import os
import random
import resource
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pochitrain import durable
from pochitrain.engine.checkpoint import HEADER_BYTES, Checkpoints, load_weights, save_weights
from pochitrain.errors import ConfigError, DataError, DiskError


def small_state(number: int = 1) -> dict[str, Any]:
    return {"weight": torch.full((4, 3), float(number)), "history": [{"epoch": number, "train_loss": 1 / 3}]}


def saved(directory: Path, count: int = 2) -> Checkpoints:
    with Checkpoints(directory) as checkpoints:
        for epoch in range(1, count + 1):
            checkpoints.save(epoch, 0, small_state(epoch))
    return checkpoints


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# ------------------------------------------------------------------------------------------------------ what comes back


def test_a_training_comes_back_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 1, 3])
    model(torch.rand(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    scheduler.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "history": [{"epoch": 1, "loss": float("nan"), "score": np.float64(0.1), "名": ("a", None, True)}],
    }
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(7, 3, state)
    loaded = checkpoints.load_newest()
    assert loaded is not None
    assert (loaded.epoch, loaded.step, loaded.damaged) == (7, 3, ())
    back = loaded.state
    assert back["model"]._metadata == model.state_dict()._metadata  # torchvision's MNASNet refuses a state without
    for name, tensor in model.state_dict().items():
        assert torch.equal(back["model"][name], tensor)
        assert back["model"][name].stride() == tensor.stride()
    for index, slots in optimizer.state_dict()["state"].items():
        assert all(torch.equal(back["optimizer"]["state"][index][name], slot) for name, slot in slots.items())
    assert back["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
    scheduler.load_state_dict(back["scheduler"])
    assert list(scheduler.milestones.elements()) == [1, 1, 3]
    record = back["history"][0]
    assert type(record["score"]) is float
    assert record["名"] == ("a", None, True)


def test_what_is_saved_is_the_moment_of_the_call(tmp_path: Path) -> None:
    state = small_state(1)
    with Checkpoints(tmp_path) as checkpoints:
        for epoch in (1, 2, 3):
            state["weight"].fill_(epoch)
            checkpoints.save(epoch, 0, state)
            state["weight"].fill_(-1)
            state["history"][0]["epoch"] = -1
            state["history"][0]["epoch"] = epoch + 1
    loaded = checkpoints.load_newest()
    assert loaded is not None
    assert loaded.state["weight"].eq(3).all()
    assert loaded.state["history"][0]["epoch"] == 3


def test_progress_orders_the_checkpoints_and_the_newest_stay(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for epoch, step in ((0, 5), (0, 10), (1, 0), (1, 2), (1, 10), (2, 0)):
            checkpoints.save(epoch, step, small_state())
    assert names(tmp_path) == [
        "epoch-00001-step-0000002.ckpt",
        "epoch-00001-step-0000010.ckpt",
        "epoch-00002-step-0000000.ckpt",
    ]


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path)
    for age, path in enumerate(sorted(tmp_path.iterdir())):
        os.utime(path, (2_000_000_000 - age * 40_000_000,) * 2)  # the newest looks a year older than the one before
    checkpoints.save(3, 0, small_state(3))
    checkpoints.wait()
    os.utime(tmp_path / "epoch-00003-step-0000000.ckpt", (0, 0))
    loaded = checkpoints.load_newest()
    assert loaded is not None
    assert loaded.epoch == 3
    assert names(tmp_path) == ["epoch-00002-step-0000000.ckpt", "epoch-00003-step-0000000.ckpt"]


def test_then_runs_when_the_checkpoint_is_there(tmp_path: Path) -> None:
    found: list[int] = []

    def look(_state: Any) -> None:
        loaded = Checkpoints(tmp_path).load_newest()
        found.append(loaded.epoch if loaded else 0)

    with Checkpoints(tmp_path) as checkpoints:
        for epoch in (1, 2, 3):
            checkpoints.save(epoch, 0, small_state(epoch), then=look)
    assert found == [1, 2, 3]


def test_then_gets_the_state_as_it_was(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []
    release, weight = threading.Event(), torch.ones(3)

    def look(state: dict[str, Any]) -> None:
        release.wait(10)
        seen.append(state["weight"].clone())

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, 0, {"weight": weight}, then=look)
        weight.zero_()
        release.set()
    assert torch.equal(seen[0], torch.ones(3))


def test_a_second_save_waits_for_the_first(tmp_path: Path) -> None:
    release, order = threading.Event(), list[str]()

    def first(_state: Any) -> None:
        release.wait(10)
        order.append("first is done")

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, 0, small_state(), then=first)
        order.append("save has returned")
        threading.Timer(0.05, release.set).start()
        checkpoints.save(2, 0, small_state())
        order.append("second save has returned")
    assert order == ["save has returned", "first is done", "second save has returned"]


def test_an_error_of_the_writer_is_raised_once_by_the_next_call(tmp_path: Path) -> None:
    error = OSError("the renderer met an error")

    def fail(_state: Any) -> None:
        raise error

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, 0, small_state(), then=fail)
    with pytest.raises(OSError, match="renderer") as caught:
        checkpoints.save(2, 0, small_state())
    assert caught.value is error
    checkpoints.save(2, 0, small_state())
    checkpoints.close()
    assert len(names(tmp_path)) == 2


def test_a_state_with_foreign_objects_is_refused_by_name(tmp_path: Path) -> None:
    state = {"optimizer": {"state": [1, {"rule": object()}]}}
    with pytest.raises(ConfigError, match=r"object: state\['optimizer'\]\['state'\]\[1\]\['rule'\]"):
        Checkpoints(tmp_path).save(1, 0, state)
    assert names(tmp_path) == []


def test_saving_holds_no_second_copy(tmp_path: Path) -> None:
    state = {"weight": torch.zeros(8 << 20, dtype=torch.uint8)}
    tracemalloc.start()
    try:
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(1, 0, state)
        peak = tracemalloc.get_traced_memory()[1]  # the copy of the tensor itself is torch's, and not counted
    finally:
        tracemalloc.stop()
    assert peak < 3 << 20


# -------------------------------------------------------------------------------------------------------------- damage


def damaged_copies(raw: bytes) -> Iterator[bytes]:
    for percent in range(0, 100, 5):
        yield raw[: len(raw) * percent // 100]
    shuffled = random.Random(0)
    for position in shuffled.sample(range(len(raw) * 8), 200):
        flipped = bytearray(raw)
        flipped[position // 8] ^= 1 << position % 8
        yield bytes(flipped)
    yield shuffled.randbytes(len(raw))
    yield raw + b"\0"


def test_every_damage_is_noticed_and_the_checkpoint_before_is_used(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path)
    newest = tmp_path / "epoch-00002-step-0000000.ckpt"
    count = 0
    for damaged in damaged_copies(newest.read_bytes()):
        newest.write_bytes(damaged)
        loaded = checkpoints.load_newest()
        assert loaded is not None
        assert (loaded.epoch, loaded.damaged) == (1, (newest,))
        assert loaded.state["weight"].eq(1).all()
        count += 1
    assert count == 222


def test_nothing_but_damaged_checkpoints_is_an_error_that_deletes_nothing(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    before = names(tmp_path)
    with pytest.raises(DataError, match=r"epoch-00002-step-0000000.ckpt, epoch-00001.*\n.*\n.*--restart") as caught:
        checkpoints.load_newest()
    assert caught.value.exit_code == 3
    assert names(tmp_path) == before
    assert Checkpoints(tmp_path / "absent").load_newest() is None


def test_damaged_checkpoints_ahead_do_not_push_out_the_good_ones(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, 0, small_state(1))
        for step in (50, 60):
            (tmp_path / f"epoch-00001-step-00000{step}.ckpt").write_bytes(b"damaged")
        checkpoints.save(1, 40, small_state(2))
    assert names(tmp_path) == ["epoch-00001-step-0000000.ckpt", "epoch-00001-step-0000040.ckpt"]


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        checkpoints.save(2, 0, {"weight": torch.zeros(1_000_000)})
        with pytest.raises(DiskError, match="epoch-00002") as caught:
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == 74
    assert names(tmp_path) == ["epoch-00001-step-0000000.ckpt"]
    checkpoints.save(2, 0, small_state(2))  # space was made
    checkpoints.wait()
    loaded = checkpoints.load_newest()
    assert loaded is not None
    assert loaded.epoch == 2


# -------------------------------------------------------------------------------------------------------- weight files


def test_weights_are_a_plain_file_of_torch(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    path = tmp_path / "best.pt"
    save_weights(path, {"model": model.state_dict(), "class_names": ["猫", "犬"], "parameter": model.weight})
    for payload in (load_weights(path), torch.load(path, weights_only=True)):
        assert torch.equal(payload["model"]["weight"], model.weight)
        assert payload["class_names"] == ["猫", "犬"]
        assert not payload["parameter"].requires_grad
    assert names(tmp_path) == ["best.pt"]


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    save_weights(path, small_state())
    refused = 0
    for damaged in damaged_copies(path.read_bytes()):
        path.write_bytes(damaged)
        try:
            payload = load_weights(path)
        except DataError:
            refused += 1
        else:  # padding, or a field that nothing depends on
            assert torch.equal(payload["weight"], small_state()["weight"])
            assert payload["history"] == small_state()["history"]
    assert refused > 100
    with pytest.raises(DataError, match="No such file"):
        load_weights(tmp_path / "absent.pt")


def test_the_header_is_what_the_format_says(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    raw = (tmp_path / "epoch-00001-step-0000000.ckpt").read_bytes()
    assert raw[:8] == b"POCHICK1"
    assert raw[8:40] == hashlib.sha256(raw[40:]).digest()
    assert HEADER_BYTES == 40
    assert torch.load(io.BytesIO(raw[40:]), weights_only=True)["history"][0]["epoch"] == 1


def test_every_step_of_a_save_can_be_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(durable, "event", lambda what, *paths: events.append(what))
    monkeypatch.setattr(durable, "CHUNK_BYTES", 1 << 10)
    saved(tmp_path, 3)
    assert events.count("chunk") >= 9
    assert events[-5:] == ["chunk", "fsync", "rename", "dirsync", "unlink"]
