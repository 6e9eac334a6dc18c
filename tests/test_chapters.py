"""The chapters run: what a person types, breaks and repeats."""

import ast
import hashlib
import json
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager

import nbformat
import pytest
from helpers import BIN, ROOT, random_log, run_lab, untimed_sessions

from recsys_lab import chapters, runs

pytestmark = pytest.mark.slow


VOLATILE = {"costs.json", "provenance.json"}


def digests(folder):
    files = [p for p in folder.rglob("*") if p.is_file() and not {"book", "fits"} & set(p.relative_to(folder).parts)]
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.name not in VOLATILE
    }


@pytest.fixture
def small_checkout(tmp_path):
    """A checkout with three chapters: one that records, one to be broken, one that needs what the log lacks."""
    root = tmp_path / "checkout"
    (root / "nbs").mkdir(parents=True)
    shutil.copy(ROOT / "settings.ini", root)
    (root / "recsys_lab").symlink_to(ROOT / "recsys_lab")
    shutil.copytree(ROOT / "data" / "shop" / "tiny", root / "data" / "shop" / "tiny")
    head = 'dataset: str = "shop"  # a dataset\nsize: str = "tiny"  # its size\nout: str = ""  # the run\nk: int = 5  # list length\n'
    record = """from recsys_lab import loading, runs, splits
from recsys_lab.models.popularity import Popularity
run = runs.Run(out, "{name}")
results = runs.judge(run, [Popularity()], splits.make(loading.load(dataset, size=size)), k=k)
"""
    cells = {
        "21_first": (head, record.format(name="21_first")),
        "22_second": (
            head + "fail: bool = False  # break on purpose\nwait: float = 0.0  # seconds\n"
            "hold: float = 0.0  # gigabytes\n",
            record.format(name="22_second")
            + 'if fail:\n    raise RuntimeError("broken on purpose")\nheld = b"x" * int(hold * 1e9)\nimport time; time.sleep(wait)',
        ),
        "23_third": (head + 'needs: list = ["parts"]  # what the log must offer\n', "1 / 0"),
    }
    for name, (parameters, code) in cells.items():
        first = nbformat.v4.new_code_cell(parameters)
        first.metadata["tags"] = ["parameters"]
        nb = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_markdown_cell(f"# {name}"), first, nbformat.v4.new_code_cell(code)]
        )
        nb.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "python3"}
        nbformat.write(nb, root / "nbs" / f"{name}.ipynb")
    return root


def states(root):
    return json.loads((root / "reports/shop-tiny/provenance.json").read_text())["chapters"]


def test_a_run_leaves_what_it_says_and_repeats_itself(small_checkout):
    words = ("run", "--size", "tiny", "--no-book", "--params", "k=7")
    done = run_lab(*words, cwd=small_checkout)
    assert done.returncode == 0, done.stderr
    assert "23_third skipped: needs parts" in done.stdout and "popularity" in done.stdout
    folder = small_checkout / "reports" / "shop-tiny"
    assert {p.name for p in folder.iterdir()} == {
        "metrics.json",
        "costs.json",
        "params.json",
        "provenance.json",
        "evaluations",
        "fits",
        "fits.json",
        "notebooks",
        "README.md",
    }
    rows = runs.Run(folder).frame()
    assert (
        set(rows.columns) == set(runs.METRIC_COLUMNS)
        and set(rows.k) == {5, 7, 10, 20}
        and set(rows.chapter) == {"21_first", "22_second"}
    )
    assert rows.duplicated(["chapter", "model", "protocol", "target", "exclude", "slice", "metric", "k"]).sum() == 0
    params = json.loads((folder / "params.json").read_text())
    assert params["22_second"]["k"] == 7 and params["22_second"]["out"] == "../reports/shop-tiny"
    text = (folder / "notebooks" / "21_first.ipynb").read_text()
    assert str(small_checkout) not in text and "duration" not in text
    before = digests(folder)
    assert run_lab(*words, cwd=small_checkout).returncode == 0
    assert digests(folder) == before
    assert "[shop-tiny](shop-tiny/README.md)" in (folder.parent / "README.md").read_text()


