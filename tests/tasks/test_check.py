"""`pochi check` on folders with planted faults: everything is found, nothing else is called an error."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

from pochitrain.cli import app, run
from pochitrain.config.loader import load_config
from pochitrain.data.audit import survey, twins
from pochitrain.data.folder import scan_folder
from pochitrain.data.source import load_data
from pochitrain.errors import DataError
from pochitrain.tasks.check import crop_steps, shown_pairs
from tests.data.pictures import picture, write_pictures
from tests.data.zoo import damaged_jpegs, doubtful_jpegs, refused_by_pixels, refused_ones

WriteConfig = Callable[..., Path]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder with `train` and `val` in which nothing is wrong."""
    write_pictures(tmp_path / "data" / "train", {"ant": 10, "bee": 10})
    write_pictures(tmp_path / "data" / "val", {"ant": 5, "bee": 5}, first=50)
    return tmp_path / "data"


@pytest.fixture
def check(write_config: WriteConfig, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that runs `pochi check` on `data` and returns its exit code; the report goes to `report`."""

    def call(lines: str = "", *arguments: str) -> int:
        config = write_config(lines, data=data)
        output = str(tmp_path / "report")
        monkeypatch.setattr(sys, "argv", ["pochi", "check", "--config", str(config), "--output", output, *arguments])
        return run(app)

    return call


def rows(report: Path) -> list[dict[str, str]]:
    with (report / "problems.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def kinds(report: Path) -> Counter[tuple[str, str]]:
    return Counter((row["severity"], row["kind"]) for row in rows(report))


class Page(HTMLParser):
    """The texts of a page, and everything that it would load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.sources: list[str] = []
        self.tags: Counter[str] = Counter()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, text: str) -> None:
        self.texts.append(text)


