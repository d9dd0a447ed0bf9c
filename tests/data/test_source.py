"""What a run reads: folders, tables, one folder split in two; and what it refuses."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pochitrain.config.loader import load_config
from pochitrain.data.folder import scan_folder
from pochitrain.data.source import Data, load_data
from pochitrain.data.split import split_folder
from pochitrain.data.table import read_table
from pochitrain.errors import ConfigError, DataError
from tests.conftest import make_images

WriteConfig = Callable[..., Path]


def names(data: Data, side: str) -> set[str]:
    split = data.train if side == "train" else data.val
    assert split is not None
    return {"/".join(Path(path).parts[-2:]) for path in split.items}


def test_folders_are_labelled_by_name(write_config: WriteConfig) -> None:
    data = load_data(load_config(write_config()))
    assert data.classes == ("ant", "bee", "cat")
    assert data.counts == (10, 7, 6)
    assert data.val is not None
    assert len(data.val) == 9
    assert [Path(data.val.items[index]).parent.name for index in (0, 3, 6)] == ["ant", "bee", "cat"]
    assert list(data.val.labels or ()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_split_moves_no_image_when_others_come(tmp_path: Path) -> None:
    root = make_images(tmp_path / "all", {"ant": 80, "bee": 60, "cat": 7})
    train, val = split_folder(scan_folder(root), 0.25, None)
    assert len(train.files) + len(val.files) == 147
    assert set(train.files).isdisjoint(val.files)
    assert set(val.labels) == {0, 1, 2}
    assert 0.12 < sum(label == 0 for label in val.labels) / 80 < 0.4
    make_images(root, {"ant": 100, "dog": 30}, seed=9)  # rewrites ant with other images, and more of them
    make_images(root, {"ant": 80}, seed=0)
    (root / "bee" / "000.png").rename(root / "bee" / "zzz.png")
    more_train, more_val = split_folder(scan_folder(root), 0.25, None)
    renamed = {"bee/000.png": "bee/zzz.png"}
    assert {renamed.get(name, name) for name in train.files} <= set(more_train.files)
    assert {renamed.get(name, name) for name in val.files} <= set(more_val.files)


def test_equal_images_and_groups_stay_together(tmp_path: Path) -> None:
    root = tmp_path / "all"
    random = np.random.default_rng(0)
    for part in range(20):
        for view in range(5):
            path = root / "ok" / f"part{part:02d}_view{view}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    for number in range(6):
        (root / "ok" / f"copy{number}.png").write_bytes((root / "ok" / "part00_view0.png").read_bytes())
    folder = scan_folder(root)
    train, val = split_folder(folder, 0.3, None)
    copies = {name for name in folder.files if "copy" in name or name.endswith("part00_view0.png")}
    assert copies <= set(train.files) or copies <= set(val.files)
    train, val = split_folder(folder, 0.3, r"part\d+")
    parts = [{name.split("_")[0] for name in side.files if "part" in name} for side in (train, val)]
    assert parts[0].isdisjoint(parts[1])
    assert min(len(parts[0]), len(parts[1])) >= 1


def test_a_group_in_two_classes_is_not_torn_apart(tmp_path: Path) -> None:
    for seed in range(20):
        root = make_images(tmp_path / str(seed), {"ok": 12, "scratch": 3}, seed=seed)
        train, val = split_folder(scan_folder(root), 0.25, r"\d+\.png")  # 000.png to 002.png are in both classes
        parts = [{name.rpartition("/")[2] for name in folder.files} for folder in (train, val)]
        assert parts[0].isdisjoint(parts[1])
        assert set(train.labels) == {0, 1}
        assert set(val.labels) == {0, 1}
        for name in ("000.png", "001.png"):
            shutil.copy(root / "ok" / name, root / "scratch" / name)
        train, val = split_folder(scan_folder(root), 0.25, None)
        assert {(train.root / name).read_bytes() for name in train.files}.isdisjoint(
            (val.root / name).read_bytes() for name in val.files
        )


def test_a_class_lends_no_group_that_another_class_needs(tmp_path: Path) -> None:
    for seed in range(12):  # the number of a group decides which of the six would be lent first
        parts = [f"part{6 * seed + number}.png" for number in range(6)]
        root = tmp_path / str(seed)
        for name, some in {"ok": parts, "dent": parts[:1], "rust": parts[:1], "hole": parts[1:2]}.items():
            (root / name).mkdir(parents=True)
            for part in some:
                (root / name / part).touch()
        train, val = split_folder(scan_folder(root), 0.2, r"part\d+")
        assert {train.classes[label] for label in val.labels} == {"ok"}
        assert set(train.labels) == {0, 1, 2, 3}


def test_a_split_without_validation_is_an_error(write_config: WriteConfig, tmp_path: Path) -> None:
    root = make_images(tmp_path / "all", {"ant": 4, "bee": 4})
    lines = f"train_data_root = {str(root)!r}\nval_data_root = 'auto'\n"
    with pytest.raises(DataError, match=r"Nothing is left for validation.*\n.*all\n.*another group_by"):
        load_data(load_config(write_config(lines + "group_by = r'\\.png$'")))
    with pytest.raises(ConfigError, match="group_by cannot be ''"):
        load_config(write_config(lines + "group_by = ''"))


def test_uncompressed_images_are_told_apart_by_all_their_bytes(tmp_path: Path) -> None:
    """A dot on a white page: the size, the head, the middle and the tail of the file are the same."""
    root = tmp_path / "all"
    (root / "page").mkdir(parents=True)
    for number in range(40):
        image = Image.new("RGB", (100, 100), "white")
        image.putpixel((number, 20), (0, 0, 0))
        image.save(root / "page" / f"{number}.{'bmp' if number % 2 else 'tiff'}")
    train, val = split_folder(scan_folder(root), 0.5, None)
    for side in (train, val):
        assert {Path(name).suffix for name in side.files} == {".bmp", ".tiff"}
    shutil.copy(root / val.files[0], root / "page" / f"copy{Path(val.files[0]).suffix}")
    _train, more = split_folder(scan_folder(root), 0.5, None)
    assert set(val.files) < set(more.files)


def test_the_sides_of_today_are_those_of_earlier_versions(tmp_path: Path) -> None:
    root = tmp_path / "all"
    (root / "a").mkdir(parents=True)
    for number, (name, head) in enumerate(
        [
            ("jpeg", b"\xff\xd8\xff"),
            ("png", b"\x89PNG\r\n\x1a\n"),
            ("gif", b"GIF89a"),
            ("webp", b"RIFF"),
            ("bmp", b"BM"),
        ]
    ):
        length = 12_288 if name == "bmp" else 20_000  # of small files the parts are all there is
        (root / "a" / f"{number}.{name}").write_bytes(head + bytes(length - len(head)))
    train, val = split_folder(scan_folder(root), 0.4, None)
    assert train.files == ("a/0.jpeg", "a/4.bmp")
    assert val.files == ("a/1.png", "a/2.gif", "a/3.webp")


def test_what_group_by_finds_is_told(write_config: WriteConfig, tmp_path: Path) -> None:
    root = make_images(tmp_path / "all", {"ant": 30, "bee": 30})
    (root / "bee" / "000.png").rename(root / "bee" / "other.png")

    def load(group_by: str) -> Data:
        split = f"train_data_root = {str(root)!r}\nval_data_root = 'auto'\ngroup_by = {group_by!r}"
        return load_data(load_config(write_config(split)))

    notes = load(r"(\d)(\d)\.png").notes  # the first parentheses alone: 00 to 09 are one group
    assert "group_by makes 3 groups of 59 images" in notes
    assert "group_by finds nothing in 1 of 60 paths" in notes
    with pytest.raises(ConfigError, match=r"nothing in any of the 60 paths, e.g. ant/000.png\n.*group_by\n.*fits"):
        load(r"part\d+")


def test_groups_do_not_depend_on_the_unicode_form_of_a_name(tmp_path: Path) -> None:
    split = []
    for form in ("NFC", "NFD"):
        root = make_images(tmp_path / form, {"a": 40})
        for number, path in enumerate(sorted((root / "a").iterdir())):
            path.rename(root / "a" / unicodedata.normalize(form, f"ガ{number % 8}_{number:02}.png"))
        _train, val = split_folder(scan_folder(root), 0.25, r"(ガ\d+)_")
        split.append([unicodedata.normalize("NFC", name) for name in val.files])
    assert split[0] == split[1]
    assert len(split[0]) % 5 == 0


def test_auto_makes_a_split_that_is_part_of_the_identity(write_config: WriteConfig) -> None:
    path = write_config("val_data_root = 'auto'\nval_fraction = 0.3")
    data = load_data(load_config(path))
    assert names(data, "train").isdisjoint(names(data, "val"))
    other = load_data(load_config(path, {"val_fraction": 0.6}))
    assert other.digests != data.digests
    assert load_data(load_config(path)).digests == data.digests


def test_what_a_drawing_leaves_to_chance_is_told(write_config: WriteConfig, tmp_path: Path) -> None:
    root = make_images(tmp_path / "all", {"ant": 300, "bee": 4, "cat": 1})
    shutil.copy(root / "ant" / "000.png", root / "bee" / "same.png")

    def notes(lines: str) -> str:
        split = f"train_data_root = {str(root)!r}\nval_data_root = 'auto'\n{lines}"
        return "\n".join(load_data(load_config(write_config(split))).notes)

    assert "training needs all their images or groups: cat" in notes("")
    assert re.search(
        r"validation holds \d+ % of class (ant|bee) and \d+ % of class (ant|bee); val_fraction is 20 %", notes("")
    )
    assert "in training and in validation" not in notes("")
    pairs = [notes(f"val_fraction = {part / 10}\ngroup_by = '.*'") for part in range(1, 10)]
    assert any("1 images are in training and in validation" in text for text in pairs)


def test_a_table_in_the_place_of_folders(write_config: WriteConfig, images: Path, tmp_path: Path) -> None:
    files = sorted((images / "train").rglob("*.png"))
    lines = [f"{file},{'虫' if file.parent.name == 'ant' else 'animal'}" for file in files]
    table = tmp_path / "labels.csv"
    table.write_text("\ufeffpath,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    config = load_config(write_config(f"train_data_root = {str(table)!r}\nval_data_root = 'auto'"))
    data = load_data(config)
    assert data.classes == ("animal", "虫")
    assert data.val is not None
    assert len(data.train) + len(data.val) == 23
    relabelled = "\n".join(line.replace("虫", "animal") if "000" in line else line for line in lines)
    table.write_text("path,label\n" + relabelled + "\n", encoding="utf-8")
    assert load_data(config).digests != data.digests


def test_two_tables_of_one_folder_leak_only_what_both_list(
    write_config: WriteConfig, images: Path, tmp_path: Path
) -> None:
    files = sorted((images / "train").rglob("*.png"))
    for name, some in (("a.csv", files[::2]), ("b.csv", files[1::2])):
        (images / name).write_text("path,label\n" + "".join(f"{f.relative_to(images)},{f.parent.name}\n" for f in some))
    lines = f"train_data_root = {str(images / 'a.csv')!r}\nval_data_root = {str(images / 'b.csv')!r}"
    assert load_data(load_config(write_config(lines))).notes == ()
    with (images / "b.csv").open("a") as table:
        table.write(f"{files[0].relative_to(images)},ant\n")
    notes = load_data(load_config(write_config(lines))).notes
    assert len(notes) == 1
    assert "1 images are in training and in validation" in notes[0]


def test_a_table_with_mistakes_names_their_lines(write_config: WriteConfig, images: Path, tmp_path: Path) -> None:
    good = next((images / "train").rglob("*.png"))
    table = tmp_path / "labels.csv"
    table.write_text(f"path,label\n{good},a\nmissing.png,a\n{good},b\n{good},\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_data(load_config(write_config(f"train_data_root = {str(table)!r}")))
    assert [problem.where.rpartition(":")[2] for problem in caught.value.problems] == ["3", "4", "5"]
    for lines, words in (
        (f"{good},a\n{good.parent}/./{good.name},b\n", "is listed twice"),
        ("a\0b.png,a\n", "cannot be read"),
        (
            f'{good},a\n\n{good},"b\nother.png,c\n',
            r"The table cannot be read: .*\n.*labels.csv:4\n.*a quotation mark before",
        ),
        (f'{good},"a"b\n', r"The table cannot be read: .*\n.*labels.csv:2\n"),
        (f"{good},{'a' * 200_000}\n", r"The table cannot be read: .*\n.*labels.csv:2\n"),
    ):
        table.write_text(f"path,label\n{lines}", encoding="utf-8")
        with pytest.raises(DataError, match=words):
            load_data(load_config(write_config(f"train_data_root = {str(table)!r}")))
    for text, words in (
        ("file;class\n", r"it has: file;class\n.*\n.*write path,label"),
        ("path;label\na.png;cat\n", "by commas, not by ';'"),
        ('path;label\n"a.png";"cat"\n', "by commas, not by ';'"),
        ("path; label\na.png; cat\n", "by commas, not by ';'"),
        ("path\tlabel\na.png\tcat\n", r"by commas, not by '\\t'"),
        ("path,label,label\na.png,cat,dog\n", "it has: path, label, label"),
        ("", "The table is empty"),
        ("path,label\n", "The table lists no image"),
    ):
        table.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=words):
            load_data(load_config(write_config(f"train_data_root = {str(table)!r}")))


def test_a_comma_in_a_label_needs_quotation_marks(write_config: WriteConfig, images: Path, tmp_path: Path) -> None:
    small, large, other = sorted((images / "train").rglob("*.png"))[:3]
    table = tmp_path / "labels.csv"
    config = load_config(write_config(f"train_data_root = {str(table)!r}\nval_data_root = None"))
    table.write_text(f"path,label\n{small},cat, small\n{large},cat, large\n{other},dog,\n", encoding="utf-8")
    with pytest.raises(DataError, match="quotation marks") as caught:
        load_data(config)
    assert [problem.where for problem in caught.value.problems] == [f"{table}:2", f"{table}:3"]
    table.write_text(f'path,label\n{small},"cat, small"\n{large},"cat, large"\n{other},dog,\n', encoding="utf-8")
    assert load_data(config).classes == ("cat, large", "cat, small", "dog")


def test_spaces_around_the_values_of_a_table_mean_nothing(images: Path, tmp_path: Path) -> None:
    first, second, third = sorted((images / "train").rglob("*.png"))[:3]
    table = tmp_path / "labels.csv"
    table.write_text(f'path , label, note\n{first}, cat,\n {second} , "cat, small"\n{third},cat , \n', encoding="utf-8")
    assert read_table(table).classes == ("cat", "cat, small")


def test_a_table_lists_regular_files_only(write_config: WriteConfig, images: Path, tmp_path: Path) -> None:
    good = next((images / "train").rglob("*.png"))
    os.mkfifo(tmp_path / "pipe.png")
    table = tmp_path / "labels.csv"
    table.write_text(f"path,label\n{good},a\npipe.png,a\n/dev/zero,a\n{good.parent},a\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_data(load_config(write_config(f"train_data_root = {str(table)!r}")))
    assert [problem.where.rpartition(":")[2] for problem in caught.value.problems] == ["3", "4", "5"]
    assert all("no regular file" in problem.what for problem in caught.value.problems)


def test_broken_images_are_listed_all_or_left_out(write_config: WriteConfig, tmp_path: Path) -> None:
    data = make_images(tmp_path / "data" / "train", {"ant": 4, "bee": 4}).parent
    make_images(data / "val", {"ant": 2, "bee": 2}, seed=1)
    (data / "train" / "ant" / "000.png").write_bytes(b"")
    (data / "val" / "bee" / "001.png").write_text("no image")
    with pytest.raises(DataError) as caught:
        load_data(load_config(write_config(data=data)))
    assert caught.value.exit_code == 3
    assert len(caught.value.problems) == 2
    assert "000.png" in caught.value.problems[0].where
    loaded = load_data(load_config(write_config("on_bad_image = 'skip'", data=data)))
    assert loaded.counts == (3, 4)
    assert any("2 unreadable images" in note for note in loaded.notes)
    (data / "val" / "bee" / "000.png").write_text("no image")
    notes = load_data(load_config(write_config("on_bad_image = 'skip'", data=data))).notes
    assert "classes without a readable validation image: bee" in notes


def test_leaks_and_contradictions_are_told(write_config: WriteConfig, tmp_path: Path) -> None:
    data = make_images(tmp_path / "data" / "train", {"ant": 4, "bee": 4}).parent
    make_images(data / "val", {"ant": 2, "bee": 2}, seed=1)
    (data / "val" / "ant" / "copy.png").write_bytes((data / "train" / "ant" / "001.png").read_bytes())
    assert any(
        "1 images are in training and in validation" in note
        for note in load_data(load_config(write_config(data=data))).notes
    )
    with pytest.raises(ConfigError, match="num_classes is 5, but the data has 2 classes: ant, bee"):
        load_data(load_config(write_config("num_classes = 5", data=data)))
    (data / "val" / "bee").rename(data / "val" / "wasp")
    with pytest.raises(DataError) as caught:
        load_data(load_config(write_config(data=data)))
    assert "wasp" in str(caught.value)
    assert "bee" in str(caught.value)


def test_what_contradicts_the_data_is_told_at_once(write_config: WriteConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_data(load_config(write_config("num_classes = 5\nclass_weights = [1, 2, 3, 4, 5]")))
    assert [problem.where for problem in refused.value.problems] == ["num_classes", "class_weights"]
    roots = f"train_data_root, val_data_root = {str(tmp_path / 'a')!r}, {str(tmp_path / 'b')!r}"
    with pytest.raises(DataError) as caught:
        load_data(load_config(write_config(roots)))
    assert [problem.where for problem in caught.value.problems] == [str(tmp_path / "a"), str(tmp_path / "b")]
