"""Data sets of the user's: what their labels and classes may be, and what is told of those that contradict themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pochitrain.config.loader import load_config
from pochitrain.data.pick import pick_validation
from pochitrain.data.reading import Failure, Samples
from pochitrain.data.source import load_data
from pochitrain.engine.run import build_run
from pochitrain.errors import ConfigError, DataError
from pochitrain.parts.losses import resolve_class_weights

WriteConfig = Callable[..., Path]


OWN = """
class dataset(torch.utils.data.Dataset):
    classes = ["ant", "bee", "cat", "dog"]
    def __init__(self, split):
        self.targets = [0, 1, 1, 3] if split == "train" else [2]
    def __len__(self):
        return len(self.targets)
    def __getitem__(self, index):
        return torch.zeros(3, 8, 8), self.targets[index]
"""


def test_an_own_data_set_may_lack_images_of_a_class_that_nothing_balances(write_config: WriteConfig) -> None:
    config = load_config(write_config(OWN))
    data = load_data(config)
    assert data.counts == (1, 2, 0, 1)
    assert data.notes == ("classes without a training image: cat",)
    with pytest.raises(ConfigError, match=r"cannot be balanced: 2\n.*class_weights\n.*uniform"):
        resolve_class_weights(config, data.counts)
    for given, weights in (("uniform", [1, 1, 1, 1]), ([1, 2, 0, 3], [1, 2, 0, 3])):
        other = load_config(write_config(OWN), {"class_weights": given})
        assert resolve_class_weights(other, data.counts) == weights
        assert load_data(other).digests == data.digests


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("1, 1, 3]", "1, -1, 3]", "Sample 2 of the data set for train has label -1, but 4 classes"),
        ("1, 1, 3]", "1, 4, 3]", "for train has label 4, but 4 classes"),
        ("[2]", "[7]", "for val has label 7, but 4 classes"),
        ("1, 1, 3]", "1, 0.5, 3]", r"Sample 2 of the data set for train has label 0\.5\n.*\n.*integers from 0"),
        ("1, 1, 3]", "1, 'b', 3]", "Sample 2 of the data set for train has label 'b'"),
        ("[2]", "[None]", "Sample 0 of the data set for val has label None"),
        ("len(self.targets)", "5", "for train has 5 images, but 4 labels"),
        ("[2]", "[]", "The data set for val is empty"),
        ("self.targets =", "self.labels = 3; self.targets =", None),  # targets come first
        ("[0, 1, 1, 3]", "{0: 0, 1: 1}", "is no list, but {0: 0, 1: 1}"),
        ('["ant", "bee", "cat", "dog"]', "4", "classes of the data set for train is no list, but 4"),
        ('["ant", "bee", "cat", "dog"]', "'abcd'", "classes of the data set for train is no list, but 'abcd'"),
        ('"dog"', "None", "classes of the data set holds None, which is no name"),
        ('"dog"', '"ant"', "classes of the data set holds a name twice: ant"),
        (
            "[2]\n",
            "[2]; self.classes = self.classes if split == 'train' else ['bee']\n",
            "different classes: ant, bee, cat",
        ),
        ("[2]\n", "[2]; self.classes = self.classes[:: 1 if split == 'train' else -1]\n", "/ dog, cat, bee, ant"),
        ('"dog"]', '"dog"]\n    classes = None', None),
        ('"dog"]', '"dog"]\n    classes = range(4)', None),
    ],
)
def test_an_own_data_set_with_odd_labels_or_classes_names_them(
    old: str, new: str, words: str | None, write_config: WriteConfig
) -> None:
    config = load_config(write_config(OWN.replace(old, new)))
    if words is None:
        assert load_data(config).counts == (1, 2, 0, 1)
        return
    with pytest.raises(DataError, match=words):
        load_data(config)


def test_a_huge_label_is_no_number_of_classes(write_config: WriteConfig) -> None:
    lines = OWN.replace('classes = ["ant", "bee", "cat", "dog"]', "").replace("1, 1, 3]", "1, 1, 10**9]")
    with pytest.raises(DataError, match=r"1,000,000,001 classes, more than the limit of 100,000\n.*\n.*without gaps"):
        load_data(load_config(write_config(lines)))


def test_names_of_classes_are_one_line_and_of_one_form(write_config: WriteConfig) -> None:
    names = r'["か\u3099", "a\nb", ("tench", "Tinca tinca"), 7]'  # ImageNet of torchvision has tuples
    data = load_data(load_config(write_config(OWN.replace('["ant", "bee", "cat", "dog"]', names))))
    assert data.classes == ("が", r"a\nb", "tench, Tinca tinca", "7")


TURNED = """
from torchvision.datasets import ImageFolder
def dataset(root, transform):
    return ImageFolder(root, transform, target_transform=lambda label: 2 - label)
