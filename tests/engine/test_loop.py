"""The loop: exact figures, a stop anywhere, and what ends a run early."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pochitrain import cli
from pochitrain.engine.loop import Diverged, Stop, evaluate, fit
from pochitrain.engine.run import restore, state_of
from pochitrain.errors import ConfigError, DataError, OutOfMemoryError
from pochitrain.history import History
from pochitrain.randomness import permutation
from tests.conftest import make_images
from tests.engine.tiny import NET, fitted, run_of, same_weights, untimed, weights

WriteConfig = Callable[..., Path]

# -- figures


@pytest.mark.parametrize("batch_size", [22, 11, 4, 100])
def test_a_last_batch_of_one_image_does_not_stop_batchnorm(write_config: WriteConfig, batch_size: int) -> None:
    """23 = 22 + 1 = 11 + 11 + 1."""
    run = run_of(write_config(NET), batch_size=batch_size)
    sizes: list[int] = []
    run.model.register_forward_pre_hook(lambda model, inputs: sizes.append(len(inputs[0])) if model.training else None)
    fit(run, [], epochs=2)
    assert sum(sizes) == 2 * 23
    assert min(sizes) > 1


def test_the_figures_of_validation_do_not_depend_on_the_batch_size(write_config: WriteConfig) -> None:
    path = write_config(NET)
    records = [evaluate(run_of(path, batch_size=size)) for size in (1, 2, 4, 8, 100)]
    for record in records[1:]:
        assert record["val_accuracy"] == records[0]["val_accuracy"]
        assert record["val_loss"] == pytest.approx(records[0]["val_loss"], rel=1e-6)


def test_the_confusion_matrix_has_a_row_for_each_true_class(write_config: WriteConfig) -> None:
    run = run_of(write_config(NET))
    record = evaluate(run)
    assert run.confusion is not None
    assert run.val_loader is not None
    expected = torch.zeros(3, 3, dtype=torch.int64)
    with torch.no_grad():
        for images, labels in run.val_loader.epoch(1):
            for label, guess in zip(labels, run.model(images).argmax(1), strict=True):
                expected[label, guess] += 1
    assert torch.equal(run.confusion, expected)
    assert run.confusion.sum(dim=1).tolist() == [3, 3, 3]
    assert not torch.equal(expected, expected.T)
    assert 100 * int(expected.diagonal().sum()) / 9 == pytest.approx(record["val_accuracy"])


def test_without_validation_data(write_config: WriteConfig) -> None:
    run, history = fitted(write_config(NET + "val_data_root = None\n"))
    assert run.val_loader is None
    assert run.confusion is None
    assert list(untimed(history)[0]) == ["epoch", "learning_rate", "train_loss", "train_accuracy"]
    whole, other = fitted(write_config(NET))
    assert same_weights(weights(run), weights(whole)), "validation has no part in the weights"
    assert [record["train_loss"] for record in history] == [record["train_loss"] for record in other]


def test_a_plateau_is_seen_in_the_metric_that_fits_its_mode(write_config: WriteConfig) -> None:
    lines = "scheduler = 'ReduceLROnPlateau'\nscheduler_params = {'mode': %r, 'patience': 0, 'threshold': 0.0}\n"
    for mode in ("min", "max"):
        run = run_of(write_config(NET + lines % mode))
        seen: list[float] = []
        step = run.scheduler.step
        run.scheduler.step = lambda metric, step=step, seen=seen: seen.append(metric) or step(metric)
        history = fit(run, [], epochs=2)
        assert seen == [record["val_loss" if mode == "min" else "val_accuracy"] for record in history]
    run = run_of(write_config(NET + lines % "min" + "val_data_root = None\n"))
    run.scheduler.step = seen.append
    seen.clear()
    history = fit(run, [], epochs=2)
    assert seen == [record["train_loss"] for record in history]


def test_early_stopping_and_a_stop_between_epochs(write_config: WriteConfig) -> None:
    lines = "early_stopping = {'enabled': True, 'patience': 2, 'min_delta': 100.0}\n"
    assert len(fitted(write_config(NET + lines), epochs=9)[1]) == 3, "the first epoch is an improvement, two are not"
    run, history = run_of(write_config(NET)), []
    fit(run, history, epochs=9, stop=lambda: len(history) == 2)
    assert len(history) == 2


def test_saved_before_anybody_is_told(write_config: WriteConfig) -> None:
    calls: list[Any] = []
    run = run_of(write_config(NET))
    observers = [
        lambda record: calls.append(("a", record["epoch"])),
        lambda record: calls.append(("b", record["epoch"])),
    ]
    history = fit(run, [], epochs=2, save=lambda e, h: calls.append(("save", e, len(h))), observers=observers)
    assert calls == [("save", 1, 1), ("a", 1), ("b", 1), ("save", 2, 2), ("a", 2), ("b", 2)]
    assert len(history) == 2


# -- a stop at any step

RICH = """
optimizer = "AdamW"
scheduler = "StepLR"
scheduler_params = {"step_size": 1, "gamma": 0.5}
class_weights = [1.0, 2.0, 0.5]
enable_layer_wise_lr = True
layer_wise_lr_config = {"layer_rates": {"0": 0.05}}
"""


def stopped_at(path: Path, phase: str, step: int, epoch: int) -> tuple[dict[str, Any], int, History]:
    """Return the state of a run that was stopped after a step of an epoch, and the records until then."""
    run, history = run_of(path), []

    def tick(now: str, totals: Any) -> None:
        if now == phase and totals.steps == step and len(history) == epoch - 1:
            raise Stop

    run.tick = tick
    with pytest.raises(Stop):
        fit(run, history, epochs=3)
    return copy.deepcopy(state_of(run)), run.totals.steps, history


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize(("phase", "step"), [*(("train", step) for step in range(1, 7)), ("val", 1), ("val", 2)])
def test_a_run_goes_on_after_any_step_as_if_it_had_never_stopped(
    write_config: WriteConfig, phase: str, step: int, epoch: int
) -> None:
    path = write_config(RICH)
    whole, expected = fitted(path, epochs=3)
    state, done, history = stopped_at(path, phase, step, epoch)
    assert done == (step if phase == "train" else 6)
    run = run_of(path)
    restore(run, state, done)
    fit(run, history, epochs=3)
    assert untimed(history) == untimed(expected)
    assert same_weights(weights(run), weights(whole))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_goes_on_in_low_precision(write_config: WriteConfig, precision: str) -> None:
    path = write_config(RICH + f"precision = {precision!r}\n")
    whole, expected = fitted(path, epochs=3)
    state, done, history = stopped_at(path, "train", 2, epoch=2)
    run = run_of(path)
    restore(run, state, done)
    assert untimed(fit(run, history, epochs=3)) == untimed(expected)
    assert same_weights(weights(run), weights(whole))


def test_the_scale_of_fp16_is_part_of_the_state(write_config: WriteConfig) -> None:
    path = write_config(NET)
    run, other = (run_of(path, precision="fp16") for _number in range(2))
    run.scaler.load_state_dict({**run.scaler.state_dict(), "scale": 8.0})
    restore(other, state_of(run), step=0)
    assert other.scaler.get_scale() == 8.0


def test_a_resume_does_not_read_what_was_done(write_config: WriteConfig, tmp_path: Path) -> None:
    log = tmp_path / "reads"
    lines = f"""