def test_a_failing_chapter_is_told_kept_and_resumed(small_checkout):
    done = run_lab("run", "--size", "tiny", "--no-book", "--jobs", "1", "--params", "fail=true", cwd=small_checkout)
    assert done.returncode == 1
    assert "chapter 22_second failed: RuntimeError: broken on purpose" in done.stderr and "--resume" in done.stderr
    folder = small_checkout / "reports" / "shop-tiny"
    assert "broken on purpose" in (folder / "notebooks" / "22_second.ipynb").read_text()
    assert states(small_checkout)["22_second"]["status"] == "failed" and "23_third" not in states(small_checkout)
    assert set(runs.Run(folder).frame().chapter) == {"21_first"}  # nothing half recorded
    first = (folder / "notebooks" / "21_first.ipynb").stat().st_mtime_ns
    done = run_lab("run", "--size", "tiny", "--no-book", "--resume", cwd=small_checkout)
    assert done.returncode == 0, done.stderr
    assert (folder / "notebooks" / "21_first.ipynb").stat().st_mtime_ns == first  # not run again
    assert {n: s["status"].partition(":")[0] for n, s in states(small_checkout).items()} == {
        "21_first": "done",
        "22_second": "done",
        "23_third": "skipped",
    }


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupt_leaves_nothing_half_written(small_checkout, jobs):
    process = subprocess.Popen(
        [BIN / "recsys-lab", "run", "--size", "tiny", "--no-book", "--jobs", jobs, "--params", "wait=60"],
        cwd=small_checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's children ignore it
    )
    folder, deadline = small_checkout / "reports" / "shop-tiny", time.monotonic() + 120
    while not (
        list(folder.glob("evaluations/22_second*none*")) and '"21_first"' in (folder / "params.json").read_text()
        if (folder / "params.json").exists()
        else False
    ):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130 and "interrupted; finished chapters are kept" in err
    assert set(runs.Run(folder).frame().chapter) == {"21_first"}
    assert not list(folder.rglob("*.partial")) and [p.stem for p in (folder / "notebooks").iterdir()] == ["21_first"]
    assert not list(folder.glob("evaluations/22_second*"))


def test_side_by_side_gives_the_same_as_one_after_the_other(small_checkout):
    for jobs in ("1", "2"):
        words = ("run", "--size", "tiny", "--no-book", "--jobs", jobs, "--out", f"reports/jobs{jobs}")
        done = run_lab(*words, cwd=small_checkout)
        assert done.returncode == 0, done.stderr
    one, two = (small_checkout / "reports" / f"jobs{jobs}" for jobs in "12")
    differing = {name for name, value in digests(one).items() if digests(two).get(name) != value}
    assert digests(one).keys() == digests(two).keys()
    assert differing <= {"params.json", "README.md", *(f"notebooks/{n}.ipynb" for n in ("21_first", "22_second"))}
    for name in differing:  # they name the folder, and nothing else differs
        texts = [(folder / name).read_text().replace(f"jobs{jobs}", "") for folder, jobs in ((one, 1), (two, 2))]
        assert texts[0] == texts[1]


def test_a_chapter_that_would_outlast_the_budget_is_left_out_by_name(small_checkout):
    words = ("run", "--size", "tiny", "--no-book", "--budget", "40s", "--params", "wait=300")
    start = time.monotonic()
    done = run_lab(*words, cwd=small_checkout)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 120  # and not 300
    assert "22_second left out: the budget was spent" in done.stdout
    assert states(small_checkout)["21_first"]["status"] == "done"
    assert set(runs.Run(small_checkout / "reports" / "shop-tiny").frame().chapter) == {"21_first"}


def test_a_chapter_that_outlasts_its_plan_is_left_out_long_before_the_budget_is_spent(small_checkout, monkeypatch):
    """What was planned with seconds was at work until nothing was left for the others."""
    monkeypatch.chdir(small_checkout)
    plan = chapters.make_plan("shop", "tiny", "", ["wait=300"], "")
    plan = plan._replace(until=time.time() + 600, seconds={"22_second": 5.0})
    start = time.monotonic()
    done = chapters.run_chapters(plan)
    assert time.monotonic() - start < 120
    assert done["22_second"]["status"] == "left out: it was not done after 5 s, and less was planned for it"
    assert done["21_first"]["status"] == "done" and set(runs.Run(plan.folder).frame().chapter) == {"21_first"}
    plan = plan._replace(
        until=time.time() + 600, given={**plan.given, "22_second": {**plan.given["22_second"], "wait": 0.0}}
    )
    assert chapters.run_chapters(plan._replace(seconds={}), resume=True)["22_second"]["status"] == "done"


