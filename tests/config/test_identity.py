"""Which settings make an experiment: every literal of the shipped config changed once, and golden ids."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pochitrain.config.fields import is_identity
from pochitrain.config.identity import Identity, canonical_settings, settings_difference
from pochitrain.config.loader import load_config
from pochitrain.config.schema import Config
from pochitrain.config.words import walk_settings
from pochitrain.errors import ConfigError

WriteConfig = Callable[..., Path]
SHIPPED = Path(__file__).parents[2] / "configs" / "pochi_train_config.py"

# Texts that only some values may replace.
ALTERNATIVES = {
    "AdamW": "SGD",
    "ExponentialLR": "StepLR",
    "resnet18": "resnet34",
    "auto": "fp32",
    "val_accuracy": "val_loss",
    "median": "mean",
    "maximize": "minimize",
    "TPESampler": "RandomSampler",
    "MedianPruner": "NopPruner",
    "train": "val",
    "val": "train",
}
# Settings that have no say while another one switches them off.
ASLEEP = {"layer_wise_lr_config": "enable_layer_wise_lr"}


def literals(tree: ast.Module) -> Iterator[tuple[str, ast.Constant]]:
    """Yield (name that is assigned, literal) for every literal of the file, keys of dicts left out but for parameters."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            keys = {id(key) for node in ast.walk(statement) if isinstance(node, ast.Dict) for key in node.keys}
            for node in ast.walk(statement.value):
                if isinstance(node, ast.Constant) and id(node) not in keys:
                    yield name, node


def changed(value: object) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 1.5
    if value is None:
        return "cpu"
    return ALTERNATIVES.get(str(value), f"{value}x")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("shipped")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield SHIPPED.read_text(encoding="utf-8"), folder


def test_every_literal_of_the_shipped_config_moves_the_id_or_is_declared_not_to(shipped: tuple[str, Path]) -> None:
    text, folder = shipped
    path = folder / "mutant.py"
    path.write_text(text, encoding="utf-8")
    original = canonical_settings(load_config(path))
    count = len(list(literals(ast.parse(text))))
    moved, stayed, wrong = 0, 0, []
    for number in range(count):
        tree = ast.parse(text)
        name, node = list(literals(tree))[number]
        before, node.value = node.value, changed(node.value)  # type: ignore[assignment]
        path.write_text(ast.unparse(tree), encoding="utf-8")
        try:
            config = load_config(path)
        except ConfigError:  # not a value that this setting takes: no experiment at all
            moved += 1
            continue
        same = canonical_settings(config) == original
        operational = name in Config.model_fields and not is_identity(Config.model_fields[name])
        expected = operational or (name in ASLEEP and not getattr(config, ASLEEP[name]))
        if same != expected:
            wrong.append((name, before, node.value, "same" if same else "moved"))
        moved, stayed = moved + (not same), stayed + same
    assert not wrong
    assert moved >= 20, (moved, stayed)
    assert stayed >= 30, (moved, stayed)


def test_layout_comments_and_order_keep_the_id(shipped: tuple[str, Path]) -> None:
    text, folder = shipped
    original = canonical_settings(load_config(SHIPPED))
    tree = ast.parse(text)
    path = folder / "renamed_and_unparsed.py"
    path.write_text("# a comment\n" + ast.unparse(tree).replace("\n", "\n\n"), encoding="utf-8")
    assert canonical_settings(load_config(path)) == original


def test_the_ids_of_today_are_the_ids_of_tomorrow(write_config: WriteConfig, shipped: tuple[str, Path]) -> None:
    """Golden: when one of these moves, every user's finished experiments would be trained again."""
    plain = canonical_settings(load_config(write_config()))
    data = {"data.train": "0" * 64}
    assert Identity(plain, data).id == GOLDEN["tiny"]
    assert Identity(canonical_settings(load_config(SHIPPED)), {}).id == GOLDEN["shipped"]
    layered = "enable_layer_wise_lr = True\nlayer_wise_lr_config = {'layer_rates': {'0': 0.1, '6': 0.2}}\nscheduler = 'StepLR'\nscheduler_params = {'step_size': 3}"
    assert Identity(canonical_settings(load_config(write_config(layered))), data).id == GOLDEN["layered"]


GOLDEN = {  # the same on Python 3.11, 3.12 and 3.13
    "tiny": "a02710088a9fc3a11e22dc7e76747532b33a7045a657ad11a2e17d58ab6cd938",
    "layered": "4939acdf6df61847d19005f3266201fc930b2aa60bb73e8e1c19681d4eb10399",
    "shipped": "3067489038e072fa4774fdd3aad6fb5b6c2e229300772ffb9018d5ae3fb2bdbc",
}


def test_the_order_of_layer_rates_counts_and_of_others_does_not(write_config: WriteConfig) -> None:
    def settings(lines: str) -> dict[str, str]:
        return canonical_settings(load_config(write_config("enable_layer_wise_lr = True\n" + lines)))

    a = settings(
        "layer_wise_lr_config = {'layer_rates': {'0': 0.1, '6': 0.2}}\noptimizer_params = {'eps': 1e-7, 'amsgrad': True}"
    )
    b = settings(
        "layer_wise_lr_config = {'layer_rates': {'6': 0.2, '0': 0.1}}\noptimizer_params = {'eps': 1e-7, 'amsgrad': True}"
    )
    c = settings(
        "layer_wise_lr_config = {'layer_rates': {'0': 0.1, '6': 0.2}}\noptimizer_params = {'amsgrad': True, 'eps': 1e-7}"
    )
    d = settings(
        "layer_wise_lr_config = {'layer_rates': {'0': 0.1, '6': 0.2}, 'graph_config': {'use_log_scale': True}}\noptimizer_params = {'eps': 1e-7, 'amsgrad': True}"
    )
    assert a != b
    assert a == c == d


def test_a_value_that_a_part_asks_for_counts_and_others_do_not(write_config: WriteConfig) -> None:
    lines = "def model(num_classes, hidden):\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, hidden), nn.Linear(hidden, num_classes))\n"
    base = canonical_settings(load_config(write_config(lines + "hidden = 8\nunused = 1")))
    assert canonical_settings(load_config(write_config(lines + "hidden = 8\nunused = 2"))) == base
    other = canonical_settings(load_config(write_config(lines + "hidden = 9\nunused = 1")))
    assert settings_difference(base, other) == ["hidden 8 → 9"]


def test_a_default_written_out_is_no_difference(write_config: WriteConfig) -> None:
    base = canonical_settings(load_config(write_config()))
    assert (
        canonical_settings(
            load_config(write_config("seed = 42\noptimizer = 'Adam'\nscheduler = None\nclass_weights = None"))
        )
        == base
    )


def test_the_settings_outside_the_identity_are_these() -> None:
    """A list to look at twice: each promises to leave the weights of an epoch alone."""
    outside = {name for name, info in walk_settings() if "." not in name and not is_identity(info)}
    assert outside == {
        "train_data_root", "val_data_root", "val_fraction", "group_by", "num_workers", "worker_timeout_seconds", "pin_memory",
        "num_classes", "epochs", "early_stopping", "device", "channels_last", "compile", "cudnn_benchmark", "work_dir", "task",
        "tags", "notes", "enable_metrics_export", "enable_tensorboard", "enable_gradient_tracking", "gradient_tracking_config",
        "confusion_matrix_config", "checkpoint_every_minutes", "observers", "plots", "log_level", "print_config",
        "enforce_tags", "ignore_warnings", "optuna", "train", "test", "cache", "cache_gb",
    }  # fmt: skip
