"""From settings to objects: patterns and rates, transforms that do not fit, own parts, precision, repeatability."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from pochitrain.config.loader import load_config
from pochitrain.data.source import load_data
from pochitrain.engine.loop import fit
from pochitrain.engine.run import Run, build_run, choose_precision, make_deterministic
from pochitrain.errors import ConfigError, DataError, PochiError, Problem
from pochitrain.parts.losses import resolve_class_weights
from pochitrain.parts.optim import LayerGroup, layer_groups
from tests.conftest import make_images
from tests.engine.tiny import NET, fitted, run_of, same_weights, untimed, weights

WriteConfig = Callable[..., Path]
RATES = "enable_layer_wise_lr = True\nlayer_wise_lr_config = {{'layer_rates': {!r}}}\n"


def refused(path: Path, kind: type[PochiError] = ConfigError, **overrides: Any) -> Problem:
    with pytest.raises(kind) as caught:
        run_of(path, **overrides)
    [problem] = caught.value.problems
    return problem


# -- layer-wise rates


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    with torch.device("meta"):
        return torchvision.models.resnet18()


def groups_of(write_config: WriteConfig, model: nn.Module, rates: dict[str, float]) -> dict[str, LayerGroup]:
    config = load_config(write_config(RATES.format(rates)))
    groups = layer_groups(model, config)
    named = [name for group in groups for name in group.names]
    assert sorted(named) == sorted(name for name, _parameter in model.named_parameters()), "each parameter in one group"
    return {group.pattern: group for group in groups}


def members(model: nn.Module, *starts: str) -> set[str]:
    return {name for name, _parameter in model.named_parameters() if name.startswith(starts)}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("conv1", ("conv1.",)),
        ("layer1", ("layer1.",)),
        (r"layer4\.1", ("layer4.1.",)),
        (r"layer4.1", ("layer4.1.",)),
        (r".*\.bn\d", tuple(f"layer{s}.{b}.bn{n}." for s in range(1, 5) for b in (0, 1) for n in (1, 2))),
        (r"layer[34]", ("layer3.", "layer4.")),
        ("layer1|layer2", ("layer1.", "layer2.")),
        ("^fc$", ("fc.",)),
        (r"fc\.bias", ("fc.bias",)),
        ("(?i)CONV1", ("conv1.",)),
        (".*", ("",)),
    ],
)
def test_a_pattern_begins_at_the_start_and_ends_at_a_dot(
    write_config: WriteConfig, resnet18: nn.Module, pattern: str, expected: tuple[str, ...]
) -> None:
    groups = groups_of(write_config, resnet18, {pattern: 0.5})
    assert set(groups[pattern].names) == members(resnet18, *expected)
    assert groups[pattern].rate == 0.5
    assert set(groups) == {pattern, *(["other"] if pattern != ".*" else [])}


def test_the_first_match_in_the_written_order_wins(write_config: WriteConfig, resnet18: nn.Module) -> None:
    specific = groups_of(write_config, resnet18, {r"layer1\.0": 0.1, "layer1": 0.2, r".*bn\d": 0.3, "conv1": 0.4})
    assert set(specific[r"layer1\.0"].names) == members(resnet18, "layer1.0.")
    assert set(specific["layer1"].names) == members(resnet18, "layer1.1.")
    assert "bn1.weight" in specific[r".*bn\d"].names
    assert not any(name.startswith("layer1") for name in specific[r".*bn\d"].names)
    assert list(specific) == [r"layer1\.0", "layer1", r".*bn\d", "conv1", "other"]
    assert specific["other"].rate == 0.01


def test_every_pattern_without_a_match_is_named_with_the_modules(
    write_config: WriteConfig, resnet18: nn.Module
) -> None:
    with pytest.raises(ConfigError) as caught:
        groups_of(write_config, resnet18, {"layer": 0.1, "layer1": 0.1, r"layer1\.0": 0.1, "backbone": 0.1})
    assert [problem.what for problem in caught.value.problems] == [
        f"The pattern {pattern!r} of layer_rates matches no parameter"
        for pattern in ("layer", r"layer1\.0", "backbone")
    ]
    assert "conv1, bn1, relu, maxpool, layer1, layer2, layer3, layer4, avgpool, fc" in caught.value.problems[0].mend


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD"])
def test_a_rate_of_zero_freezes(write_config: WriteConfig, optimizer: str) -> None:
    lines = f"optimizer = {optimizer!r}\n" + RATES.format({"conv1": 0, "layer1": 0.01, "fc": 0.0})
    path = write_config(NET + lines)
    before = weights(run_of(path))
    run, history = fitted(path)
    moved = {name for name, parameter in run.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {"bn1.weight", "bn1.bias", "layer1.0.weight", "layer1.1.weight", "layer1.1.bias"}
    assert history[1]["lr_conv1"] == 0.0
    assert history[1]["lr_other"] == 0.01


def test_all_rates_zero_leave_nothing_to_train(write_config: WriteConfig) -> None:
    problem = refused(write_config(NET + RATES.format({".*": 0.0})))
    assert problem.what == "Nothing is left to train: every parameter is frozen"
    frozen = "def model(num_classes):\n    return Net(num_classes).requires_grad_(False)\n"
    assert refused(write_config(NET + frozen)).what == problem.what


# -- class weights


@pytest.mark.parametrize("language", ["en", "ja"])
def test_class_weights_of_another_length(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    monkeypatch.setenv("POCHI_LANG", language)
    problem = refused(write_config("class_weights = [1.0, 2.0]\n"))
    assert (
        problem.what
        == {
            "en": "The length of class_weights (2) does not match the number of classes (3)",
            "ja": "クラス重みの長さ(2)がクラス数(3)と一致しません",
        }[language]
    )


def test_balanced_data_has_no_weights(write_config: WriteConfig) -> None:
    config = load_config(write_config())
    assert resolve_class_weights(config, (10, 7, 6)) == pytest.approx([23 / 30, 23 / 21, 23 / 18])
    assert resolve_class_weights(config, (5, 5)) == [1.0, 1.0]


# -- transforms and models that do not fit


@pytest.mark.parametrize("setting", ["train_transform", "val_transform"])
@pytest.mark.parametrize(
    ("transform", "given"),
    [
        ("transforms.Resize(4)", "Image"),
        ("lambda image: image", "Image"),
        ("transforms.PILToTensor()", "torch.uint8 (3, 8, 8)"),
    ],
)
def test_a_transform_without_totensor(write_config: WriteConfig, setting: str, transform: str, given: str) -> None:
    problem = refused(write_config(f"{setting} = {transform}\n"))
    assert problem.what.startswith("transforms.ToTensor() is required")
    assert problem.where == f"{setting} (gives {given})"


@pytest.mark.parametrize("split", ["train", "val"])
def test_sizes_that_do_not_stack_name_two_files(write_config: WriteConfig, tmp_path: Path, split: str) -> None:
    for name in ("train", "val"):
        make_images(tmp_path / name, {"a": 3, "b": 3})
    Image.new("RGB", (8, 9)).save(tmp_path / split / "b" / "tall.png")
    problem = refused(write_config(data=tmp_path))
    assert problem.what == f"The images have different sizes after {split}_transform and do not stack"
    first, second = problem.where.splitlines()
    assert "(3, 8, 8)" in first + second
    assert f"{tmp_path / split / 'b' / 'tall.png'} (3, 9, 8)" in first + second
    assert "add a Resize" in problem.mend
    resized = f"{split}_transform = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()])\n"
    run_of(write_config(resized, data=tmp_path))


def test_a_transform_that_raises_names_its_line_or_the_image(write_config: WriteConfig, images: Path) -> None:
    path = write_config("def wrong(image):\n    return 1 / 0\ntrain_transform = wrong\n")
    problem = refused(path)
    assert problem.what == "Your code raised ZeroDivisionError: division by zero\n    return 1 / 0"
    assert problem.where.startswith(f"{path}:")
    lines = "train_transform = transforms.Compose([transforms.Normalize([0.5], [0.5]), transforms.ToTensor()])\n"
    problem = refused(write_config(lines))
    assert problem.what.startswith(f"train_transform fails on {images / 'train'}")
    assert "img should be Tensor Image" in problem.what


@pytest.mark.parametrize(
    ("transform", "what", "mend"),
    [
        ("transforms.ToTensor", "train_transform fails on ", "add parentheses: ToTensor()"),
        ("transforms.Compose([transforms.ToTensor])", "train_transform fails on ", "add parentheses: ToTensor()"),
        (
            "lambda image: transforms.ToTensor()(image).double()",
            "The images are no tensors of torch.float32",
            "ToDtype",
        ),
        (
            "transforms.Compose([transforms.Grayscale(), transforms.ToTensor()])",
            "The images have no three channels (3, H, W)",
            "use Grayscale(num_output_channels=3)",
        ),
    ],
)
def test_a_transform_that_gives_something_else(write_config: WriteConfig, transform: str, what: str, mend: str) -> None:
    problem = refused(write_config(f"train_transform = {transform}\n"))
    assert problem.what.startswith(what)
    assert mend in problem.mend


def test_a_damaged_image_that_the_transform_is_tried_on_is_no_fault_of_the_transform(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    for name in ("train", "val"):
        make_images(tmp_path / name, {"a": 3, "b": 3})
    path = make_images(tmp_path / "train", {"b": 4}, size=(99, 8)) / "b" / "003.png"  # the widest one
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    problem = refused(write_config(data=tmp_path), DataError)
    assert problem.what.startswith("A sample cannot be used: damaged")
    assert (problem.where, 'on_bad_image = "skip"' in problem.mend) == (str(path), True)


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ("model = lambda num_classes: nn.Flatten()", "The model gives (1, 192) and not (1, 3), images × classes"),
        (
            "class Pair(nn.Flatten):\n    def forward(self, x):\n        return x, x\nmodel = Pair",
            "The model gives tuple",
        ),
        ("model = lambda num_classes: nn.Linear(5, 3)", "The model fails on an image of size (3, 8, 8): "),
        ("model = lambda num_classes: 'net'", "model returned str, not a torch module"),
        (
            "model_name = 'squeezenet1_1'\nmodel = None\npretrained = False",
            "The model fails on an image of size (3, 8, 8): ",
        ),
    ],
)
def test_a_model_that_does_not_fit(write_config: WriteConfig, lines: str, what: str) -> None:
    assert refused(write_config(lines + "\n")).what.startswith(what)


def test_the_trial_leaves_no_trace_in_the_model(write_config: WriteConfig) -> None:
    """It runs in evaluation mode, or BatchNorm would remember the one image."""
    run = run_of(write_config(NET))
    assert run.model.training
    assert torch.equal(run.model.get_buffer("bn1.running_mean"), torch.zeros(4))
    assert int(run.model.get_buffer("bn1.num_batches_tracked")) == 0


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_modules_take_their_shape_from_the_first_image_and_train(write_config: WriteConfig) -> None:
    lines = "model = lambda num_classes: nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))\n"
    run = run_of(write_config(lines))
    before = weights(run)
    fit(run, [], epochs=1)
    assert before["1.weight"].shape == (3, 192)
    assert not same_weights(before, weights(run))


def test_what_a_model_keeps_from_the_trial_can_be_trained_with(write_config: WriteConfig) -> None:
    """A tensor made in torch's inference mode could not."""
    lines = """
class model(nn.Module):
    places = None
    def __init__(self, num_classes):
        super().__init__()
        self.scale, self.body = nn.Parameter(torch.ones(192)), nn.Linear(192, num_classes)
    def forward(self, images):
        if self.places is None:
            self.places = torch.linspace(0, 1, 192)
        return self.body(images.flatten(1) + self.scale * self.places)
"""
    run, _history = fitted(write_config(lines), epochs=1)
    assert not torch.equal(run.model.get_parameter("scale"), torch.ones(192))


