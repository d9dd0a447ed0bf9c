"""What a config imports is what lies beside it by now, whatever was loaded before in the same process."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from pathlib import Path

import pytest

from pochitrain.config.identity import canonical_settings
from pochitrain.config.loader import load_config
from pochitrain.config.schema import Config
from pochitrain.data.reading import Samples

CONFIG = """
from base_config import *
import tools_tried.deep
from helper_tried import where
def train_transform(image): return where(), tools_tried.deep.NAME
val_transform = train_transform
"""


@pytest.fixture(autouse=True)
def _imports_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def make_folder(folder: Path, name: str) -> Path:
    (folder / "tools_tried").mkdir(parents=True, exist_ok=True)
    (folder / "base_config.py").write_text(f"train_data_root = 'x'\ntask = {name!r}\n")
    (folder / "helper_tried.py").write_text(f"def where(): return {name!r}\n")
    (folder / "tools_tried" / "deep.py").write_text(f"NAME = {name!r}\n")
    (folder / "config.py").write_text(CONFIG)
    return folder / "config.py"


def told(config: Config) -> tuple[str | None, str, str]:
    return config.task, *config.train_transform(None)


def test_folders_take_turns(tmp_path: Path) -> None:
    one, two = (make_folder(tmp_path / name, name) for name in ("one", "two"))
    configs = [load_config(path) for path in (one, two, one, two)]
    assert [told(config) for config in configs] == [("one",) * 3, ("two",) * 3] * 2
    ids = [canonical_settings(config) for config in configs]
    assert ids[0] == ids[2] != ids[1] == ids[3]
    for config in configs:  # as to a process that is spawned, after others were loaded
        samples = pickle.loads(pickle.dumps(Samples([], [], config.train_transform, 0, "val")))
        assert samples.transform(None)[0] == config.task


def test_modules_that_the_program_has_imported_itself_are_not_served(tmp_path: Path) -> None:
    one, two = (make_folder(tmp_path / name, name) for name in ("one", "two"))
    (tmp_path / "plain.py").write_text("train_data_root = 'x'\ntrain_transform = val_transform = len\n")
    load_config(tmp_path / "plain.py")  # what earlier loads have imported is no longer known to be theirs
    sys.path.insert(0, str(one.parent))
    importlib.import_module("helper_tried")
    importlib.import_module("tools_tried.deep")
    assert told(load_config(two)) == ("two",) * 3
    other = importlib.import_module("helper_tried")
    assert told(load_config(two)) == ("two",) * 3
    assert load_config(two).origin.namespace["where"] is not other.where


def test_a_module_edited_between_two_loads_is_read_anew(tmp_path: Path) -> None:
    path = make_folder(tmp_path, "one")
    helper, ids = tmp_path / "helper_tried.py", []
    for number in (1, 2):
        helper.write_text(f"def where(): return {number}\n")
        os.utime(helper, (1, 1))  # within the same second, and of the same size
        config = load_config(path)
        assert told(config)[1] == number
        ids.append(canonical_settings(config))
        helper.write_text("def where(): return 3\n")
        assert canonical_settings(config) == ids[-1]  # of the text that was executed
    assert ids[0] != ids[1]
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_library_below_the_folder_is_none_of_the_users(tmp_path: Path) -> None:
    path = make_folder(tmp_path, "one")
    installed = tmp_path / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "installed_tried.py").write_text("NAME = 3\n")
    sys.path.append(str(installed))
    path.write_text(CONFIG + "import installed_tried\n")
    kept = [load_config(path).origin.namespace["installed_tried"] for _round in range(2)]
    assert kept[0] is kept[1]
    assert (installed / "__pycache__").exists() or sys.dont_write_bytecode


def test_parts_in_another_folder_have_their_own_helpers(tmp_path: Path) -> None:
    path = make_folder(tmp_path, "one")
    make_folder(tmp_path / "parts", "parts")
    (tmp_path / "shared_tried.py").write_text("class Shared: pass\n")
    (tmp_path / "parts" / "net.py").write_text(
        "from helper_tried import where\nfrom shared_tried import Shared\ndef build(): return where(), Shared\n"
    )
    (tmp_path / "registry.json").write_text('{"net": "parts/net.py:build"}')
    late = "from shared_tried import Shared\nmodel = 'net'\ndef late():\n    import helper_tried\n    return helper_tried.where()\n"
    path.write_text(CONFIG + late)
    config = load_config(path)
    assert config.model() == ("parts", config.origin.namespace["Shared"])
    assert told(config) == ("one",) * 3
    assert config.origin.namespace["late"]() == "one"


@pytest.mark.parametrize("kind", ["function of a helper", "base config", "class of a helper"])
def test_an_older_config_keeps_the_id_of_the_code_that_it_runs(tmp_path: Path, kind: str) -> None:
    helper = tmp_path / "parts_of_it.py"
    texts = [
        f"from torch.nn import functional\ndef loss(logits, labels):\n"
        f"    return {scale} * functional.cross_entropy(logits, labels)\n"
        f"class Loss:\n    def __call__(self, logits, labels):\n        return loss(logits, labels)\n"
        for scale in (1.0, 3.0)
    ]
    imports = {
        "function of a helper": "import parts_of_it\ndef own(logits, labels):\n    return parts_of_it.loss(logits, labels)\n"
        "loss = own\n",
        "base config": "from parts_of_it import *\n",
        "class of a helper": "from parts_of_it import Loss\nloss = Loss\n",
    }
    config = tmp_path / "own.py"
    config.write_text(
        f"{imports[kind]}from torchvision import transforms\ntrain_data_root, val_data_root = 'a', None\n"
        "train_transform = val_transform = transforms.ToTensor()\nmodel_name, pretrained = 'resnet18', False\n"
        "epochs = batch_size = 1\nlearning_rate = 0.1\n"
    )
    helper.write_text(texts[0])
    one = load_config(config)
    first = canonical_settings(one)
    helper.write_text(texts[1])
    two = load_config(config)
    assert canonical_settings(two) != first
    assert canonical_settings(one) == first