def train_transform(image):
    with open({str(log)!r}, "a") as file:
        file.write("x")
    return transforms.ToTensor()(image)
"""
    path = write_config(lines)
    state, done, history = stopped_at(path, "train", 4, epoch=1)
    run = run_of(path)
    restore(run, state, done)
    log.write_text("")
    fit(run, history, epochs=1)
    assert len(log.read_text()) == 23 - 4 * 4


# -- divergence

LOSS_AT = """
calls = []
def loss(logits, labels):
    value = nn.functional.cross_entropy(logits, labels)
    if logits.requires_grad:
        calls.append(0)
    return value * float({value!r}) if len(calls) == {call} and logits.requires_grad else value
"""


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("call", [1, 8, 12])
def test_a_loss_that_is_no_number_stops_the_run_at_its_step(
    write_config: WriteConfig, images: Path, value: str, call: int
) -> None:
    run = run_of(write_config(LOSS_AT.format(value=value, call=call)))
    run.config.loss.__globals__["calls"].clear()  # those of the check
    history: History = []
    saved: list[int] = []
    with pytest.raises(Diverged) as caught:
        fit(run, history, epochs=3, save=lambda epoch, _history: saved.append(epoch))
    epoch, step = (call - 1) // 6 + 1, (call - 1) % 6 + 1
    assert len(history) == len(saved) == epoch - 1
    details = caught.value.details
    assert (details["epoch"], details["step"]) == (epoch, step)
    paths = [str(path) for path in sorted((images / "train").glob("*/*.png"))]
    order = permutation(23, 42, "order", epoch)
    assert details["files"] == [paths[index] for index in order[(step - 1) * 4 : step * 4]]
    assert details["learning_rate"] == 0.01
    assert details["precision"] == "fp32"
    assert caught.value.exit_code == 4
    assert str(caught.value).startswith(
        f"The loss is no longer finite\n  where: epoch {epoch}, step {step}, learning rate"
    )


def test_weights_that_the_last_step_spoils(write_config: WriteConfig) -> None:
    """Every loss of the epoch is finite, and so its record would be the best one so far."""
    lines = """