# -- machine

_FP16 = torch.cpu.get_capabilities().get("avx512_fp16")


@pytest.mark.parametrize("device", ["cuda:99", "mps", "tpu", "cpu:0"])
def test_an_absent_device_is_refused(write_config: WriteConfig, device: str) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    problem = refused(write_config(), device=device)
    assert problem.what == f"There is no device {device!r} on this machine"
    assert "cpu" in problem.mend


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_is_that_of_the_arithmetic_alone(
    write_config: WriteConfig, precision: str, dtype: torch.dtype
) -> None:
    run = run_of(write_config(NET), precision=precision)
    seen = set()
    run.model.get_submodule("layer1.0").register_forward_hook(lambda _m, _i, output: seen.add(output.dtype))
    losses = set()
    loss_fn = run.loss_fn
    run.loss_fn = lambda logits, labels: losses.add(logits.dtype) or loss_fn(logits, labels)  # type: ignore[func-returns-value]
    before = weights(run)
    history = fit(run, [], epochs=2)
    assert seen == {dtype}
    assert losses == {torch.float32}
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert all(math.isfinite(record["train_loss"]) and math.isfinite(record["val_loss"]) for record in history)
    assert not same_weights(before, weights(run))
    assert run.scaler.is_enabled() == (precision == "fp16")
    assert ("fp32 is faster" in run.precision_note) == (precision == "fp16" and not _FP16)


