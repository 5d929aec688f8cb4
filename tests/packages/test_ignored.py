"""What a `.hansaignore` leaves out of a package."""

from pathlib import Path

import pytest

from hansa.errors import AppError
from hansa.packages.ignored import IGNORED, ignored
from hansa.packages.package import build, read

RULES = """
# data stay here
data/
*.csv
/notes.txt
models/**/draft?.bin
!keep.csv
"""


@pytest.mark.parametrize(
    ("path", "left_out"),
    [
        ("data/a.bin", True),
        ("sub/data/deep/a.bin", True),
        ("data", False),
        ("a.csv", True),
        ("sub/a.csv", True),
        ("a.csv.txt", False),
        ("keep.csv", False),
        ("sub/keep.csv", False),
        ("notes.txt", True),
        ("sub/notes.txt", False),
        ("models/draft1.bin", True),
        ("models/a/b/draft2.bin", True),
        ("models/draft12.bin", False),
        ("app.py", False),
    ],
)
def test_patterns_are_of_names_of_paths_and_of_folders(tmp_path: Path, path: str, left_out: bool) -> None:  # noqa: FBT001 - of a table
    (tmp_path / IGNORED).write_text(RULES)
    assert ignored(tmp_path)(path) is left_out


def test_a_package_does_not_hold_what_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import hansa\napp = hansa.App()\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "patients.txt").write_text("secret")
    (tmp_path / "big.csv").write_text("1,2")
    before = read(build(tmp_path))
    (tmp_path / IGNORED).write_text(RULES)
    after = read(build(tmp_path))
    assert set(before.files) == {"app.py", "data/patients.txt", "big.csv"}
    assert set(after.files) == {"app.py"}


@pytest.mark.parametrize("line", ["patients[0-9].csv", "\\!odd", "a\\ b"])
def test_a_pattern_that_is_not_known_leaves_nothing_to_travel_in_silence(tmp_path: Path, line: str) -> None:
    (tmp_path / "app.py").write_text("import hansa\napp = hansa.App()\n")
    (tmp_path / IGNORED).write_text(f"data/\n{line}\n")
    with pytest.raises(AppError, match="no brackets or backslashes"):
        build(tmp_path)


def test_a_mark_of_an_editor_before_the_first_pattern_is_not_of_it(tmp_path: Path) -> None:
    (tmp_path / IGNORED).write_text("\ufeffsecret.csv\n", encoding="utf-8")
    assert ignored(tmp_path)("secret.csv")


def test_links_are_left_out_wherever_they_lead(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "packed"
    outside.mkdir()
    (outside / "patients.csv").write_text("secret")
    folder.mkdir()
    (folder / "app.py").write_text("import hansa\napp = hansa.App()\n")
    (folder / "file.csv").symlink_to(outside / "patients.csv")
    (folder / "folder").symlink_to(outside)
    assert set(read(build(folder)).files) == {"app.py"}