def test_a_plan_says_what_its_chapters_may_take(small_checkout, monkeypatch):
    """Twice what is planned for all of its models, and a fifth of the budget in any case."""
    monkeypatch.setattr(chapters, "searching_chapters", lambda plan, params: ["21_first", "22_second"])
    monkeypatch.setattr(
        chapters, "settings_held", lambda plan, c: {"als": {}, "ease": {}} if c[:2] == "21" else {"bpr": {}}
    )
    row = {"trials": 1, "seconds": 400.0, "left_out": ""}
    costs = {"als": row | {"needed": 150.0}, "ease": row | {"needed": 100.0}, "bpr": row | {"needed": 20.0}}
    monkeypatch.setattr(chapters, "plan_models", lambda *given: costs)
    monkeypatch.chdir(small_checkout)
    plan = chapters.with_budget(chapters.make_plan("shop", "tiny", "", [], ""), 1000.0, 2)
    assert plan.seconds == {"21_first": 500.0, "22_second": 200.0}
    bounds = chapters.bounds_of(plan, "22_second")
    assert abs(bounds.until - time.time() - 200) < 20 and bounds.megabytes == 0


def test_a_run_keeps_within_its_memory(small_checkout):
    words = ("run", "--size", "tiny", "--no-book", "--memory", "2.5", "--params", "hold=2.6", "wait=60")
    done = run_lab(*words, cwd=small_checkout)
    assert done.returncode == 0, done.stderr
    assert "22_second left out: the run held more than the 2.5 GB that it may (--memory)" in done.stdout
    assert set(runs.Run(small_checkout / "reports" / "shop-tiny").frame().chapter) == {"21_first"}


def test_what_was_ended_for_want_of_memory_is_executed_again_by_itself(small_checkout, monkeypatch):
    """Beside another chapter it is too much; alone it is not, and nothing is begun beside it."""
    monkeypatch.chdir(small_checkout)
    begun, ended = [], []

    @contextmanager
    def pairs(jobs):
        waiting = []

        def submit(work, path, *rest):
            begun.append((path.stem, len(waiting)))
            future = Future()
            if begun == [("21_first", 0)]:
                waiting.append(future)  # at work until the other was ended
            elif len(begun) == 2:
                future.set_exception(chapters.Crowded(path.stem, "too much"))
                threading.Timer(0.5, lambda: (ended.append("21_first"), waiting.pop().set_result({}))).start()
            else:
                assert ended == ["21_first"]
                future.set_result({})
            return future

        yield submit

    plan = chapters.make_plan("shop", "tiny", "", [], "21,22")._replace(memory=1.0)
    done = chapters.run_chapters(plan, jobs=2, on=pairs)
    assert begun == [("21_first", 0), ("22_second", 1), ("22_second", 0)]
    assert {n: s["status"] for n, s in done.items()} == {"21_first": "done", "22_second": "done"}


def test_parameters_reach_their_chapters(small_checkout):
    done = run_lab(
        "run", "--size", "tiny", "--no-book", "--only", "21,22", "--params", "k=6", "22.wait=0.01", cwd=small_checkout
    )
    assert done.returncode == 0, done.stderr
    given = json.loads((small_checkout / "reports/shop-tiny/params.json").read_text())
    assert (
        given["21_first"] == {"dataset": "shop", "size": "tiny", "out": "../reports/shop-tiny", "k": 6}
        and given["22_second"]["wait"] == 0.01
    )


