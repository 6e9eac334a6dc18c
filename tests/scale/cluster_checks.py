"""A log over real worker processes: equal results with any number of them, and every kind of loss. `make cluster-test` runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers import ROOT, random_log

from recsys_lab import loading, runs, splits
from recsys_lab.chapters import make_plan, run_chapters
from recsys_lab.evaluation import Evaluation, evaluate
from recsys_lab.files import DataError, UserError, package_folder
from recsys_lab.models.base import load_model
from recsys_lab.scale import chapters, running, store, trees
from recsys_lab.scale import cluster as clusters
from recsys_lab.scale.chapters import run_on_workers
from recsys_lab.scale.cluster import Cluster, ClusterError
from recsys_lab.serving.lean import free_port

MODELS = ("popularity", "item_knn", "session_walk", "ials")


def quietly(line: str) -> None:
    """Say nothing."""


def run(kept: store.PartitionedLog, out: Path, cluster: Cluster, models=MODELS) -> dict[str, Evaluation]:
    """The evaluations of a run, by name of their file."""
    running.run_on_cluster(kept, out, cluster, models, judged=400, tell=quietly)
    return {path.name: Evaluation.load(path) for path in (out / "evaluations").glob("*.npz")}


def check_equal(found: dict[str, Evaluation], wanted: dict[str, Evaluation], rtol: float = 0.0) -> None:
    """The same lists and values; those of least squares, whose sums have another order, within a tolerance of their scores."""
    assert found.keys() == wanted.keys()
    for name, one in wanted.items():
        if one.model in ("ials", "lightgbm"):
            assert found[name].mean("ndcg", 10) == pytest.approx(one.mean("ndcg", 10), abs=rtol), name
        else:
            np.testing.assert_array_equal(found[name].codes, one.codes, err_msg=name)
            np.testing.assert_array_equal(found[name].values["ndcg", 10], one.values["ndcg", 10], err_msg=name)


@pytest.fixture(scope="module")
def shop():
    return loading.load("shop", "tiny")


@pytest.fixture(scope="module")
def wanted(tmp_path_factory, shop):
    """(a store of five files, the evaluations of a run without a cluster)."""
    folder = tmp_path_factory.mktemp("here")
    kept = store.write_partitions(shop, folder / "store", 5)
    return kept, run(kept, folder / "run", Cluster())


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_same(tmp_path, shop, wanted, workers):
    with Cluster(f"local:{workers}", 1.5) as cluster:
        assert len(cluster.workers) == workers
        kept = store.write_partitions(shop, tmp_path / "store", 5, cluster=cluster)
        assert [file["content"] for file in kept.files] == [file["content"] for file in wanted[0].files]
        models = (*MODELS, "lightgbm") if workers == 2 else MODELS
        found = run(kept, tmp_path / "run", cluster, models)
    trees = {name for name, one in found.items() if one.model == "lightgbm"}
    assert all(0.3 < found[name].mean("ndcg", 10) for name in trees if "next_item__any__none" in name)
    check_equal({name: one for name, one in found.items() if name not in trees}, wanted[1], 0.002)


def kill_once(marker: str, function, *arguments):
    """Call a function; the first time that this is done for a marker, its process is killed in the middle."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return function(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)


class KillingCluster(Cluster):
    """A cluster in which a worker is killed once in each step."""

    folder: Path

    def map(self, step, function, tasks):
        self.client.wait_for_workers(2)
        time.sleep(0.5)  # until those that keep the workers have seen them start
        marker = str(self.folder / step.replace("/", "_"))
        return super().map(step, kill_once, {name: (marker, function, *arguments) for name, arguments in tasks.items()})


def test_a_worker_killed_in_every_step(tmp_path, shop, wanted, monkeypatch):
    """SIGKILL hits a worker in each step of the run: the result is the same."""
    (tmp_path / "markers").mkdir()
    monkeypatch.setattr(runs, "QUESTIONS", {"temporal": [("next_item", "any", "none")]})
    with KillingCluster("local:2", 1.5) as cluster:
        cluster.folder = tmp_path / "markers"
        kept = store.write_partitions(shop, tmp_path / "store", 5, cluster=cluster)
        found = run(kept, tmp_path / "run", cluster, ("item_knn",))
    killed = len(list((tmp_path / "markers").iterdir()))
    assert killed >= 12
    check_equal(
        found, {n: one for n, one in wanted[1].items() if one.model == "item_knn" and "next_item__any__none" in n}
    )


