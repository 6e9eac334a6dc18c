"""The built wheel in clean environments: `python tests/built_wheel.py [3.12 ...]`; this Python's version by default.

Builds the wheel and the source archive, checks their metadata, installs the wheel with the extra `run` into a new environment of
each Python, and uses it outside the checkout: the command line, a new lab, chapters that were edited there, the book, a model of
one's own. A Python that is not to be had is named and left out.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL = """from recsys_lab import Recommender

class Latest(Recommender):
    name = "latest_of_wheel"

    def _fit(self, dataset):
        return {}

    def _score(self, histories):
        from recsys_lab.models.neighbours import last_items
        return last_items(histories, len(self.items))
"""


def run(*words: object, cwd: Path | None = None) -> str:
    """The output of a command that must succeed."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RECSYS_LAB_DATA", "VIRTUAL_ENV")}
    done = subprocess.run([str(w) for w in words], cwd=cwd, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def python_of(version: str) -> str | None:
    """An interpreter of this version, if there is one."""
    found = [shutil.which(f"python{version}")]
    found += sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
    for path in filter(None, found):
        if subprocess.run([path, "-c", "import venv, ensurepip"], capture_output=True, check=False).returncode == 0:
            return path
    return None


def clean_source(place: Path) -> Path:
    """A copy of what a distribution is made from, so that nothing of an earlier build gets into it, and nothing is left in the checkout."""
    for folder in ("recsys_lab", "nbs", "benchmarks", "reports/published"):
        shutil.copytree(
            ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        )
    files = (
        "setup.py",
        "settings.ini",
        "pyproject.toml",
        "MANIFEST.in",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "constraints.txt",
    )
    for name in files:
        shutil.copy(ROOT / name, place)
    return place


def check_archives(dist: Path) -> Path:
    """The wheel, after a look at what it and the source archive hold and say."""
    source = clean_source(dist.parent / "source")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, source)
    (wheel,) = dist.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir())
    names = zipfile.ZipFile(wheel).namelist()
    chapters = sorted(p.name for p in (ROOT / "nbs").glob("[0-9][0-9]*_*.ipynb"))
    assert sorted(n.rpartition("/")[2] for n in names if n.startswith("recsys_lab/lab/nbs/")) == chapters
    assert {"recsys_lab/py.typed", "recsys_lab/layouts/hm.toml", "recsys_lab/lab/reports/published/ledger.csv"} <= set(
        names
    )
    assert any(n.endswith("licenses/LICENSE") or n.endswith("dist-info/LICENSE") for n in names)
    assert not [n for n in names if n.startswith(("tests", "nbs", "build"))]
    return wheel


def check_environment(wheel: Path, version: str, python: str, place: Path) -> None:
    """The wheel in a new environment: installed with its pins, and used outside the checkout."""
    run(python, "-m", "venv", place / "env")
    bin_folder = place / "env" / "bin"
    run(bin_folder / "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", f"{wheel}[run]")
    installed = {row["name"].lower() for row in json.loads(run(bin_folder / "pip", "list", "--format", "json"))}
    assert not installed & {"torch", "streamlit", "fastapi", "sentence-transformers"}, (
        "the core brings what is an extra"
    )
    run(bin_folder / "pip", "check")
    lab, command = place / "my_lab", bin_folder / "recsys-lab"
    assert "Runs and books" in run(command, "--help", cwd=place)
    run(command, "new", lab, cwd=place)
    chapter = lab / "nbs" / "21_popularity.ipynb"
    chapter.write_text(chapter.read_text().replace("# Popularity", "# Popularity, as I see it"))
    (lab / "mine.py").write_text(MODEL)
    words = ("run", "--size", "tiny", "--only", "00,21,90", "--params", "trials=1", "--model", "mine.py:Latest")
    shown = run(command, *words, cwd=lab)
    folder = lab / "reports" / "shop-tiny"
    assert "latest_of_wheel" in shown and "popularity" in shown
    assert "as I see it" in (folder / "book" / "21_popularity.html").read_text()
    assert (folder / "book" / "commands" / "recsys-lab-run.html").exists()
    log = run(bin_folder / "python", "-c", "import recsys_lab as rl; print(rl.load('shop', size='tiny'))", cwd=lab)
    assert "11,027 events" in log
    size = sum(p.stat().st_size for p in (place / "env").rglob("*") if p.is_file() and not p.is_symlink()) // 2**20
    print(
        f"Python {version}: installed from the wheel ({size:,} MB with the extra run), {len(installed)} packages; a lab ran there"
    )


def main(versions: list[str]) -> None:
    """Build, and check each version."""
    with tempfile.TemporaryDirectory(prefix="recsys-wheel-") as folder:
        wheel = check_archives(Path(folder) / "dist")
        print(f"{wheel.name}: {wheel.stat().st_size // 1024:,} KB")
        for version in versions:
            python = sys.executable if version == ".".join(map(str, sys.version_info[:2])) else python_of(version)
            if python is None:
                print(f"Python {version}: not to be had here, left out")
                continue
            check_environment(wheel, version, python, Path(folder) / version)


if __name__ == "__main__":
    main(sys.argv[1:] or [".".join(map(str, sys.version_info[:2]))])