def test_good_data_passes(check: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert check() == 0
    assert rows(tmp_path / "report") == []
    assert "Nothing is wrong with the images." in capfd.readouterr().out
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.html", "problems.csv", "balance.png"}


def test_planted_faults_are_found(
    check: Callable[..., int], data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train, val = data / "train", data / "val"
    shutil.copy(train / "ant" / "003.png", val / "ant" / "leak.png")
    picture(7).transpose(Image.Transpose.ROTATE_90).save(train / "ant" / "turned.png")
    picture(15).resize((60, 45)).save(val / "bee" / "small.jpg")
    (train / "ant" / "cut.png").write_bytes((train / "ant" / "009.png").read_bytes()[:-300])
    (train / "bee" / "text.jpg").write_text("no image")
    (val / "ant" / "empty.jpg").write_bytes(b"")
    write_pictures(train, {"wasp": 10}, first=100)
    assert check() == 3
    assert kinds(tmp_path / "report") == {
        ("error", "classes"): 1,
        ("error", "unreadable"): 3,
        ("warning", "leak"): 1,
        ("warning", "near_leak"): 1,
        ("warning", "near_duplicate"): 1,
    }
    assert (tmp_path / "report" / "problems.csv").read_bytes().startswith(b"\xef\xbb\xbf")  # Excel goes by it
    said = capfd.readouterr().out
    assert "unreadable file: " + str(train / "bee" / "text.jpg") in said
    assert "missing: wasp" in said
    assert "errors: 4, warnings: 3" in said
    assert (tmp_path / "report" / "pairs.png").exists()


def test_every_damaged_picture_is_a_finding(check: Callable[..., int], data: Path, tmp_path: Path) -> None:
    files = [*refused_ones(), *refused_by_pixels()]
    for number, (_name, content, _word) in enumerate(files):
        (data / "train" / "ant" / f"bad{number}.png").write_bytes(content)
    assert check() == 3
    assert kinds(tmp_path / "report")["error", "unreadable"] == len(files)


def test_unreadable_files_that_training_skips_are_warnings(
    check: Callable[..., int], data: Path, tmp_path: Path
) -> None:
    (data / "train" / "bee" / "text.jpg").write_text("no image")
    assert check('on_bad_image = "skip"') == 0
    assert kinds(tmp_path / "report") == {("warning", "unreadable"): 1}


def test_a_folder_that_is_missing_does_not_hide_the_other(
    check: Callable[..., int], data: Path, tmp_path: Path
) -> None:
    shutil.rmtree(data / "val")
    (data / "train" / "bee" / "text.jpg").write_text("no image")
    assert check() == 3
    assert kinds(tmp_path / "report") == {("error", "folder"): 1, ("error", "unreadable"): 1}


def test_what_is_wrong_with_one_part_hides_nothing_else(check: Callable[..., int], data: Path, tmp_path: Path) -> None:
    (data / "train" / "ant" / "gone.png").symlink_to("nowhere.png")
    (data / "val" / "bee").rename(data / "val" / "wasp")
    shutil.copy(data / "train" / "ant" / "003.png", data / "val" / "ant" / "leak.png")
    assert check() == 3
    assert kinds(tmp_path / "report") == {("error", "classes"): 2, ("warning", "note"): 1, ("warning", "leak"): 1}


def test_a_split_that_leaves_nothing_to_validate_is_an_error(check: Callable[..., int], tmp_path: Path) -> None:
    assert check("val_data_root = 'auto'\ngroup_by = 'png'") == 3
    assert kinds(tmp_path / "report") == {("error", "folder"): 1}
    assert "Nothing is left for validation" in rows(tmp_path / "report")[0]["detail"]


def test_what_contradicts_the_data_is_an_error(check: Callable[..., int], tmp_path: Path) -> None:
    assert check("num_classes = 5\nclass_weights = [1, 2, 3, 4, 5]") == 3
    found = rows(tmp_path / "report")
    assert [(row["kind"], row["file"]) for row in found] == [("classes", "num_classes"), ("classes", "class_weights")]
    assert "the data has 2 classes: ant, bee" in found[0]["detail"]
    assert check("val_data_root = 'auto'\ngroup_by = 'part'") == 3
    assert "group_by finds nothing" in rows(tmp_path / "report")[0]["detail"]


def test_a_picture_that_is_gone_by_now_is_a_finding_and_not_shown(data: Path, tmp_path: Path) -> None:
    train = data / "train"
    for name in ("000", "001"):
        shutil.copy(train / "ant" / f"{name}.png", train / "ant" / f"copy{name}.png")
        shutil.copy(train / "ant" / f"{name}.png", train / "bee" / f"copy{name}.png")
    pairs = twins([survey("train", scan_folder(train), tmp_path / "cache")])
    (train / "ant" / "000.png").unlink()
    shown, lost = shown_pairs(pairs, "error")
    assert [pair.names[0] for pair in shown] == ["Training: ant/001.png"] * 2
    assert [(it.kind, it.severity, it.file) for it in lost] == [("unreadable", "error", str(train / "ant" / "000.png"))]
    assert "No such file" in lost[0].detail


def test_a_known_copy_that_is_overwritten_since_is_told(check: Callable[..., int], data: Path, tmp_path: Path) -> None:
    copy = data / "train" / "ant" / "copy.png"
    shutil.copy(data / "train" / "ant" / "003.png", copy)
    assert check() == 0
    status = copy.stat()
    copy.write_bytes(bytes(status.st_size))
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert check() == 3
    assert kinds(tmp_path / "report") == {("error", "unreadable"): 1}
    assert (tmp_path / "report" / "report.html").exists()


def test_a_table_with_a_missing_file_is_looked_at_all_the_same(
    check: Callable[..., int], data: Path, tmp_path: Path
) -> None:
    names = [f"ant/{number:03}.png" for number in range(10)]
    (data / "labels.csv").write_text("path,label\n" + "".join(f"train/{name},ant\n" for name in [*names, "no.png"]))
    (data / "train" / "ant" / "002.png").write_bytes(b"")
    roots = f"train_data_root = {str(data / 'labels.csv')!r}\nval_data_root = None"
    assert check(roots) == 3
    assert kinds(tmp_path / "report") == {
        ("error", "folder"): 1,
        ("error", "unreadable"): 1,
        ("warning", "small_class"): 1,
    }
    missing = next(row for row in rows(tmp_path / "report") if row["kind"] == "folder")
    assert missing["file"].endswith("labels.csv:12")
    assert "no.png cannot be read: No such file or directory (mend: correct the path" in missing["detail"]


def test_damage_inside_is_known_to_the_next_training(
    check: Callable[..., int], data: Path, tmp_path: Path, write_config: WriteConfig
) -> None:
    content = (data / "train" / "ant" / "004.png").read_bytes()
    middle = len(content) // 2
    picture(70).save(data / "train" / "ant" / "more.png")
    (data / "train" / "ant" / "004.png").write_bytes(content[:middle] + bytes(40) + content[middle + 40 :])
    jpegs = {name: content for name, content, _word in damaged_jpegs()}
    (data / "val" / "bee" / "half.jpg").write_bytes(jpegs["baseline-cut.jpg"])
    (data / "val" / "bee" / "odd.jpg").write_bytes(doubtful_jpegs()["bytes before the end"][0])
    assert len(load_data(load_config(write_config(data=data))).train) == 21  # nobody has decoded them
    for _time in range(2):
        assert check() == 3
        assert kinds(tmp_path / "report") == {("error", "unreadable"): 2, ("warning", "doubtful"): 1}
    config = load_config(write_config(data=data))
    with pytest.raises(DataError) as caught:
        load_data(config)
    assert [Path(problem.where).name for problem in caught.value.problems] == ["004.png", "half.jpg"]
    skipping = load_data(load_config(write_config("on_bad_image = 'skip'", data=data)))
    assert len(skipping.train) == 21  # the same experiment, whether somebody has looked or not
    (data / "train" / "ant" / "004.png").write_bytes(content)
    (data / "val" / "bee" / "half.jpg").unlink()
    assert len(load_data(config).train) == 21


def test_nothing_to_look_at(check: Callable[..., int], data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(data)
    assert check() == 3
    assert capfd.readouterr().err.count("where:") == 2


def test_validation_inside_training(check: Callable[..., int], data: Path, tmp_path: Path) -> None:
    assert check(f"val_data_root = {str(data / 'train')!r}") == 0
    assert kinds(tmp_path / "report") == {("warning", "nested"): 1, ("warning", "leak"): 20}


@pytest.mark.parametrize("value", ["None", '"auto"'])
def test_one_folder_is_enough(value: str, check: Callable[..., int], tmp_path: Path) -> None:
    assert check(f"val_data_root = {value}\nval_fraction = 0.5") == 0
    assert all(row["kind"] == "small_class" for row in rows(tmp_path / "report"))


def test_tables_of_labels(check: Callable[..., int], data: Path, tmp_path: Path) -> None:
    names = [f"ant/{number:03}.png" for number in range(10)]
    for split, some in (("train", names), ("val", names[:5])):
        lines = [f"train/{name},ant\n" for name in some]
        (data / f"{split}.csv").write_text("path,label\n" + "".join(lines))
    roots = f"train_data_root = {str(data / 'train.csv')!r}\nval_data_root = {str(data / 'val.csv')!r}"
    assert check(roots) == 0
    assert kinds(tmp_path / "report") == {("warning", "leak"): 5}


def test_a_data_set_of_the_users_own_is_refused(check: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    own = "def dataset(root):\n    return [(0, 0)]"
    assert check(own) == 2
    assert "--set dataset=None" in capfd.readouterr().err
    assert check(own, "--set", "dataset=None") == 0


def test_the_crop_is_told(
    check: Callable[..., int], data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    picture(30, (400, 100)).save(data / "train" / "ant" / "wide.png")
    crop = (
        "val_transform = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(32), transforms.ToTensor()])"
    )
    assert check(crop) == 0
    assert kinds(tmp_path / "report") == {("warning", "crop"): 1}
    assert "cuts off 25 % of the image area (median), 75 % at worst" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("transform", "steps"),
    [
        (
            transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)]),
            [("resize", (256,)), ("crop", (224, 224))],
        ),
        (
            v2.Compose([v2.ToImage(), v2.Resize((20, 30)), v2.CenterCrop([10, 20])]),
            [("resize", (20, 30)), ("crop", (10, 20))],
        ),
        (ResNet18_Weights.DEFAULT.transforms(), [("resize", (256,)), ("crop", (224, 224))]),
        (transforms.CenterCrop(5), [("crop", (5, 5))]),
        (transforms.Compose([transforms.Pad(3), transforms.CenterCrop(5)]), []),
        (transforms.Compose([transforms.Resize(64, max_size=80), transforms.CenterCrop(5)]), []),
        (transforms.Compose([transforms.CenterCrop(5), lambda image: image]), [("crop", (5, 5))]),
        (lambda image: image, []),
        (nn.Identity(), []),
    ],
)
def test_crops_are_found_where_they_can_be_told(transform: object, steps: list) -> None:
    assert crop_steps(transform) == steps


def test_the_page_needs_nothing_else_and_shows_names_as_they_are(
    check: Callable[..., int], data: Path, tmp_path: Path
) -> None:
    strange = '<b>&"蟻 🐜'
    for split in ("train", "val"):
        (data / split / "ant").rename(data / split / strange)
    shutil.copy(data / "train" / strange / "000.png", data / "val" / strange / "<i>写し.png")
    shutil.copy(data / "train" / "bee" / "001.png", os.fsencode(data / "train" / "bee") + b"/\xff\n.png")
    assert check() == 0
    assert kinds(tmp_path / "report") == {("warning", "leak"): 1, ("warning", "duplicate"): 1}
    page = Page(tmp_path / "report" / "report.html")
    assert len(page.sources) == 5  # the balance, two pairs
    assert all(source.startswith("data:image/") for source in page.sources)
    assert not page.tags["b"] - 2  # our own, one for each pair
    assert not page.tags["i"]
    assert f"Validation: {strange}/<i>写し.png" in page.texts
    assert any(text.endswith(r"bee/\xff\n.png") for text in page.texts)
    assert {row["other_file"].rpartition("/")[2] for row in rows(tmp_path / "report")} == {"<i>写し.png", r"\xff\n.png"}


def test_a_second_check_replaces_the_first(check: Callable[..., int], data: Path, tmp_path: Path) -> None:
    copy = data / "val" / "ant" / "leak.png"
    shutil.copy(data / "train" / "ant" / "003.png", copy)
    check()
    assert (tmp_path / "report" / "pairs.png").exists()
    copy.unlink()
    check()
    assert not (tmp_path / "report" / "pairs.png").exists()
    assert rows(tmp_path / "report") == []


def test_the_report_goes_beside_the_experiments(
    write_config: WriteConfig, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(data=data)
    monkeypatch.setattr(sys, "argv", ["pochi", "check", "--config", str(config)])
    assert run(app) == 0
    assert (tmp_path / "work_dirs" / "tiny" / "check" / "report.html").exists()
    monkeypatch.setattr(sys, "argv", ["pochi", "list", "--work-dir", str(tmp_path / "work_dirs")])
    assert run(app) == 0


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_read(
    check: Callable[..., int], tmp_path: Path
) -> None:
    (tmp_path / "report").write_text("")
    assert check() == 74
    assert not (tmp_path / "work_dirs").exists()