def test_a_worker_killed_while_trees_are_trained(tmp_path, shop, wanted, monkeypatch):
    """The others give up at once, and training begins again: the trees are as good as those of an undisturbed run."""
    train, killed = trees.train_on_workers, []

    def kill_one(client):
        """Kill a worker that is in the midst of training."""
        until, busy = time.monotonic() + 60, []
        while not busy and time.monotonic() < until:
            time.sleep(0.05)
            busy = [a for a, keys in client.processing().items() if any("_train_part" in str(key) for key in keys)]
        time.sleep(0.5)
        killed.extend(client.run(os.getpid, workers=busy[:1]).values())
        os.kill(killed[0], signal.SIGKILL)

    def train_disturbed(cluster, *rest):
        if not killed:
            threading.Thread(target=kill_one, args=(cluster.client,), daemon=True).start()
        return train(cluster, *rest)

    monkeypatch.setattr(trees, "train_on_workers", train_disturbed)
    with Cluster("local:2", 1.5) as cluster:
        job, cut = store.make_job(wanted[0], tmp_path / "work"), store.cut_store(cluster, wanted[0])
        place = trees.fit_trees(cluster, job, cut.test_at, {"num_boost_round": 1000})
    assert killed
    fitted, split = load_model(place), splits.make(shop)
    here = store.make_job(wanted[0], tmp_path / "here")
    undisturbed = load_model(trees.fit_trees(Cluster(), here, cut.test_at, {"num_boost_round": 1000}))
    fitted.fitted_on = undisturbed.fitted_on = split.known("test").fingerprint
    apart = evaluate(fitted, split, "next_item").compare(evaluate(undisturbed, split, "next_item"), "ndcg", 10)
    assert apart["low"] < 0.01 and apart["high"] > -0.01, apart


def test_workers_that_are_all_gone_are_replaced(monkeypatch):
    """Where no worker is left and none comes back, those of this machine are started anew."""
    monkeypatch.setattr(clusters, "NO_WORKER_SECONDS", 2.0)
    with Cluster("local:1", 1.0) as cluster:
        cluster._local.scale(0)
        deadline = time.monotonic() + 20
        while cluster.workers and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not cluster.workers and cluster.map("powers", pow, {"a": (2, 5)}) == {"a": 32}


def test_a_step_whose_workers_are_always_lost_is_given_up(monkeypatch):
    monkeypatch.setattr(clusters, "submit_all", lambda *arguments: False)  # as where the cluster is lost
    with (
        Cluster("local:1", 1.0) as cluster,
        pytest.raises(ClusterError, match=r"powers: all workers were lost 3 times"),
    ):
        cluster.map("powers", pow, {"a": (2, 5)})


def test_an_address_that_is_none_is_refused(monkeypatch):
    monkeypatch.setattr(clusters, "CONNECT_SECONDS", 2)
    with pytest.raises(UserError, match="takes a number of processes"), Cluster("local:0"):
        pass
    with pytest.raises(ClusterError, match="no scheduler answers"), Cluster(f"tcp://127.0.0.1:{free_port()}"):
        pass


def take_memory(megabytes: int) -> int:
    """Hold so much memory."""
    held = np.ones(megabytes * 2**17)
    time.sleep(5)
    return int(held[0])


def test_a_worker_out_of_memory_is_named():
    with (
        Cluster("local:1", 0.5) as cluster,
        pytest.raises(ClusterError, match=r"large: the worker of task all was lost .* more memory"),
    ):
        cluster.map("large", take_memory, {"all": (900,)})