"""


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("0", "its item has label 0, where 1 was said\n.*sample 1\n.*let targets"),
        ("self.targets[index] + 4", "its item has label 4, where 0 was said\n.*sample 0"),
        ("0.5", r"its item has label 0.5\n.*sample 0\n.*integers from 0"),
        (
            "self.targets[index], 'name'",
            r"an item is not \(image, label\), but tuple of 3 values\n.*\n.*let __getitem__",
        ),
    ],
)
def test_items_with_other_labels_than_the_list_are_told_before_training(
    item: str, words: str, write_config: WriteConfig
) -> None:
    lines = OWN.replace("self.targets[index]\n", f"{item}\n") + "class_weights = 'uniform'\non_bad_image = 'skip'"
    config = load_config(write_config(lines))
    with pytest.raises(DataError, match=words):
        build_run(config, load_data(config))


def test_a_folder_whose_labels_are_changed_on_the_way_is_told(write_config: WriteConfig) -> None:
    config = load_config(write_config(TURNED))
    with pytest.raises(DataError, match="its item has label 2, where 0 was said"):
        build_run(config, load_data(config))


def test_an_item_with_another_label_than_the_list_is_told_when_its_turn_comes(write_config: WriteConfig) -> None:
    lines = READ.replace("self.kept[index]\n", "self.kept[index] + 2 * (index == 2)\n").replace(
        "self.kept", "self.targets"
    )
    data = load_data(load_config(write_config(lines)))
    samples = Samples(data.train.items, data.train.labels, lambda image: image, 0, "augment")
    *sound, other = (samples[(1, index)] for index in range(3))
    assert [sample[1] for sample in sound if isinstance(sample, tuple)] == [0, 1]
    assert isinstance(other, Failure)
    assert other.reason == "its item has label 3, where 1 was said"
    assert "let targets" in other.mend  # so it is no bad image, which on_bad_image would pass over


READ = """
class dataset(torch.utils.data.Dataset):
    def __init__(self, split):
        self.kept = [0, 1, 1] if split == "train" else [1]
    def __len__(self):
        return len(self.kept)
    def __getitem__(self, index):
        return torch.zeros(3, 8, 8), self.kept[index]