def test_auto_precision_asks_the_processor(write_config: WriteConfig) -> None:
    config = load_config(write_config(), {"precision": "auto"})
    flags = torch.cpu.get_capabilities()
    fast = bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))
    assert choose_precision(config, torch.device("cpu")) == ("bf16" if fast else "fp32")
    data = load_data(config)
    assert build_run(config, data, precision="fp32").precision == "fp32", "what an experiment began with stays"


@pytest.mark.parametrize(("setting", "expected"), [("True", True), ("False", False), ("'auto'", True)])
def test_memory_layout(write_config: WriteConfig, setting: str, expected: bool) -> None:
    run = run_of(write_config(f"{NET}\nchannels_last = {setting}\n"))
    images, _labels = run.move(torch.zeros(2, 3, 8, 8), torch.zeros(2))
    weight = run.model.get_parameter("layer1.0.weight")
    for tensor in (images, weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last) is expected
        assert tensor.is_contiguous() is not expected


def test_two_runs_are_equal_to_the_bit_and_a_seed_changes_them(write_config: WriteConfig) -> None:
    path = write_config()
    first, history = fitted(path)
    torch.rand(5)  # what was drawn before does not matter
    second, again = fitted(path)
    other, _history = fitted(path, seed=1)
    assert same_weights(weights(first), weights(second))
    assert untimed(history) == untimed(again)
    assert not same_weights(weights(first), weights(other))