class optimizer(torch.optim.SGD):
    steps = 0
    def step(self, closure=None):
        super().step(closure)
        optimizer.steps += 1
        if optimizer.steps == 12:
            with torch.no_grad():
                self.param_groups[0]["params"][0][0] = float("nan")
"""
    run = run_of(write_config(lines), val_data_root=None)
    type(run.optimizer).steps = 0  # type: ignore[attr-defined]
    history: History = []
    with pytest.raises(Diverged) as caught:
        fit(run, history, epochs=3)
    assert len(history) == 1
    assert caught.value.problems[0].what == "The weights are no longer finite"
    assert (caught.value.details["epoch"], caught.value.details["step"]) == (2, 6)
    assert len(caught.value.details["files"]) == 3


def test_a_rate_much_too_high_diverges_for_real(write_config: WriteConfig) -> None:
    lines = "optimizer = 'SGD'\nlearning_rate = 1.0\nloss = lambda logits, labels: (logits ** 4).mean() * 12000\n"
    net = "model = lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.Linear(3, 3))\n"
    history: History = []
    with pytest.raises(Diverged):
        fit(run_of(write_config(net + lines)), history, epochs=50)
    assert all(math.isfinite(record["train_loss"]) for record in history)


# -- memory

HUNGRY = """
class model(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Linear(192, num_classes)
    def forward(self, images):
        if {when}:
            {act}
        return self.body(images.flatten(1))
"""
ACTS = [
    "raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB')",
    "raise MemoryError",
    "torch.empty(1 << 60, dtype=torch.uint8)",
    "raise RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED')",
]


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("when", ["self.training", "not self.training and len(images) > 1"])
def test_memory_that_runs_out_in_training_or_validation(write_config: WriteConfig, when: str, act: str) -> None:
    run = run_of(write_config(HUNGRY.format(when=when, act=act)), batch_size=6)
    with pytest.raises(OutOfMemoryError) as caught:
        fit(run, [], epochs=1)
    [problem] = caught.value.problems
    assert problem.what == "The memory of cpu does not hold a batch of 6 images"
    assert problem.where == "batch_size"
    assert "batch_size = 3" in problem.mend


def test_the_command_says_so_and_exits_with_5(write_config: WriteConfig, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_config(HUNGRY.format(when="self.training", act=ACTS[0]))
    assert cli.run(partial(cli.app, ["train", "--config", str(path)])) == 5
    said = capfd.readouterr().err
    assert "does not hold a batch of 4 images" in said
    assert "batch_size = 2" in said
    assert "Traceback" not in said


def test_other_errors_of_a_model_pass(write_config: WriteConfig) -> None:
    run = run_of(write_config(HUNGRY.format(when="self.training", act="raise RuntimeError('mine')")))
    with pytest.raises(RuntimeError, match="mine"):
        fit(run, [], epochs=1)


def test_batchnorm_on_batches_of_one_says_what_to_change(write_config: WriteConfig) -> None:
    lines = """
model = lambda num_classes: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, num_classes))
"""
    with pytest.raises(ConfigError, match="BatchNorm cannot train on batches of one image"):
        fitted(write_config(lines), batch_size=1)


# -- images that become unreadable while the run goes on


def test_unreadable_images_are_skipped_and_a_lost_folder_is_an_error(write_config: WriteConfig, tmp_path: Path) -> None:
    for name in ("train", "val"):
        make_images(tmp_path / name, {"a": 6, "b": 6})
    path = write_config(NET + "on_bad_image = 'skip'\ncache = 'off'\n", data=tmp_path)
    run = run_of(path)
    history = fit(run, [], epochs=1)
    (tmp_path / "train" / "a" / "000.png").unlink()
    (tmp_path / "val" / "b" / "003.png").write_bytes(b"no image")
    fit(run, history, epochs=2)
    assert run.train_loader.skipped.keys() == {str(tmp_path / "train" / "a" / "000.png")}
    assert run.val_loader is not None
    assert run.val_loader.skipped.keys() == {str(tmp_path / "val" / "b" / "003.png")}
    assert run.confusion is not None
    assert int(run.confusion.sum()) == 11
    assert all(math.isfinite(value) for value in history[1].values())
    (tmp_path / "train").rename(tmp_path / "gone")
    with pytest.raises(DataError, match="No image of epoch 3 could be read"):
        fit(run, history, epochs=3)
