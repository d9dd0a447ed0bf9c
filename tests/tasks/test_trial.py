"""A trial is a training: every setting can be searched, and changes what it should."""

from __future__ import annotations

import gc
import json
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pochitrain import load_config, train
from pochitrain.config.describe import plain_settings
from pochitrain.config.loader import replace_settings
from pochitrain.config.words import inner_model, walk_settings
from pochitrain.data.source import load_data
from pochitrain.engine.checkpoint import load_weights
from pochitrain.experiment import Experiment, lock
from pochitrain.history import TIMING, History, best_epoch
from pochitrain.reports.trials import COMPLETE, FAILED, INTERRUPTED, PRUNED
from pochitrain.tasks.optimized_config import optimized_text
from pochitrain.tasks.search_space import FIXED, check_space, counts_for_identity
from pochitrain.tasks.trial import Trainer, Work, check_metrics, objective
from tests.conftest import make_images

WriteConfig = Callable[..., Path]

LAYERS = """
class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, num_classes)
    def forward(self, images):
        return self.fc(torch.relu(self.conv1(images)).mean((2, 3)))
model = Net
enable_layer_wise_lr = True
layer_wise_lr_config = {"layer_rates": {"conv1": 0.01, "fc": 0.01}}
"""
PARTS = """
def other(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, num_classes))
def squares(logits, labels):
    return (logits - nn.functional.one_hot(labels, logits.shape[1])).square().mean()
class Squares(torch.utils.data.Dataset):
    def __init__(self, count):
        self.targets = [n % 3 for n in range(count)]
    def __len__(self):
        return len(self.targets)
    def __getitem__(self, n):
        return torch.full((3, 8, 8), self.targets[n] / 3), self.targets[n]
def twelve(split):
    return Squares(12)
def nine(split):
    return Squares(9)
def adapt():
    return {"batch_size": 3}
def adapt_too():
    return {"batch_size": 5}
def lazy(run, epoch):
    return {"train_loss": 1.0, "train_accuracy": 0.0}
def noted(record):
    pass
def drawn(history):
    pass
flipped = transforms.Compose([transforms.RandomHorizontalFlip(p=1), transforms.ToTensor()])
dark = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])
"""

LARGER = "train_transform = val_transform = transforms.Compose([transforms.Resize(32), transforms.ToTensor()])"