@contextmanager
def processes(*commands: list[str], env: dict[str, str] | None = None):
    """Processes that are ended with the block."""
    started = [
        subprocess.Popen(
            c,
            env={**os.environ, **(env or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for c in commands
    ]
    try:
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def dask_command(kind: str, *words: str) -> list[str]:
    """The command line of a scheduler or a worker on loopback."""
    return [str(Path(sys.executable).parent / "dask"), kind, "--no-dashboard", "--host", "127.0.0.1", *words]


def scheduler_and_worker(port: int) -> tuple[list[str], list[str]]:
    """A scheduler at a port, and a worker of it."""
    worker = dask_command("worker", f"tcp://127.0.0.1:{port}", "--nthreads", "1", "--nworkers", "2")
    return dask_command("scheduler", "--port", str(port)), worker


def test_the_scheduler_is_restarted_between_steps(tmp_path, wanted):
    """Scheduler and workers are killed after a step and started again: the run goes on, and ends with the same results."""
    port, restarted = free_port(), []

    class Watched(Cluster):
        def map(self, step, function, tasks):
            if step.startswith("similar") and not restarted:
                for process in old:
                    os.killpg(process.pid, signal.SIGKILL)
                restarted.extend(new.__enter__())
            return super().map(step, function, tasks)

    new = processes(*scheduler_and_worker(port))
    try:
        with processes(*scheduler_and_worker(port)) as old, Watched(f"tcp://127.0.0.1:{port}") as cluster:
            found = run(wanted[0], tmp_path / "run", cluster, ("item_knn",))
    finally:
        if restarted:
            new.__exit__(None, None, None)
    assert restarted
    check_equal(found, {name: one for name, one in wanted[1].items() if one.model == "item_knn"})


def test_a_worker_of_another_version_is_refused(tmp_path):
    """A worker whose library has other code says so by name before anything is done."""
    shutil.copytree(package_folder(), tmp_path / "recsys_lab", ignore=shutil.ignore_patterns("__pycache__"))
    changed = tmp_path / "recsys_lab" / "scale" / "store.py"
    changed.write_text(changed.read_text() + "\n\ndef another() -> int:\n    return 1\n")
    port = free_port()
    scheduler, worker = scheduler_and_worker(port)
    with processes(scheduler), processes(worker, env={"PYTHONPATH": str(tmp_path)}):
        with (
            pytest.raises(ClusterError, match=r"worker tcp://.* has other versions: recsys_lab"),
            Cluster(f"tcp://127.0.0.1:{port}"),
        ):
            pass


def test_a_lost_file_is_named_and_the_run_goes_on_with_it(tmp_path, wanted):
    """A file that is lost in the middle of a run stops it by name; put back, the run is resumed at the step."""
    kept = store.PartitionedLog(shutil.copytree(wanted[0].place, tmp_path / "store"))
    part, aside = tmp_path / "store" / kept.files[2]["file"], tmp_path / "aside.parquet"

    class Losing(Cluster):
        def map(self, step, function, tasks):
            if step.startswith("dealt") and not aside.exists():
                part.rename(aside)
                self.client.restart()  # workers that hold nothing of it
            return super().map(step, function, tasks)

    with Losing("local:2", 1.5) as cluster:
        with pytest.raises(DataError, match=f"{part.name} is missing"):
            run(kept, tmp_path / "run", cluster, ("item_knn",))
        aside.rename(part)
        aside.touch()
        cluster.spent.clear()
        found = run(kept, tmp_path / "run", cluster, ("item_knn",))
        steps = [row["step"] for row in cluster.spent]
    assert not any(step.startswith(("counts", "known")) for step in steps)  # done before
    check_equal(found, {name: one for name, one in wanted[1].items() if one.model == "item_knn"})


def test_nothing_grows_on_the_client(tmp_path):
    """Four times the events: what comes back to the client stays as it was, and so does what it holds."""
    taken = {}
    for times in (1, 4):
        kept = store.write_partitions(
            random_log(0, n=4000 * times, users=400 * times, items=60), tmp_path / f"store{times}", 4
        )
        with Cluster("local:1", 1.5) as cluster:
            tracemalloc.start()
            run(kept, tmp_path / f"run{times}", cluster, ("item_knn", "session_walk"))
            taken[times] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert taken[4] < 1.2 * taken[1] + 2**20, taken


def unseen(chapters: str, token: str) -> str:
    """What a worker says that has the lab and not the folder of the run."""
    return token


def results_of(folder: Path) -> dict[str, bytes]:
    """What a run of chapters found: its records, but for times, and the values of every case."""
    names = ("metrics.json", "comparisons.json", "decisions.json", "trials.json", "evaluations/*.npz", "figures/*.png")
    found = {str(path.relative_to(folder)): path for name in names for path in folder.glob(name)}
    return {name: path.read_bytes() for name, path in found.items() if path.suffix != ".npz"} | {
        name: np.load(path)["codes"].tobytes() for name, path in found.items() if path.suffix == ".npz"
    }


@pytest.fixture(scope="module")
def chapters_here(tmp_path_factory):
    """The results of two chapters without a cluster, and the function that plans them."""

    def plan(folder: Path):
        return make_plan("shop", "tiny", str(folder), ["trials=1"], "12,21")

    folder = tmp_path_factory.mktemp("chapters") / "run"
    run_chapters(plan(folder))
    return results_of(folder), plan


def test_chapters_on_workers_find_the_same(tmp_path, chapters_here):
    wanted, plan = chapters_here
    with Cluster("local:2", 1.5) as cluster:
        states = run_on_workers(cluster, plan(tmp_path / "run"))
    assert {state["status"] for state in states.values()} == {"done"} and results_of(tmp_path / "run") == wanted
    facts = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert len(facts["cluster"]["workers"]) == 2 and facts["cluster"]["libraries"] == clusters.library_facts()


def test_a_chapter_whose_worker_is_killed_is_done_by_another(tmp_path, chapters_here):
    wanted, plan = chapters_here
    with Cluster("local:2", 1.5) as cluster:
        killed = []

        def kill_one() -> None:
            while not list((tmp_path / "run").glob("evaluations/21_*")):  # it is in the middle of the chapter
                time.sleep(0.05)
            busy = [w for w, tasks in cluster.client.processing().items() if tasks]
            killed.append(cluster.client.run(os.getpid, workers=busy[:1]))
            os.kill(next(iter(killed[0].values())), signal.SIGKILL)

        killer = threading.Thread(target=kill_one)
        killer.start()
        run_on_workers(cluster, plan(tmp_path / "run"))
        killer.join()
    assert killed and results_of(tmp_path / "run") == wanted


def test_an_interrupted_run_ends_its_chapters_and_goes_on(tmp_path, chapters_here):
    """The process of a chapter is gone after an interruption, its notebook too, and the run goes on where it was."""
    wanted, plan = chapters_here
    with Cluster("local:1", 1.5) as cluster:

        def interrupt() -> None:
            while not list((tmp_path / "run").glob("evaluations/21_*")):
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            run_on_workers(cluster, plan(tmp_path / "run"))
        worker = psutil.Process(next(iter(cluster.client.run(os.getpid).values())))
        assert not [child for child in worker.children(recursive=True) if "answer_call" in " ".join(child.cmdline())]
        states = json.loads((tmp_path / "run" / "provenance.json").read_text())["chapters"]
        assert states["21_popularity"]["status"] == "failed"
        assert not json.loads((tmp_path / "run" / "metrics.json").read_text())
        run_on_workers(cluster, plan(tmp_path / "run"), resume=True)
    assert results_of(tmp_path / "run") == wanted


def test_a_worker_that_does_not_see_the_folder_is_named(tmp_path, chapters_here, monkeypatch):
    monkeypatch.setattr(chapters, "sees", unseen)
    with (
        Cluster("local:1", 1.5) as cluster,
        pytest.raises(ClusterError, match=r"worker tcp://.* does not see .*run: the lab and"),
    ):
        run_on_workers(cluster, chapters_here[1](tmp_path / "run"))


def test_the_command_line(tmp_path):
    """`data partition`, `run --cluster` and `recommend --cluster` from a shell."""
    command = str(Path(sys.executable).parent / "recsys-lab")

    def say(*words: str) -> str:
        return subprocess.run([command, *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout

    place = str(tmp_path / "store")
    say("data", "partition", "shop", "--size", "tiny", "--out", place, "--files", "3")
    out = str(tmp_path / "run")
    told = say(
        "run",
        "--cluster",
        "local:2",
        "--dataset",
        place,
        "--out",
        out,
        "--params",
        "models=['item_knn','ease'] judged=300",
    )
    assert "ease is left out" in told
    facts = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert len(facts["cluster"]["workers"]) == 2 and facts["cluster"]["libraries"] == clusters.library_facts()
    assert "item_knn" in (tmp_path / "run" / "README.md").read_text()
    lists = say(
        "recommend", "--cluster", "local:1", "--run", out, "--model", "item_knn", "--out", str(tmp_path / "lists")
    )
    assert "1,500 users" in lists
    whole = str(tmp_path / "chapters")
    say("run", "--cluster", "local:1", "--size", "tiny", "--only", "12", "--out", whole, "--no-book")
    facts = json.loads((tmp_path / "chapters" / "provenance.json").read_text())
    assert facts["chapters"]["12_evaluation"]["status"] == "done" and facts["cluster"]["address"] == "local:1"
