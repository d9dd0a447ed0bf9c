"""Class folders as users have them: odd names, links, leftovers, mistakes; and what stands for them afterwards."""

from __future__ import annotations

import json
import os
import time
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from pochitrain.data.decode import BrokenImage
from pochitrain.data.folder import (
    ImageFolder,
    check_headers,
    check_same_classes,
    manifest,
    manifest_difference,
    manifest_digest,
    nested_roots,
    scan_folder,
    with_classes,
)
from pochitrain.data.leaks import exact_leaks
from pochitrain.errors import DataError


def make(root: Path, *names: str) -> Path:
    """Write a small file at each relative path; files are told apart by their content."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d " % number + name.encode("utf-8", "surrogateescape"))
    return root


def problems(function: object, *arguments: object) -> list[str]:
    with pytest.raises(DataError) as caught:
        function(*arguments)  # type: ignore[operator]
    assert all(problem.mend for problem in caught.value.problems)
    return [problem.what for problem in caught.value.problems]


# ---- scanning ----


def test_images_are_found_at_any_depth_and_in_order(tmp_path: Path) -> None:
    make(
        tmp_path,
        "dog/b.JPG",
        "dog/a/z.png",
        "dog/a/deep/er/1.webp",
        "dog/a.gif",
        "cat/2.tiff",
        "cat/10.jfif",
        "Ant/1.BMP",
    )
    folder = scan_folder(str(tmp_path))
    assert folder.classes == ("Ant", "cat", "dog")
    assert folder.files == (
        "Ant/1.BMP", "cat/10.jfif", "cat/2.tiff", "dog/a/deep/er/1.webp", "dog/a/z.png", "dog/a.gif", "dog/b.JPG",
    )  # fmt: skip
    assert folder.labels == (0, 1, 1, 2, 2, 2, 2)
    assert folder.sizes == tuple((tmp_path / name).stat().st_size for name in folder.files)
    assert folder.notes == ()
    assert folder.path(0) == str(tmp_path / "Ant/1.BMP")


def test_the_order_does_not_follow_the_disk(tmp_path: Path) -> None:
    names = [f"c{number % 3}/{number:03}.png" for number in range(60)]
    make(tmp_path / "a", *names)
    make(tmp_path / "b", *reversed(names))
    assert scan_folder(tmp_path / "a").files == scan_folder(tmp_path / "b").files == tuple(sorted(names))


def test_hidden_entries_never_count(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "a/.hidden.png", "a/._1.png", "a/.DS_Store", "a/.ipynb_checkpoints/1-checkpoint.png")
    make(tmp_path, "a/Thumbs.db", "a/desktop.ini", "a/__MACOSX/1.png", ".git/1.png", "__MACOSX/a/1.png", ".DS_Store")
    folder = scan_folder(tmp_path)
    assert (folder.classes, folder.files, folder.notes) == (("a",), ("a/1.png",), ())


def test_other_files_are_left_out_and_counted(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "a/x.txt", "a/y.TXT", "a/z.heic", "a/README", "labels.csv", "beside.png")
    folder = scan_folder(tmp_path)
    assert folder.files == ("a/1.png",)
    assert folder.notes == (
        "1 images beside the class folders are left out",
        "5 files of other kinds are left out: 2 .txt, 1 without suffix, 1 .csv, 1 .heic",
    )


def test_a_named_pipe_is_no_image(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png")
    os.mkfifo(tmp_path / "a/2.png")
    folder = scan_folder(tmp_path)
    assert folder.files == ("a/1.png",)
    assert folder.notes == ("1 entries that are no regular files are left out, e.g. a/2.png",)


def test_links_that_lead_nowhere_or_in_a_circle_are_told(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/deep/2.png")
    (tmp_path / "a/gone.png").symlink_to("nothing.png")
    (tmp_path / "gone_class").symlink_to("nowhere")
    (tmp_path / "a/up").symlink_to("..")
    (tmp_path / "b/deep/up").symlink_to("../../b")
    (tmp_path / "b/self").symlink_to("self")
    folder = scan_folder(tmp_path)
    assert folder.files == ("a/1.png", "b/deep/2.png")
    assert folder.notes == (
        "2 links that lead nowhere are left out, e.g. a/gone.png",
        "3 links that lead in a circle are left out, e.g. a/up",
    )


def test_linked_folders_and_files_count(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "1.png", "more/2.png", "3.png")
    make(tmp_path / "data", "a/0.png", "b/0.png")
    (tmp_path / "data/a/linked").symlink_to(tmp_path / "elsewhere/more")
    (tmp_path / "data/a/9.png").symlink_to(tmp_path / "elsewhere/3.png")
    (tmp_path / "data/c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/3.png").rename(tmp_path / "3.png")
    (tmp_path / "data/a/9.png").unlink()
    (tmp_path / "data/a/9.png").symlink_to(tmp_path / "3.png")
    folder = scan_folder(tmp_path / "data")
    assert folder.files == ("a/0.png", "a/9.png", "a/linked/2.png", "b/0.png", "c/1.png")
    assert folder.sizes[1] == (tmp_path / "3.png").stat().st_size
    assert folder.notes == ("1 files are in two classes by links; the first one counts, e.g. c/more = a/linked",)


def test_a_real_file_counts_once(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "a/2.png", "b/1.png")
    (tmp_path / "a/9-hard.png").hardlink_to(tmp_path / "a/1.png")
    (tmp_path / "a/9-soft.png").symlink_to("2.png")
    (tmp_path / "b/9-hard.png").hardlink_to(tmp_path / "a/1.png")
    folder = scan_folder(tmp_path)
    assert folder.files == ("a/1.png", "a/2.png", "b/1.png")
    assert folder.notes == (
        "2 second names of the same files are left out, e.g. a/9-hard.png = a/1.png",
        "1 files are in two classes by links; the first one counts, e.g. b/9-hard.png = a/1.png",
    )


def test_all_mistakes_of_a_folder_come_at_once(tmp_path: Path) -> None:
    make(tmp_path, "good/1.png", "notes/x.txt", "notes/y.heic")
    (tmp_path / "empty").mkdir()
    make(tmp_path, unicodedata.normalize("NFC", "が/1.png"), unicodedata.normalize("NFD", "が/2.png"))
    assert problems(scan_folder, tmp_path) == [
        "2 class folders have one name, written in different Unicode forms: が",
        "Class empty holds no image",
        "Class notes holds no image, only 1 .heic, 1 .txt",
    ]


def test_folders_that_are_no_data_root(tmp_path: Path) -> None:
    make(tmp_path, "flat/1.png", "flat/2.png", "file.png")
    (tmp_path / "void").mkdir()
    assert problems(scan_folder, tmp_path / "flat") == ["No class folders: 2 images lie directly in the data folder"]
    assert problems(scan_folder, tmp_path / "void") == ["No class folders in the data folder"]
    assert problems(scan_folder, tmp_path / "none") == ["The data folder cannot be read: No such file or directory"]
    assert problems(scan_folder, tmp_path / "file.png") == ["The data folder cannot be read: Not a directory"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_unreadable_folders_are_named(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "a/closed/2.png", "b/1.png")
    for folder in (tmp_path, *tmp_path.parents):  # pytest keeps its folders to itself
        if folder.owner() == "root" and folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    (tmp_path / "a/closed").chmod(0o700)
    (tmp_path / "b").chmod(0o744)  # may be listed, not entered
    os.seteuid(65534)
    try:
        found = problems(scan_folder, tmp_path)
    finally:
        os.seteuid(0)
    assert found == [*["A folder cannot be read: Permission denied"] * 2, "Class b holds no image"]


NAMES = ["日本語", "🐈‍⬛", "with space", "#%&'\"<>;$()", "new\nline", "\udcff\udcfe", "a\\b", "あ" * 85, "か\u3099"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_goes_through_to_json(name: str, tmp_path: Path) -> None:
    image = tmp_path / name / f"{name[:80]}.png"
    image.parent.mkdir()
    Image.new("RGB", (3, 2)).save(image)
    folder = scan_folder(tmp_path)
    assert os.path.samefile(folder.path(0), image)
    headers, broken = check_headers(folder)
    assert (headers[0].width, broken) == (3, [])  # type: ignore[union-attr]
    (text,) = folder.classes
    assert text == unicodedata.normalize("NFC", text)
    assert text.encode("utf-8").splitlines() == [text.encode("utf-8")]
    assert json.loads(json.dumps(manifest(folder))) == manifest(folder)
    assert len(manifest_digest(manifest(folder))) == 64


def test_scanning_takes_at_most_20_microseconds_a_file(tmp_path: Path) -> None:
    """100,000 files in 2 s, tried on a tenth of them: making so many takes longer than the test may."""
    for label in range(10):
        (tmp_path / f"クラス{label}").mkdir()
        handle = os.open(tmp_path / f"クラス{label}", os.O_RDONLY)
        for number in range(1000):  # hard links would be one file
            os.close(os.open(f"{number:03}.png", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
        os.close(handle)
    seconds = []
    for _run in range(3):
        start = time.process_time()
        assert len(scan_folder(tmp_path).files) == 10_000
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.2


# ---- classes by name ----


def folder_of(*classes: str, root: str = "data/val") -> ImageFolder:
    count = len(classes)
    files = tuple(f"{name}/1.png" for name in classes)
    return ImageFolder(Path(root), classes, files, tuple(range(count)), (1,) * count)


def test_labels_follow_the_names_of_the_training_classes(tmp_path: Path) -> None:
    train = scan_folder(make(tmp_path / "train", "ant/1.png", "bee/1.png", "cat/1.png"))
    val = scan_folder(make(tmp_path / "val", "bee/7.png", "cat/8.png", "cat/9.png"))
    partly = with_classes(val, train.classes, "checkpoint", allow_missing=True)
    assert partly.classes == ("ant", "bee", "cat")
    assert dict(zip(partly.files, partly.labels, strict=True)) == {"bee/7.png": 1, "cat/8.png": 2, "cat/9.png": 2}


def test_names_meet_across_unicode_forms(tmp_path: Path) -> None:
    train = scan_folder(make(tmp_path / "train", unicodedata.normalize("NFD", "が/1.png")))
    val = scan_folder(make(tmp_path / "val", unicodedata.normalize("NFC", "が/2.png")))
    assert check_same_classes(train, val).labels == (0,)


def test_an_order_of_training_that_is_not_sorted_is_kept() -> None:
    assert with_classes(folder_of("a", "b"), ("b", "a"), "checkpoint").labels == (1, 0)


def test_classes_that_differ_are_named_on_both_sides() -> None:
    train = folder_of("ant", "bee", "cat", root="data/train")
    with pytest.raises(DataError) as caught:
        check_same_classes(train, folder_of("Ants", "bee", "dog"))
    extra, missing = caught.value.problems
    assert extra.what == "Classes that data/train does not have: Ants, dog"
    assert extra.mend == "remove or rename these classes (Ants → ant)"
    assert missing.what == "Classes of data/train that are missing: ant, cat"
    assert extra.where == missing.where == "data/val"
    assert caught.value.exit_code == 3
    with pytest.raises(DataError, match="does not have: dog"):
        with_classes(folder_of("ant", "dog"), train.classes, "data/train", allow_missing=True)


def test_validation_inside_training_is_the_reason_given(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png", "val/a/2.png", "val/b/2.png")
    found = problems(check_same_classes, scan_folder(tmp_path), scan_folder(tmp_path / "val"))
    assert found[0].endswith("that are missing: val")
    assert found[1] == f"the validation folder {tmp_path}/val lies inside the training folder {tmp_path}"


# ---- the same picture twice ----


def test_leaks_are_files_of_the_same_bytes(tmp_path: Path) -> None:
    train = make(tmp_path / "train", "a/1.png", "a/2.png", "b/3.png")
    val = make(tmp_path / "val", "a/1.png", "b/1.png", "b/2.png")
    (val / "b/renamed.png").write_bytes((train / "a/2.png").read_bytes())
    (val / "b/again.png").write_bytes((train / "a/2.png").read_bytes())
    (train / "b/head.png").write_bytes(b"x" * 9000 + b"1")  # same size, same middle
    (val / "b/head.png").write_bytes(b"x" * 9000 + b"2")
    assert exact_leaks(scan_folder(train), scan_folder(val)) == [
        ("a/1.png", "a/1.png"), ("a/2.png", "b/again.png"), ("a/2.png", "b/renamed.png"),
    ]  # fmt: skip


def test_the_same_folder_twice_leaks_everything(tmp_path: Path) -> None:
    make(tmp_path / "data", "a/1.png", "a/2.png")
    (tmp_path / "link").symlink_to("data")
    folder, linked = scan_folder(tmp_path / "data"), scan_folder(tmp_path / "link")
    assert exact_leaks(folder, linked) == [("a/1.png", "a/1.png"), ("a/2.png", "a/2.png")]
    assert "the same folder" in nested_roots(folder.root, linked.root)


def test_nested_roots_are_seen_through_links(tmp_path: Path) -> None:
    (tmp_path / "data/val").mkdir(parents=True)
    (tmp_path / "link").symlink_to("data/val")
    assert "lies inside the training folder" in nested_roots(tmp_path / "data", tmp_path / "link")
    assert "lies inside the validation folder" in nested_roots(tmp_path / "link", tmp_path / "data")
    (tmp_path / "data-val").mkdir()
    assert nested_roots(tmp_path / "data", tmp_path / "data-val") == ""


# ---- headers and manifest ----


def test_broken_files_are_all_named_in_order(tmp_path: Path) -> None:
    for number in range(150):
        path = tmp_path / "a" / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (number + 1, 5)).save(path)
    (tmp_path / "a/007.png").write_bytes(b"")
    (tmp_path / "a/140.png").write_bytes(b"text")
    headers, broken = check_headers(scan_folder(tmp_path))
    assert [header and header.width for header in headers] == [
        None if number in (7, 140) else number + 1 for number in range(150)
    ]
    assert all(isinstance(error, BrokenImage) for error in broken)
    assert [Path(error.problems[0].where).name for error in broken] == ["007.png", "140.png"]


def test_a_manifest_is_the_same_below_another_root_and_on_a_mac(tmp_path: Path) -> None:
    names = ["cat/1.png", unicodedata.normalize("NFC", "が/é.png")]
    found = []
    for root, form in ((tmp_path / "one", "NFC"), (tmp_path / "two/deep", "NFD")):
        make(root, *(unicodedata.normalize(form, name) for name in names))
        for path in root.rglob("*.png"):
            path.write_bytes(b"1234567")
        found.append(manifest(scan_folder(root)))
    assert found[0] == found[1] == {"classes": ["cat", "が"], "files": [[name, 7] for name in names]}
    # The digest stands in checkpoints: it must be the same in every later version.
    assert manifest_digest(found[0]) == "3dbf0dcccc193a2a726c20ada195c1ebd929e485e985985e4aa9182730a75401"


def test_a_digest_moves_with_every_change(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/2.png")
    digests = {manifest_digest(manifest(scan_folder(tmp_path)))}
    (tmp_path / "a/1.png").write_bytes(b"another length")
    digests.add(manifest_digest(manifest(scan_folder(tmp_path))))
    (tmp_path / "a/1.png").rename(tmp_path / "a/3.png")
    digests.add(manifest_digest(manifest(scan_folder(tmp_path))))
    (tmp_path / "a").rename(tmp_path / "c")
    digests.add(manifest_digest(manifest(scan_folder(tmp_path))))
    make(tmp_path, "c/4.png")
    digests.add(manifest_digest(manifest(scan_folder(tmp_path))))
    assert len(digests) == 5


def test_a_difference_counts_files(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "a/2.png", "a/3.png", "a/4.png")
    old = manifest(scan_folder(tmp_path))
    assert manifest_difference(old, old) == (0, 0, 0)
    (tmp_path / "a/1.png").unlink()
    (tmp_path / "a/2.png").write_bytes(b"edited: longer than before")
    (tmp_path / "a/3.png").rename(tmp_path / "a/renamed.png")
    make(tmp_path, "b/1.png", "b/2.png")
    assert manifest_difference(old, manifest(scan_folder(tmp_path))) == (3, 2, 1)