# Setting → two values, and the lines of the file that make it matter. A text in | | names something in PARTS.
VALUES: dict[str, tuple[Any, Any, str]] = {
    "train_data_root": ("{train}", "{half}", ""),
    "val_data_root": ("{val}", "auto", ""),
    "val_fraction": (0.2, 0.5, "val_data_root = 'auto'"),
    "group_by": (None, "[0-9].png", "val_data_root = 'auto'"),
    "train_transform": ("|dark|", "|flipped|", ""),
    "val_transform": ("|dark|", "|flipped|", ""),
    "batch_size": (4, 8, ""),
    "num_workers": (0, 1, ""),
    "worker_timeout_seconds": (30, 60, ""),
    "pin_memory": (None, False, ""),
    "cache": ("off", "memory", ""),
    "cache_gb": (0.1, 0.2, ""),
    "on_bad_image": ("error", "skip", ""),
    "model_name": ("resnet18", "squeezenet1_1", "model = None\npretrained = False\n" + LARGER),
    "model": ("|model|", "|other|", ""),
    "num_classes": (None, 3, ""),
    "pretrained": (False, True, "model = None\nmodel_name = 'squeezenet1_1'\n" + LARGER),
    "epochs": (1, 2, ""),
    "learning_rate": (0.01, 0.02, ""),
    "optimizer": ("Adam", "SGD", ""),
    "optimizer_params": ({"weight_decay": 0.0}, {"weight_decay": 0.5}, ""),
    "scheduler": (None, "ExponentialLR", "scheduler_params = {'gamma': 0.5}"),
    "scheduler_params": ({"gamma": 0.5}, {"gamma": 0.9}, "scheduler = 'ExponentialLR'"),
    "scheduler_gamma": (0.5, 0.9, "scheduler = 'ExponentialLR'"),
    "enable_layer_wise_lr": (True, False, LAYERS + "layer_wise_lr_config = {'layer_rates': {'fc': 0.001}}"),
    "layer_wise_lr_config.layer_rates": ({"fc": 0.01}, {"fc": 0.1}, LAYERS),
    "layer_wise_lr_config.layer_rates.fc": (0.01, 0.1, LAYERS),
    "layer_wise_lr_config.graph_config.use_log_scale": (True, False, LAYERS),
    "class_weights": ("uniform", [1.0, 5.0, 9.0], ""),
    "loss": (None, "|squares|", ""),
    "dataset": ("|nine|", "|twelve|", "val_data_root = None\noptuna = {'metric': 'train_loss', 'direction': 'minimize'}"),
    "adapter": ("|adapt|", "|adapt_too|", "del batch_size"),
    "train_epoch": (None, "|lazy|", ""),
    "early_stopping.enabled": (False, True, "early_stopping = {'patience': 1, 'min_delta': 200.0}"),
    "early_stopping.patience": (1, 2, "early_stopping = {'enabled': True, 'min_delta': 200.0}"),
    "early_stopping.min_delta": (0.0, 200.0, "early_stopping = {'enabled': True, 'patience': 1, 'monitor': 'val_loss'}"),
    "early_stopping.monitor": ("val_accuracy", "val_loss", ""),
    "seed": (1, 2, ""),
    "device": ("cpu", None, ""),
    "precision": ("fp32", "bf16", ""),
    "channels_last": (False, True, ""),
    "compile": (False, False, ""),  # compiling takes half a minute
    "cudnn_benchmark": (False, True, ""),
    "tags": (["a"], ["b", "c"], ""),
    "notes": ("a", "b", ""),
    "enable_metrics_export": (True, False, ""),
    "enable_tensorboard": (False, True, ""),
    "enable_gradient_tracking": (False, True, ""),
    "gradient_tracking_config.record_frequency": (1, 2, "enable_gradient_tracking = True"),
    "gradient_tracking_config.exclude_patterns": ([], ["^0"], "enable_gradient_tracking = True"),
    "gradient_tracking_config.group_by_block": (True, False, "enable_gradient_tracking = True"),
    "gradient_tracking_config.aggregation_method": ("median", "max", "enable_gradient_tracking = True\ngradient_tracking_config = {'exclude_patterns': []}"),
    "confusion_matrix_config.title": ("a", "b", ""),
    "confusion_matrix_config.xlabel": ("a", "b", ""),
    "confusion_matrix_config.ylabel": ("a", "b", ""),
    "confusion_matrix_config.fontsize": (9, 10, ""),
    "confusion_matrix_config.title_fontsize": (9, 10, ""),
    "confusion_matrix_config.label_fontsize": (9, 10, ""),
    "confusion_matrix_config.figsize": ([4, 3], [8, 6], ""),
    "confusion_matrix_config.cmap": ("Blues", "Greens", ""),
    "checkpoint_every_minutes": (None, 1e-9, ""),
    "observers": ([], ["|noted|"], ""),
    "plots": ([], ["|drawn|"], ""),
    "log_level": ("info", "debug", ""),
    "print_config": (False, True, ""),
    "enforce_tags": (False, True, ""),
    "ignore_warnings": (False, True, ""),
}  # fmt: skip
# In the identity, and yet the weights may come out equal here: no image is bad.
NOTHING_TO_SEE = ("on_bad_image",)
# Outside the identity, and yet the records show it: how long, on which images, what is recorded.
SEEN = (
    "train_data_root", "val_data_root", "val_fraction", "group_by", "epochs", "early_stopping.enabled",
    "early_stopping.patience", "early_stopping.min_delta", "enable_gradient_tracking",
    "gradient_tracking_config.record_frequency", "gradient_tracking_config.exclude_patterns",
    "gradient_tracking_config.group_by_block", "gradient_tracking_config.aggregation_method",
)  # fmt: skip
ROUNDED = ("channels_last", "cudnn_benchmark", "device")  # may change rounding


