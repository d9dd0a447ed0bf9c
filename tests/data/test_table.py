"""Tables that cannot be read, or whose paths were written for another place: what is said of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from PIL import Image

from pochitrain.data.folder import scan_folder
from pochitrain.data.table import read_table
from pochitrain.errors import DataError, Problem, file_reason


def problem(table: Path) -> Problem:
    with pytest.raises(DataError) as caught:
        read_table(table)
    [found] = caught.value.problems
    return found


def test_a_table_that_is_missing_or_a_folder_is_not_told_to_be_saved_as_csv(tmp_path: Path) -> None:
    missing = problem(tmp_path / "t.csv")
    assert missing.what == "The table cannot be read: No such file or directory"
    assert missing.where == str(tmp_path / "t.csv")
    assert missing.mend.startswith("check the path")
    (tmp_path / "t.csv").mkdir()
    folder = problem(tmp_path / "t.csv")
    assert folder.what == "The table cannot be read: Is a directory"
    assert "another name" in folder.mend


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_table_of_somebody_else_has_a_reason(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path,label\n")
    table.chmod(0)
    os.seteuid(65534)
    try:
        found = problem(table)
    finally:
        os.seteuid(0)
    assert found.what == "The table cannot be read: Permission denied"
    assert found.mend == "allow this user to read it"


@pytest.mark.parametrize(("encoding", "line"), [("utf-16", 1), ("cp932", 3)])
def test_a_table_in_another_encoding_names_the_line(tmp_path: Path, encoding: str, line: int) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes("path,label\r\n1.png,ant\r\n2.png,猫\r\n".encode(encoding))
    found = problem(table)
    assert found.what == "The table is not in UTF-8"
    assert found.where == f"{table}:{line}"
    assert "in Excel: CSV UTF-8" in found.mend


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('1.png,"ant', "a quotation mark too few or too many"),
        ('1.png,"a"nt', "a quotation mark too few or too many"),
        (f"1.png,{'a' * 200_000}", "a value of more than 131072 characters"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_in_our_words(tmp_path: Path, line: str, reason: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(f"path,label\n{line}\n")
    found = problem(table)
    assert found.what == f"The table cannot be read: {reason}"
    assert found.where == f"{table}:2"


def test_paths_of_windows_are_recognised(tmp_path: Path) -> None:
    (tmp_path / "imgs").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "imgs" / "1.png")
    table = tmp_path / "t.csv"
    table.write_text("path,label\nimgs\\1.png,ant\n")
    found = problem(table)
    assert found.what == r"imgs\1.png cannot be read: No such file or directory"
    assert found.mend == r"write / instead of \ in paths: imgs/1.png"
    table.write_text("path,label\nimgs\\2.png,ant\n")
    assert problem(table).mend.startswith("correct the path")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "home" / "1.png")
    table = tmp_path / "t.csv"
    table.write_text("path,label\n~/1.png,ant\n")
    assert os.path.exists(read_table(table).path(0))


def test_the_operating_system_speaks_the_readers_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCHI_LANG", "ja")
    numbers = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EIO)
    assert all(not file_reason(OSError(number, os.strerror(number))).isascii() for number in numbers)
    for call in (read_table, scan_folder):
        with pytest.raises(DataError) as caught:
            call(tmp_path / "none.csv")
        assert "No such file" not in str(caught.value)
