"""Labs: what a new one holds, what an update renews, and what is never overwritten."""

import tomllib

import pytest
from helpers import ROOT

from recsys_lab import labs
from recsys_lab.files import UserError


def test_a_new_lab_has_the_chapters_and_what_they_read(tmp_path):
    made = labs.new_lab(tmp_path / "lab")
    chapters = sorted(p.name for p in (ROOT / "nbs").glob("[0-9][0-9]*_*.ipynb"))
    assert made == len(chapters) and sorted(p.name for p in (tmp_path / "lab" / "nbs").iterdir()) == chapters
    assert {"Makefile", "README.md", "data", "reports", "lab.toml", ".gitignore"} <= {
        p.name for p in (tmp_path / "lab").iterdir()
    }
    remembered = tomllib.loads((tmp_path / "lab" / "lab.toml").read_text())["files"]
    assert all((tmp_path / "lab" / name).is_file() for name in remembered)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "empty").mkdir()
    labs.new_lab(tmp_path / "empty")
    with pytest.raises(UserError, match="not empty; name a new folder; --update renews"):
        labs.new_lab(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty; name a new folder"):
        labs.new_lab(tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["notes.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        labs.new_lab(tmp_path / "file")


def test_an_update_keeps_what_was_changed_and_removed(tmp_path, monkeypatch):
    lab = tmp_path / "lab"
    labs.new_lab(lab)
    mine, theirs, gone = (lab / "nbs" / name for name in ("22_neighbours.ipynb", "23_linear.ipynb", "24_als.ipynb"))
    mine.write_text("mine")
    gone.unlink()
    newer = tmp_path / "newer.ipynb"
    newer.write_text("newer")
    files = dict(labs.lab_files())
    changed = {
        n: newer for n in ("nbs/22_neighbours.ipynb", "nbs/23_linear.ipynb", "nbs/24_als.ipynb", "nbs/99_new.ipynb")
    }
    monkeypatch.setattr(labs, "lab_files", lambda: files | changed)
    assert labs.update_lab(lab) == ["nbs/22_neighbours.ipynb"]
    assert mine.read_text() == "mine" and theirs.read_text() == "newer" and not gone.exists()
    assert (lab / "nbs" / "99_new.ipynb").read_text() == "newer"
    assert labs.update_lab(lab) == ["nbs/22_neighbours.ipynb"]


def test_an_installation_without_chapters_says_so(monkeypatch, tmp_path):
    (tmp_path / "site" / "recsys_lab").mkdir(parents=True)
    monkeypatch.setattr(labs, "package_folder", lambda: tmp_path / "site" / "recsys_lab")
    with pytest.raises(UserError, match="was installed without its chapters"):
        labs.new_lab(tmp_path / "lab")
    assert not (tmp_path / "lab").exists()


def test_the_wheel_brings_the_same_files():
    """`setup.py` cannot import the package, so it has the list of files once more."""
    source = (ROOT / "setup.py").read_text()
    assert all(f'"{pattern}"' in source for pattern in labs.LAB_FILES)