def test_deterministic_algorithms_unless_speed_was_asked_for(write_config: WriteConfig) -> None:
    path = write_config()
    for benchmark in (True, False):
        make_deterministic(load_config(path, {"cudnn_benchmark": benchmark}))
        assert torch.are_deterministic_algorithms_enabled() is not benchmark
        assert torch.backends.cudnn.benchmark is benchmark


# -- parts of the user's own, called with the settings that they name

OWN = """
width = 5
gamma = 0.5
momentum = 0.8
seen = []

def model(num_classes, width, depth=1):
    seen.append(("model", num_classes, width, depth))
    return nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.Linear(width, num_classes))

def loss(logits, labels, *, gamma, class_weights):
    seen.append(("loss", gamma, class_weights.tolist()))
    return nn.functional.cross_entropy(logits, labels) * gamma

def optimizer(parameters, lr, momentum):
    seen.append(("optimizer", lr, momentum))
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum)

def scheduler(optimizer, epochs):
    seen.append(("scheduler", epochs))
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / epochs)

def train_epoch(run, epoch, gamma, batch_size):
    from pochitrain.engine.loop import train_epoch as standard
    seen.append(("train_epoch", epoch, gamma, batch_size))
    return {**standard(run, epoch), "mine": gamma}
"""


def run_and_seen(path: Path) -> tuple[Run, list[Any]]:
    config = load_config(path)
    build_run(config, load_data(config))
    seen = config.origin.helpers["seen"]
    seen.clear()
    return build_run(config, load_data(config)), seen


def test_own_functions_get_the_settings_that_they_name(write_config: WriteConfig) -> None:
    run, seen = run_and_seen(write_config(OWN + "epochs = 4\nclass_weights = [1, 2, 3]\n"))
    history = fit(run, [], epochs=2)
    built = [entry for entry in seen if entry[0] in ("model", "optimizer", "scheduler")]
    assert built == [("model", 3, 5, 1), ("optimizer", 0.01, 0.8), ("scheduler", 4)]
    assert ("loss", 0.5, [1.0, 2.0, 3.0]) in seen
    assert [entry for entry in seen if entry[0] == "train_epoch"] == [
        ("train_epoch", 1, 0.5, 4),
        ("train_epoch", 2, 0.5, 4),
    ]
    assert [record["learning_rate"] for record in history] == pytest.approx([0.01, 0.0075])
    assert history[0]["mine"] == 0.5
    assert history[0]["train_loss"] > 0


@pytest.mark.parametrize(
    ("lines", "setting", "named"),
    [
        ("def model(num_classes, width):\n    pass", "model", "width"),
        ("def loss(logits, labels, gamma):\n    pass", "loss", "gamma"),
        ("def loss(logits):\n    pass", "loss", "positional"),
        ("class loss(nn.Module):\n    def __init__(self, gamma):\n        pass", "loss", "gamma"),
        ("def optimizer(parameters, trust):\n    pass", "optimizer", "trust"),
        ("def scheduler(optimizer, horizon):\n    pass", "scheduler", "horizon"),
        ("def dataset(split, folder):\n    pass", "dataset", "folder"),
        ("def adapter(channels):\n    pass", "adapter", "channels"),
    ],
)
def test_what_a_part_needs_and_nothing_gives_is_named(
    write_config: WriteConfig, lines: str, setting: str, named: str
) -> None:
    problem = refused(write_config(lines + "\n"))
    assert named in problem.what
    assert problem.where == setting
    assert "config file" in problem.mend