@pytest.mark.parametrize("kind", ["sessions", "given"])
def test_every_chapter_runs_on_logs_without_times(kind, tmp_path):
    """Sessions and arrived splits, small enough for a test, through the real chapters, and the sessions into a book."""
    folder = tmp_path / "data" / f"my_{kind}"
    folder.mkdir(parents=True)
    log = untimed_sessions(0, sessions=400, items=60).events
    lines = [" ".join(map(str, run)) for _, run in log.groupby("user_id").item_id]
    if kind == "sessions":
        (folder / "sessions.txt").write_text("\n".join(lines))
    else:
        unique = [list(dict.fromkeys(f"{x}" for x in line.split())) for line in lines]
        (folder / "train.txt").write_text(
            "\n".join(
                f"{u} " + " ".join(run[:-1] + [str(60 + i) for i in range(u % 12)]) for u, run in enumerate(unique)
            )
        )
        (folder / "test.txt").write_text("\n".join(f"{u} {run[-1]}" for u, run in enumerate(unique)))
    out = tmp_path / "run"
    done = run_lab(
        "run",
        "--dataset",
        f"my_{kind}",
        "--out",
        str(out),
        "--only",
        "00,10,12,13,14,16,21,22,24,29,90",
        "--params",
        "users=50 trials=2 spread=0",
        *(["--no-book"] if kind == "given" else []),
        RECSYS_LAB_DATA=str(tmp_path / "data"),
    )
    assert done.returncode == 0, done.stderr
    assert "29_oracle skipped: needs truth" in done.stdout
    rows = runs.Run(out).frame()
    rows = rows[~rows["protocol"].str.startswith("beyond_")]  # of lists, not of questions
    asked = set(map(tuple, rows[["protocol", "exclude"]].drop_duplicates().to_numpy()))
    assert asked == ({("next_item", "none"), ("next_item", "seen")} if kind == "sessions" else {("given", "seen")})
    if kind == "given":
        return
    page = (out / "book" / "index.html").read_text()
    assert "item_knn" in page and "https://cdn" not in page and (out / "book" / "searchindex.js").exists()
    chapter = (out / "book" / "22_neighbours.html").read_text()
    assert "#| export" not in chapter and "Show the code" in chapter
    assert not [
        f for f in (out / "book").rglob("*.html") if 'src="http' in f.read_text() or 'href="http://cdn' in f.read_text()
    ]


def test_runs_on_other_data_do_not_mix(small_checkout):
    assert run_lab("run", "--size", "tiny", "--no-book", cwd=small_checkout).returncode == 0
    shutil.copytree(small_checkout / "data/shop/tiny", small_checkout / "data/other")
    events = (small_checkout / "data/other/events.csv").read_text().splitlines()
    (small_checkout / "data/other/events.csv").write_text("\n".join(events[:-500]) + "\n")
    done = run_lab(
        "run", "--dataset", "other", "--out", "reports/shop-tiny", "--only", "22", "--no-book", cwd=small_checkout
    )
    assert done.returncode == 2 and "holds a run on other data (shop" in done.stderr
    assert set(runs.Run(small_checkout / "reports/shop-tiny").frame().dataset) == {"shop"}
    done = run_lab("run", "--dataset", "other", "--out", "reports/shop-tiny", "--no-book", cwd=small_checkout)
    assert done.returncode == 0, done.stderr
    assert set(runs.Run(small_checkout / "reports/shop-tiny").frame().dataset) == {"other"}


def test_a_chapter_whose_process_dies_is_told(small_checkout):
    path = small_checkout / "nbs" / "22_second.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[-1].source = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    nbformat.write(nb, path)
    done = run_lab("run", "--size", "tiny", "--no-book", cwd=small_checkout)
    assert done.returncode == 1 and "chapter 22_second failed: its process died" in done.stderr
    assert states(small_checkout)["22_second"]["status"] == "failed"


@pytest.mark.slow
def test_chapters_hold_where_a_budget_leaves_out_one_of_their_models(tmp_path):
    words = '24.models=["als"] 25.models=["lightfm"] trials=1 judged=200'
    done = run_lab("run", "--size", "tiny", "--only", "24,25", "--out", str(tmp_path), "--no-book", "--params", words)
    assert done.returncode == 0, done.stderr
    assert "BPR was left out of this run." in (tmp_path / "notebooks" / "24_als.ipynb").read_text()


def test_a_log_without_cooccurrences_is_refused_before_anything_runs(tmp_path):
    folder = tmp_path / "strangers"
    folder.mkdir()
    (folder / "sessions.txt").write_text("1 1\n2 2\n3\n")
    done = run_lab("run", "--dataset", "strangers", "--out", str(tmp_path / "run"), RECSYS_LAB_DATA=str(tmp_path))
    assert done.returncode == 2 and "no user of strangers has interacted with two different items" in done.stderr
    assert not (tmp_path / "run").exists()


def test_lists_of_another_length_reach_the_leaderboard(small_checkout):
    assert run_lab("run", "--size", "tiny", "--no-book", "--params", "k=3", cwd=small_checkout).returncode == 0
    assert "NDCG@3" in (small_checkout / "reports/shop-tiny/README.md").read_text()
    assert "NDCG@20" in run_lab("leaderboard", "reports/shop-tiny", "-k", "20", cwd=small_checkout).stdout