def untimed(history: History) -> History:
    return [{name: value for name, value in record.items() if name not in TIMING} for record in history]


def always(_record: Any) -> bool:
    return True


def leaves() -> list[str]:
    """Return every setting that a trial can be given; a dict-valued one by its members."""
    return [name for name, info in walk_settings() if inner_model(info) is None and name.split(".")[0] not in FIXED]


def test_every_setting_has_two_values_here() -> None:
    assert set(leaves()) <= set(VALUES)


@pytest.mark.parametrize("name", VALUES)
def test_a_searched_setting_changes_what_it_should(
    write_config: WriteConfig, images: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, lines = VALUES[name]
    if name == "train_data_root":
        make_images(tmp_path / "half", {"ant": 4, "bee": 3, "cat": 3})
    if name == "pretrained":
        monkeypatch.setattr("pochitrain.parts.models.torchvision.models.get_model", _without_network)
    places = {"train": images / "train", "val": images / "val", "half": tmp_path / "half"}
    spelled = [_spelled(value, places) for value in (first, second)]
    space = f"{{{name!r}: {{'type': 'categorical', 'choices': [{spelled[0]}, {spelled[1]}]}}}}"
    if first == second:
        space = f"{{{name!r}: {{'type': 'categorical', 'choices': [{spelled[0]}]}}}}"
    path = write_config(f"{PARTS}{lines}\noptuna = {{'search_space': {space}, **globals().get('optuna', {{}})}}")
    config = load_config(path)
    data = load_data(config)
    check_space(config, data)
    trainer, outcomes = Trainer(config, data), []
    for number, label in enumerate(config.optuna.dimensions()[0].labels):
        fixed = {"work_dir": str(tmp_path / "study"), "task": f"trial-{number}", "epochs": 3}
        outcomes.append(trainer.run(Work(number, {name: label}, fixed), always, lambda history: True))
        assert outcomes[-1].status == COMPLETE, outcomes[-1]
        written = json.loads((Path(outcomes[-1].folder) / "config.json").read_text())
        top, _dot, _rest = name.partition(".")
        if top in written:
            meant = replace_settings(config, {name: config.optuna.dimensions()[0].value(label)})
            assert written[top] == plain_settings(meant)[top]
    if len(outcomes) == 1:
        return
    one, other = outcomes
    in_identity = counts_for_identity(name)
    data_changes = name in ("train_data_root", "val_data_root", "val_fraction", "group_by")
    assert (one.experiment != other.experiment) == (in_identity or data_changes)
    if (in_identity or name in SEEN) and name not in NOTHING_TO_SEE:
        assert untimed(one.history) != untimed(other.history)
    elif name not in ROUNDED:
        assert untimed(one.history) == untimed(other.history)


def _spelled(value: Any, places: dict[str, Path]) -> str:
    """Return a value as one writes it in the file."""
    if isinstance(value, str):
        return value.strip("|") if value.startswith("|") else repr(value.format(**places) if "{" in value else value)
    return f"[{', '.join(_spelled(item, places) for item in value)}]" if isinstance(value, list) else repr(value)


def _without_network(name: str, weights: Any = None, **more: Any) -> Any:
    import torchvision

    model = torchvision.models.list_models  # the name is real; its weights would be fetched
    assert name in model(module=torchvision.models)
    made = getattr(torchvision.models, name)(weights=None, **more)
    if weights is not None:
        with torch.no_grad():
            next(made.parameters()).zero_()
    return made


# ------------------------------------------------------------------------------------------------- the same as a training


@pytest.fixture
def trainer(write_config: WriteConfig) -> Callable[..., tuple[Trainer, dict[str, Any]]]:
    def make(lines: str = "", **fixed: Any) -> tuple[Trainer, dict[str, Any]]:
        config = load_config(write_config(lines))
        work_dir = Path(config.work_dir) / "study"
        return Trainer(config), {"work_dir": str(work_dir), "task": "trial-0000", "epochs": 3, **fixed}

    return make


def test_without_suggestions_a_trial_is_a_training_to_the_bit(
    write_config: WriteConfig, trainer: Callable[..., tuple[Trainer, dict[str, Any]]]
) -> None:
    lines = "scheduler, scheduler_params = 'StepLR', {'step_size': 1, 'gamma': 0.5}\nenable_gradient_tracking = True"
    trained = train(load_config(write_config(lines), {"epochs": 3}))
    own, fixed = trainer(lines)
    outcome = own.run(Work(0, {}, fixed), always, lambda history: True)
    assert untimed(outcome.history) == untimed(trained.history)
    assert outcome.experiment == trained.experiment.id
    assert outcome.values == [trained.metric]
    ours, theirs = (load_weights(place / "best.pt") for place in (Path(outcome.folder), trained.experiment.dir))
    assert all(torch.equal(ours["model"][name], theirs["model"][name]) for name in theirs["model"])
    assert ours["epoch"] == theirs["epoch"] == best_epoch(trained.history, "val_accuracy")
    assert torch.equal(ours["confusion_matrix"], theirs["confusion_matrix"])


APART = """
def train_epoch(run, epoch):  # always one class: all accuracies are equal, and the loss is the lowest in epoch 2
    with torch.no_grad():
        run.model[-1].weight.zero_()
        run.model[-1].bias.copy_(torch.tensor([abs(epoch - 2.0), 0.0, 0.0]))
    return {"train_loss": 1.0, "train_accuracy": 0.0}
optuna = {"direction": "minimize"}
"""


@pytest.mark.parametrize(
    ("lines", "kept", "epochs"),
    [
        ("", 2, 4),
        ("early_stopping = {'enabled': True, 'patience': 1}", 2, 3),
        ("early_stopping = {'monitor': 'val_accuracy'}", 1, 4),
        ("early_stopping = {'min_delta': 5.0}", 1, 4),  # percent points: the file means the accuracy
        ("optuna['direction'] = 'maximize'", 1, 4),
    ],
)
def test_the_weights_are_those_of_the_value(
    write_config: WriteConfig,
    trainer: Callable[..., tuple[Trainer, dict[str, Any]]],
    lines: str,
    kept: int,
    epochs: int,
) -> None:
    own, fixed = trainer(APART + lines, epochs=4)
    outcome = own.run(Work(0, {}, fixed), always, lambda history: True)
    assert len(outcome.history) == epochs
    assert load_weights(Path(outcome.folder) / "best.pt")["epoch"] == kept
    written = Path(outcome.folder) / "optimized_config.py"
    written.write_text(optimized_text(own.config, {}, written, "Trial 0"))
    trained = train(load_config(written, {"epochs": 4, "task": "again"}))
    assert untimed(trained.history) == untimed(outcome.history)
    assert load_weights(trained.experiment.best_pt)["epoch"] == kept
    assert trained.experiment.id == outcome.experiment


def test_one_trial_leaves_nothing_to_the_next(trainer: Callable[..., tuple[Trainer, dict[str, Any]]]) -> None:
    """An object of the config that training changes would change the second trial, and its id."""
    lines = """
class Counts:
    def __init__(self):
        self.calls = 0
    def __call__(self, logits, labels):
        self.calls += 1
        return nn.functional.cross_entropy(logits, labels) * self.calls
loss = Counts()
"""
    own, fixed = trainer(lines)
    outcomes = [own.run(Work(n, {}, {**fixed, "task": f"trial-{n}"}), always, lambda history: False) for n in range(2)]
    assert untimed(outcomes[0].history) == untimed(outcomes[1].history)
    assert outcomes[0].experiment == outcomes[1].experiment


def test_a_trial_writes_what_is_needed_and_no_more(trainer: Callable[..., tuple[Trainer, dict[str, Any]]]) -> None:
    own, fixed = trainer()
    outcome = own.run(Work(0, {}, fixed), always, lambda history: False)
    names = {file.name for file in Path(outcome.folder).iterdir()}
    assert names == {
        "config.py", "config.json", "identity.json", "experiment.json", "data_manifest.json.gz", "metrics.csv",
        "train.log", ".lock",
    }  # fmt: skip
    assert json.loads((Path(outcome.folder) / "experiment.json").read_text())["status"] == "complete"


def test_a_trial_that_was_given_up_ends_between_epochs(trainer: Callable[..., tuple[Trainer, dict[str, Any]]]) -> None:
    own, fixed = trainer()
    outcome = own.run(Work(0, {}, fixed), lambda record: record["epoch"] < 2, lambda history: True)
    assert (outcome.status, len(outcome.history)) == (PRUNED, 2)
    folder = Path(outcome.folder)
    assert not (folder / "best.pt").exists()
    assert json.loads((folder / "experiment.json").read_text())["status"] == "stopped"
    assert len((folder / "metrics.csv").read_text().splitlines()) == 3


def test_a_killed_trial_goes_on_from_its_timed_checkpoint(
    write_config: WriteConfig, trainer: Callable[..., tuple[Trainer, dict[str, Any]]]
) -> None:
    straight = train(load_config(write_config(), {"epochs": 3}))
    own, fixed = trainer("checkpoint_every_minutes = 1e-9")

    class Killed(BaseException):
        pass

    def die(record: Any) -> bool:
        if record["epoch"] == 2:
            raise Killed
        return True

    with pytest.raises(Killed):
        own.run(Work(0, {}, fixed), die, lambda history: True)
    told: list[int] = []
    outcome = own.run(Work(1, {}, fixed), lambda record: told.append(record["epoch"]) or True, lambda history: True)
    assert untimed(outcome.history) == untimed(straight.history)
    assert told == [2, 3]  # the first was in the checkpoint
    ours, theirs = (load_weights(place / "best.pt") for place in (Path(outcome.folder), straight.experiment.dir))
    assert all(torch.equal(ours["model"][name], theirs["model"][name]) for name in theirs["model"])


def test_the_memory_of_a_trial_is_free_when_it_ends(trainer: Callable[..., tuple[Trainer, dict[str, Any]]]) -> None:
    """Two models at once would not fit where one does; nobody waits for the garbage collector."""
    own, fixed = trainer(
        "plain = model\ndef model(num_classes):\n    made = plain(num_classes)\n    import weakref\n    _alive.append(weakref.ref(made))\n    return made\n_alive = []"
    )
    gc.collect()
    gc.disable()
    try:
        own.run(Work(0, {}, fixed), always, lambda history: True)
        alive = own.config.origin.namespace["_alive"]
        assert alive
        assert all(isinstance(each, weakref.ref) and each() is None for each in alive)
    finally:
        gc.enable()


# ---------------------------------------------------------------------------------------------------------------- failures

FAILURES = """
_calls = []
def broken(logits, labels):
    _calls.append(1)
    if len(_calls) > 5:
        raise {error}
    return nn.functional.cross_entropy(logits, labels)
loss = broken
"""


@pytest.mark.parametrize(
    ("lines", "words", "begun"),
    [
        ("loss = lambda logits, labels: logits.sum() * float('nan')", "The loss is no longer finite", True),
        (
            FAILURES.format(error="torch.OutOfMemoryError('CUDA out of memory')"),
            "does not hold a batch of 4 images",
            True,
        ),
        (FAILURES.format(error="KeyError('mine')"), "Your code raised KeyError: 'mine'", True),
        (FAILURES.format(error="MemoryError()"), "does not hold a batch of 4 images", True),
        (FAILURES.format(error="SystemExit('mine')"), "Your code raised SystemExit: mine", True),
        (FAILURES.format(error="KeyboardInterrupt('mine')"), "Your code raised KeyboardInterrupt: mine", True),
        ("optimizer_params = {'eps': -1}", "optimizer_params does not fit Adam", False),
    ],
)
def test_a_failure_says_why_and_where(
    trainer: Callable[..., tuple[Trainer, dict[str, Any]]], lines: str, words: str, begun: bool
) -> None:
    own, fixed = trainer(lines)
    outcome = own.run(Work(0, {}, fixed), always, lambda history: True)
    assert outcome.status == FAILED
    assert words in outcome.error
    assert ("mine" in outcome.error) == bool(outcome.trace)
    assert [bool(outcome.folder), bool(outcome.experiment)] == [begun, begun]  # what failed before has no experiment
    if begun:
        manifest = json.loads((Path(outcome.folder) / "experiment.json").read_text())
        assert manifest["status"] == "failed"
        assert manifest["failure"]["what"].split(" (")[0] in outcome.error


def test_a_trial_that_ends_before_its_first_number_is_pruned(
    trainer: Callable[..., tuple[Trainer, dict[str, Any]]],
) -> None:
    lines = """
def train_epoch(run, epoch):
    return {"train_loss": 1.0, "train_accuracy": 0.0, "gap": float("nan")}
optuna = {"metric": "gap"}
"""
    own, fixed = trainer(lines)
    ended = own.run(Work(0, {}, fixed), lambda record: False, lambda history: True)
    assert (ended.status, ended.error, len(ended.history)) == (PRUNED, "", 1)
    whole = own.run(Work(1, {}, {**fixed, "task": "whole"}), always, lambda history: True)
    assert (whole.status, whole.error) == (FAILED, "No epoch has a number for gap")


def test_a_metric_that_no_epoch_has_fails_with_those_there_are(
    trainer: Callable[..., tuple[Trainer, dict[str, Any]]],
) -> None:
    own, fixed = trainer("optuna = {'metric': 'val_f1'}")
    outcome = own.run(Work(0, {}, fixed), always, lambda history: True)
    assert outcome.status == FAILED
    assert "An epoch has no val_f1" in outcome.error
    check_metrics({"epoch": 1, "val_f1": 0.5}, ["val_f1", "latency_ms"])


def test_a_training_that_another_process_holds_is_no_failure(
    trainer: Callable[..., tuple[Trainer, dict[str, Any]]],
) -> None:
    own, fixed = trainer()
    first = own.run(Work(0, {}, fixed), always, always)
    with lock(Experiment(Path(first.folder), first.experiment)):
        outcome = own.run(Work(1, {}, fixed), always, always)
    assert (outcome.status, outcome.gracefully, outcome.experiment) == (INTERRUPTED, False, first.experiment)


# -------------------------------------------------------------------------------------------------------------- objectives


def test_the_objective_is_the_best_epoch_of_the_first_metric() -> None:
    rows = [
        {"val_accuracy": 50.0, "val_loss": 1.0},
        {"val_accuracy": 70.0, "val_loss": 2.0},
        {"val_accuracy": 70.0, "val_loss": 0.5},
        {"val_accuracy": math.nan, "val_loss": 0.1},
    ]
    assert objective(rows, ["val_accuracy"], ["maximize"]) == [70.0]
    assert objective(rows, ["val_loss"], ["minimize"]) == [0.1]
    assert objective(rows, ["val_accuracy", "val_loss"], ["maximize", "minimize"]) == [70.0, 2.0]
    assert objective(rows[3:], ["val_accuracy"], ["maximize"]) is None
    assert objective([], ["val_accuracy"], ["maximize"]) is None


def test_size_and_latency_of_the_model_are_metrics(trainer: Callable[..., tuple[Trainer, dict[str, Any]]]) -> None:
    goal = "'metric': ['val_accuracy', 'parameters', 'latency_ms'], 'direction': ['maximize', 'minimize', 'minimize']"
    own, fixed = trainer(f"optuna = {{{goal}}}")
    outcome = own.run(Work(0, {}, fixed), always, lambda history: True)
    assert outcome.values is not None
    accuracy, parameters, latency = outcome.values
    assert 0 <= accuracy <= 100
    assert parameters == 3 * 4 * 9 + 4 + 8 + 4 * 3 + 3
    assert 0 < latency < 1000