def test_an_own_epoch_needs_its_values_too(write_config: WriteConfig) -> None:
    run = run_of(write_config("def train_epoch(run, epoch, alpha):\n    pass\n"))
    with pytest.raises(ConfigError, match="train_epoch needs alpha, which no setting gives"):
        fit(run, [], epochs=1)


@pytest.mark.parametrize("returned", ["None", "{}", "{'train_loss': 1.0}", "1.0"])
def test_an_own_epoch_returns_a_record(write_config: WriteConfig, returned: str) -> None:
    run = run_of(write_config(f"def train_epoch(run, epoch):\n    return {returned}\n"))
    with pytest.raises(ConfigError, match="train_epoch returned no record with train_loss and train_accuracy"):
        fit(run, [], epochs=1)


@pytest.mark.parametrize("returned", ["torch.ones(4)", "1.0", "None"])
def test_a_loss_is_one_number(write_config: WriteConfig, returned: str) -> None:
    problem = refused(write_config(f"def loss(logits, labels):\n    return {returned}\n"))
    assert problem.what.startswith("The loss gives ")
    assert problem.what.endswith(", not one number")


DATASET = """
class Colours(torch.utils.data.Dataset):
    classes = ["red", "green"]
    def __init__(self, split, count, transform, side=6):
        self.targets = [index % 2 for index in range(count if split == "train" else 4)]
        self.transform, self.side = transform, side
    def __len__(self):
        return len(self.targets)
    def __getitem__(self, index):
        from PIL import Image
        colour = (200, 0, 0) if self.targets[index] == 0 else (0, 200, 0)
        return self.transform(Image.new("RGB", (self.side, self.side), colour)), self.targets[index]
dataset = Colours
count = 11

def model(num_classes, side):  # the default of the data set, which no setting repeats
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, num_classes))
"""


def test_an_own_data_set_and_a_model_that_knows_its_values(write_config: WriteConfig) -> None:
    run, history = fitted(write_config(DATASET), epochs=3)
    assert run.classes == ("red", "green")
    assert len(run.train_loader.samples) == 11
    assert len(history) == 3
    assert history[-1]["val_accuracy"] == 100.0
    assert run.class_weights == pytest.approx([11 / 12, 11 / 10])


def test_an_adapter_joins_data_and_model(write_config: WriteConfig) -> None:
    lines = """
def adapter(side):
    return {"features": 3 * side * side, "batch_size": 7, "epochs": 9, "learning_rate": 0.5}
def model(num_classes, features):
    return nn.Sequential(nn.Flatten(), nn.Linear(features, num_classes))
del learning_rate, epochs, batch_size
"""
    run = run_of(write_config(DATASET + lines))
    assert run.config.batch_size == 7
    assert run.config.epochs == 9
    assert run.model.get_submodule("1").in_features == 108
    kept = run_of(write_config(DATASET + lines + "batch_size = 3\n"))
    assert kept.config.batch_size == 3, "what the file says stands above the adapter"


def test_a_module_as_model_is_copied_for_each_run(write_config: WriteConfig) -> None:
    lines = "torch.manual_seed(0)\nmodel = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))\n"
    config = load_config(write_config(lines))
    data = load_data(config)
    first, second = build_run(config, data), build_run(config, data)
    fit(first, [], epochs=1)
    assert same_weights(weights(second), weights(build_run(config, data)))
    assert not same_weights(weights(first), weights(second))


LOSSES = [
    "loss = nn.CrossEntropyLoss(label_smoothing=0.1)",
    """
smoothing = 0.1
class loss(nn.Module):
    def __init__(self, smoothing):
        super().__init__()
        self.smoothing = smoothing
    def forward(self, logits, labels):
        return nn.functional.cross_entropy(logits, labels, label_smoothing=self.smoothing)
""",
]


@pytest.mark.parametrize("lines", LOSSES)
def test_a_loss_as_module_or_class(write_config: WriteConfig, lines: str) -> None:
    _run, history = fitted(write_config(NET + lines + "\n"), epochs=1)
    function = "loss = lambda logits, labels: nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)\n"
    _run, expected = fitted(write_config(NET + function), epochs=1)
    assert untimed(history) == untimed(expected)