def test_a_chapter_whose_extra_is_missing_is_left_out_by_name(monkeypatch):
    plan = chapters.make_plan("shop", "tiny", "build/none", [], "25")
    assert chapters.missing_for(plan, "25_lightfm") == []
    monkeypatch.setitem(chapters.EXTRAS, "lightfm", "a_module_that_is_not_there")
    assert chapters.missing_for(plan, "25_lightfm") == ["extra:lightfm"]


def test_what_a_chapter_left_that_is_no_more_is_removed(tmp_path):
    plan = chapters.make_plan("shop", "tiny", str(tmp_path / "run"), [], "21")
    (tmp_path / "run" / "notebooks").mkdir(parents=True)
    states = {n: {"status": "done", "key": "x"} for n in ("21_popularity", "59_gone")}
    for name in states:
        (tmp_path / "run" / "notebooks" / f"{name}.ipynb").write_text("{}")
    told = {"dataset": {"name": "shop", "fingerprint": plan.log.fingerprint}, "chapters": states}
    (tmp_path / "run" / "provenance.json").write_text(json.dumps(told))
    assert list(chapters.chapters_before(plan)) == ["21_popularity"]
    assert [p.stem for p in (tmp_path / "run" / "notebooks").iterdir()] == ["21_popularity"]


@pytest.mark.parametrize("path", chapters.chapter_paths(ROOT), ids=lambda p: p.stem)
def test_every_chapter_names_its_kernel_and_nothing_else(path):
    """nbdev's tests run a notebook without a kernel; papermill refuses it."""
    metadata = json.loads(path.read_text())["metadata"]
    assert set(metadata) == {"kernelspec"} and metadata["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("path", chapters.chapter_paths(ROOT), ids=lambda p: p.stem)
def test_every_parameter_of_a_chapter_can_be_given(path):
    """papermill takes a line of its own form only; a parameter in another form cannot be changed, and nobody says so."""
    cells = json.loads(path.read_text())["cells"]
    tagged = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])]
    written = {
        node.target.id for source in tagged for node in ast.parse(source).body if isinstance(node, ast.AnnAssign)
    }
    assert set(chapters.parameters_of(path)) == written


def test_a_cutoff_may_be_given_as_a_time():
    parameter = chapters.parameters_of(ROOT / "nbs" / "10_splits.ipynb")["test"]
    assert chapters.parse_value("test", "2024-05-01T10:00:00", parameter) == "2024-05-01T10:00:00"
    assert chapters.parse_value("test", "0.2", parameter) == 0.2
    with pytest.raises(chapters.UserError, match="test must be of type float"):
        chapters.parse_value("test", "yesterday", parameter)


def test_what_chapters_need_is_something_that_a_run_can_look_for():
    """Extras by the module that they bring, and what a log offers."""
    from recsys_lab.datasets.log import capabilities_of

    offered = set(capabilities_of(random_log(0)))
    for path in chapters.chapter_paths(ROOT):
        wanted = chapters.parameters_of(path).get("needs")
        for need in wanted.default if wanted else []:
            known = need.removeprefix("extra:") in chapters.EXTRAS if need.startswith("extra:") else need in offered
            assert known or need.startswith("items:"), f"{path.stem} needs {need!r}, which nobody knows"


def test_an_executed_chapter_names_no_folder_of_this_machine(tmp_path, monkeypatch):
    """Text that is printed, shown or an error's; pictures stay as they are."""
    lab, data = tmp_path / "lab", tmp_path / "elsewhere"
    (lab / "nbs").mkdir(parents=True)
    monkeypatch.setenv("RECSYS_LAB_DATA", str(data))
    code = f"""import os, sys, tempfile
print({str(data)!r} + '/log')
print(tempfile.gettempdir() + '/tmpa1_b2c3d')
print('no file in', os.getcwd(), file=sys.stderr)
os.getcwd()"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata["kernelspec"] = {"display_name": "python3", "language": "python", "name": "python3"}
    nbformat.write(notebook, lab / "nbs" / "00_paths.ipynb")
    chapters.execute(lab / "nbs" / "00_paths.ipynb", tmp_path / "made.ipynb", {}, of_many=False)
    outputs = nbformat.read(tmp_path / "made.ipynb", as_version=4).cells[-1].outputs
    printed = {name: "".join(o.text for o in outputs if o.get("name") == name) for name in ("stdout", "stderr")}
    assert printed == {"stdout": "$RECSYS_LAB_DATA/log\n/tmp/folder\n", "stderr": "no file in ./nbs\n"}
    assert [o.data["text/plain"] for o in outputs if "data" in o] == ["'./nbs'"]
