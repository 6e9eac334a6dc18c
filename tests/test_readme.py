"""Every example in README.md, and of commands in the chapters, does what it says."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers import ROOT, serving

from recsys_lab import loading, runs
from recsys_lab.models.als import ALS

pytestmark = pytest.mark.slow


TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
REVIEW = {"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1529193600}
BIN = Path(sys.executable).parent


CHAPTERS = "\n".join(
    "".join(cell["source"])
    for number in ("50", "51", "54", "61")  # where commands are shown
    for path in ROOT.glob(f"nbs/{number}_*.ipynb")
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "markdown"
)


def blocks(language, text=TEXT):
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def lines_of(command):
    """The lines of shell examples in the README and in chapters that start a command."""
    found = [line for block in blocks("sh", TEXT + CHAPTERS) for line in block.splitlines()]
    return [line for line in found if line.startswith(command)]


def test_python_examples_run():
    code = "\n".join(blocks("python"))
    assert "Histories.from_lists" in code and "compare" in code
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-c", code + "\nfrom recsys_lab.testing import check_recommender\ncheck_recommender(Damped)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr  # the model that the README shows keeps the contract
    printed = re.findall(r"^item_knn - popularity.*users$", TEXT.replace("    ", ""), re.M)
    assert printed and printed[0] in done.stdout  # the README shows what the code prints


def test_shell_examples_run(tmp_path):
    lines = lines_of("recsys-lab")
    assert len(lines) >= 8
    for line in lines:
        if "my_log" in line or line.startswith(("recsys-lab bundle", "recsys-lab serve")):
            continue  # tested below with a log, and with a bundle
        line = line.replace("reports/trial", str(tmp_path / "trial")).replace(
            "compared.html", str(tmp_path / "compared.html")
        )
        if line.startswith("recsys-lab recommend"):  # from a run that fitted the model, which a fresh clone has not
            log = loading.load("shop", size="tiny")
            runs.Run(tmp_path / "fitted", "24_als").fit(ALS(iterations=2), log)
            (tmp_path / "users.csv").write_text(f"user_id\n{log.users[0]}\n")
            for word, there in (
                ("reports/shop", "fitted"),
                ("users.csv", "users.csv"),
                ("recs.parquet", "recs.parquet"),
            ):
                line = line.replace(word, str(tmp_path / there))
        if line.startswith("recsys-lab products"):
            (tmp_path / "reviews.json.gz").write_bytes(gzip.compress(json.dumps(REVIEW).encode() + b"\n"))
            (tmp_path / "meta.json.gz").write_bytes(gzip.compress(b'{"asin": "B1", "title": "Pen"}\n'))
            for word in ("reviews.json.gz", "meta.json.gz"):
                line = line.replace(word, str(tmp_path / word))
        line = line.replace("data/gifts", f"{tmp_path}/gifts")
        done = subprocess.run(f"{BIN}/{line}", shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr)


def test_every_example_request_is_answered(folder, tmp_path):
    """By a service that was started as the README says, with a bundle of the smallest shop."""
    if not shutil.which("curl"):
        pytest.skip("no curl")
    assert lines_of("recsys-lab serve") == ["recsys-lab serve bundle --port 8000"]
    assert lines_of("recsys-lab bundle") == [
        "recsys-lab bundle create reports/shop -o bundle --encoder all-MiniLM-L6-v2"
    ]
    asked = lines_of("curl ")
    assert len(asked) >= 14
    shutil.copytree(folder, tmp_path / "bundle")
    with serving(tmp_path / "bundle", "--quiet", "--token", "secret") as (url, _):
        for line in asked:
            line = line.replace("curl ", "curl -fsS --max-time 60 ", 1).replace(
                "localhost:8000", url.removeprefix("http://")
            )
            done = subprocess.run(
                line,
                shell=True,
                capture_output=True,
                text=True,
                env=os.environ | {"RECSYS_LAB_TOKEN": "secret"},
                check=False,
            )
            assert done.returncode == 0, (line, done.stderr)
            if "/metrics" not in line:
                told = json.loads(done.stdout)
                lists = [v for v in (told.values() if isinstance(told, dict) else [told]) if isinstance(v, list)]
                assert all(lists), (line, done.stdout)  # no list is empty
            if "/training" in line:
                assert told["status"] == "trained"


def test_the_own_log_of_the_readme_is_imported_as_it_says(tmp_path):
    """The command that the README shows writes the file that it shows."""
    (tmp_path / "orders.csv").write_text(
        "Customer ID;sku;action;created_at\n7;a-1;view;13.01.2024 10:00\n7;a-2;buy;14.01.2024 11:00\n8;a-1;view;14.01.2024 12:00\n"
    )
    (command,) = [line for line in lines_of("recsys-lab data import") if line in TEXT][:1]
    done = subprocess.run(
        [BIN / command.split()[0], *command.split()[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": ""},
    )
    assert done.returncode == 0 and "transaction events     1" in done.stdout, (done.stdout, done.stderr)
    written = tomllib.loads((tmp_path / "data" / "my_log" / "dataset.toml").read_text())
    (shown,) = (tomllib.loads(block) for block in blocks("toml"))
    assert {**shown, "file": written["file"], "events": {**shown["events"], "view": "view"}} == written
    assert Path(written["file"]) == tmp_path / "orders.csv"


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:`|^)make (\w+)", TEXT, re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_readme_can_be_read_in_two_screens():
    """One picture, one table of findings of at most eight rows, and no more than 12,000 characters."""
    assert len(TEXT) < 12_000 and TEXT.count("![") == 1
    found = TEXT[TEXT.index("## What it finds") : TEXT.index("## Your own log")]
    rows = [line for line in found.splitlines() if line.startswith("| [")]
    assert 1 <= len(rows) <= 8 and "**On " in found