"""


def test_labels_are_read_from_the_items_where_there_is_no_list(write_config: WriteConfig) -> None:
    data = load_data(load_config(write_config(READ)))
    assert data.counts == (1, 2)
    assert data.val is not None
    for kind in ("torch.tensor([{}])[0]", "torch.tensor([{}]).numpy()[0]", "torch.tensor([{}]).numpy()[0] == 1"):
        given = READ.replace("self.kept[index]\n", kind.format("self.kept[index]") + "\n")
        assert load_data(load_config(write_config(given))).digests == data.digests
    with pytest.raises(DataError, match=r"Sample 0 of the data set for train has label tensor\(0\.\)"):
        load_data(load_config(write_config(READ.replace("self.kept[index]\n", "torch.tensor(0.0)\n"))))
    with pytest.raises(
        DataError, match="Sample 1 of the data set for train cannot be read: IndexError: list"
    ) as caught:
        load_data(load_config(write_config(READ.replace("[0, 1, 1]", "[0, 1, 1][:1]").replace("len(self.kept)", "3"))))
    assert caught.value.problems[0].where.endswith("__getitem__")


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("[torch.zeros(3, 8, 8), self.kept[index]]", None),
        ('{"image": torch.zeros(3, 8, 8), "label": 1}', r"an item is not \(image, label\), but dict with image, label"),
        ("torch.zeros(2, 8, 8)", r"an item is not \(image, label\), but Tensor\n.*\n.*let __getitem__ return"),
        ("None", "but NoneType"),
        ("(torch.zeros(3, 8, 8), torch.eye(2)[1])", r"Sample 0 .* has label tensor\(\[0., 1.\]\)"),
    ],
)
def test_items_are_pairs(item: str, words: str | None, write_config: WriteConfig) -> None:
    config = load_config(write_config(READ.replace("torch.zeros(3, 8, 8), self.kept[index]\n", f"{item}\n")))
    if words is None:
        data = load_data(config)
        assert data.counts == (1, 2)
        assert data.train.items[1][1] == 1
        return
    with pytest.raises(DataError, match=words):
        load_data(config)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "utils.data.Dataset",
            "utils.data.IterableDataset",
            "an IterableDataset, whose items have no numbers\n.*\n.*order",
        ),
        ("def __len__(self)", "def size(self)", "not a data set with a length and items"),
    ],
)
def test_what_cannot_be_asked_by_number_is_no_data_set(
    old: str, new: str, words: str, write_config: WriteConfig
) -> None:
    with pytest.raises(ConfigError, match=words):
        load_data(
            load_config(write_config(READ.replace(old, new) + "    def __iter__(self):\n        yield self[0]\n"))
        )


@pytest.mark.parametrize("kind", ["3", "len", "torch.tensor(3)", "'011'", "{'ant': 0, 'bee': 1, 'cat': 1}"])
def test_labels_that_are_no_list_are_told(kind: str, write_config: WriteConfig) -> None:
    lines = READ.replace("def __len__", f"labels = {kind}\n    def __len__")
    with pytest.raises(DataError, match=r"labels of the data set for train is no list, but .*\n.*\n.*another name"):
        load_data(load_config(write_config(lines)))


def test_a_length_that_cannot_be_told_has_a_reason(write_config: WriteConfig) -> None:
    with pytest.raises(DataError, match="length of the data set for train cannot be told: TypeError: 'float' object"):
        load_data(load_config(write_config(READ.replace("len(self.kept)", "3.0"))))


def test_a_librarys_data_set_that_raises_is_no_bug(write_config: WriteConfig) -> None:
    lines = "from functools import partial\nfrom torchvision.datasets import CIFAR10\ndataset = partial(CIFAR10, '.')"
    with pytest.raises(DataError, match=r"data set for train cannot be made: RuntimeError: Dataset not found"):
        load_data(load_config(write_config(lines)))
    with pytest.raises(ZeroDivisionError):  # the user's own: told with its line
        load_data(load_config(write_config(READ.replace("[0, 1, 1]", "1 / 0"))))


def test_classes_that_were_renamed_since_are_no_longer_those_of_the_model(write_config: WriteConfig) -> None:
    config = load_config(write_config(OWN))
    assert pick_validation(config, ("ant", "bee", "cat", "dog")).labels is None
    with pytest.raises(
        DataError, match=r"other classes than the model: ant, bee, cat, dog / ant, cat, bee\n.*\n.*--data"
    ):
        pick_validation(config, ("ant", "cat", "bee"))


def test_what_a_data_set_gives_is_not_the_transforms_matter(write_config: WriteConfig) -> None:
    config = load_config(
        write_config(OWN.replace("torch.zeros(3, 8, 8)", "torch.zeros(3, 8, 8, dtype=torch.uint8)")),
        {"class_weights": "uniform"},
    )
    with pytest.raises(
        ConfigError, match=r"The data set gives no float tensors.*\n.*dataset \(gives torch.uint8"
    ) as raised:
        build_run(config, load_data(config))
    assert "ToTensor" not in str(raised.value)
