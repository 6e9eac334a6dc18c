"""Things by name: entry points, plugins, and what is defined in this process; a name is one thing's."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from helpers import ROOT, random_log

from recsys_lab import loading, metrics, registry
from recsys_lab.models.base import MODELS, Recommender, load_model, model_class
from recsys_lab.registry import Registry, add_plugin, declared, import_plugin, located

MINE = """
    from recsys_lab.models.base import Recommender

    class Newest(Recommender):
        name = "newest_of_test"

        def _fit(self, dataset):
            return {}

        def _score(self, histories):
            return self.popular.astype(float)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A file with a model; what it registered is forgotten afterwards."""
    path = tmp_path / "models_of_test.py"
    path.write_text(textwrap.dedent(MINE))
    yield path
    sys.modules.pop("models_of_test", None)
    MODELS.discard("newest_of_test")


def test_all_models_of_the_package_are_entry_points_of_it():
    classes = {name: model_class(name) for name in MODELS.own()}
    assert len(classes) == len(declared("recsys_lab.models", own=True)) >= 29
    assert all(kind.name == name and issubclass(kind, Recommender) for name, kind in classes.items())
    tracked = {
        kind.name: registry.place_of(kind)
        for kind in all_subclasses(Recommender)
        if kind.__module__.startswith("recsys_lab.") and kind.__dict__.get("name")
    }
    assert tracked == {name: MODELS.place(name) for name in MODELS.own()}  # none was forgotten in settings.ini


def all_subclasses(kind):
    return {kind} | {below for child in kind.__subclasses__() for below in all_subclasses(child)}


def test_a_look_up_imports_one_model_only():
    ask = (
        "import sys; from recsys_lab.models.base import MODELS; MODELS['popularity']; "
        "print([m for m in sys.modules if 'recsys_lab.models.' in m])"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "popularity" in done.stdout and "lightgcn" not in done.stdout and "als" not in done.stdout


def test_a_name_is_one_things():
    with pytest.raises(ValueError, match=r"'als' is taken by the model recsys_lab\.models\.als:ALS"):
        type("Mine", (Recommender,), {"name": "als", "__module__": "elsewhere"})
    things = Registry("thing", "recsys_lab.things")
    things.register("a", int, "here:int")
    things.register("a", int, "here:int")  # a cell that runs twice
    with pytest.raises(ValueError, match="'a' is taken by the thing here:int; give there:str another name"):
        things.register("a", str, "there:str")
    with pytest.raises(ValueError, match="there is no thing 'b'; there are a"):
        things.find("b")


def test_a_plugin_is_named_and_found_in_other_processes(plugin, monkeypatch):
    monkeypatch.setenv(registry.PLUGINS, "")
    assert "newest_of_test" not in MODELS
    kind = add_plugin(f"{plugin}:Newest")
    assert MODELS["newest_of_test"] is kind and kind().modules[0] == "file:models_of_test"
    ask = "from recsys_lab.models.base import model_class; print(model_class('newest_of_test').__module__)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "models_of_test"  # through the environment


def test_a_saved_model_of_an_unknown_class_is_refused_and_imports_nothing(plugin, tmp_path, monkeypatch):
    kind = import_plugin(f"{plugin}:Newest")
    path = kind().fit(random_log(0)).save(tmp_path / "saved")
    assert type(load_model(path)) is kind
    ask = (
        "import sys\nfrom recsys_lab.models.base import load_model\n"
        f"try: load_model({str(path)!r})\nexcept ValueError as e: print(e, 'models_of_test' in sys.modules)"
    )
    monkeypatch.chdir(tmp_path)  # where the file could be imported
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert "It was saved by models_of_test:Newest" in done.stdout and done.stdout.strip().endswith("False")


def test_a_class_with_anothers_name_cannot_be_saved(tmp_path):
    class Copy(model_class("popularity")):
        pass  # inherits the name

    with pytest.raises(ValueError, match=r"Copy has the name of recsys_lab\.models\.popularity:Popularity"):
        Copy().fit(random_log(0)).save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_fit_is_out_of_date_when_the_file_of_its_class_changes(plugin):
    from recsys_lab import files, runs

    kind, log = import_plugin(f"{plugin}:Newest"), random_log(0)
    before = runs.fit_key(kind(), log)
    plugin.write_text(plugin.read_text() + "\nMARK = 1\n")
    files.code_fingerprint.cache_clear()
    assert runs.fit_key(kind(), log) != before


@pytest.mark.parametrize(
    "word, refusal",
    [
        ("no_such_module", "neither installed nor a file"),
        ("gone.py:Model", "neither installed nor a file"),
        ("my model", "is no plugin; say my_module"),
        ("json:dumbs", "json defines no 'dumbs'; did you mean 'dumps'?"),
    ],
)
def test_words_that_are_no_plugin_are_refused(word, refusal):
    with pytest.raises(ValueError, match=refusal.replace("?", r"\?")):
        import_plugin(word)


def test_a_broken_plugin_leaves_nothing_behind(tmp_path):
    path = tmp_path / "broken_of_test.py"
    path.write_text("x = 1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        import_plugin(str(path))
    assert "broken_of_test" not in sys.modules
    assert located(str(path)) == str(path.resolve())


def test_two_files_of_one_name_are_refused(plugin, tmp_path):
    import_plugin(str(plugin))
    other = tmp_path / "elsewhere" / plugin.name
    other.parent.mkdir()
    other.write_text("")
    with pytest.raises(ValueError, match="there is another module 'models_of_test'"):
        import_plugin(str(other))
    (tmp_path / "json.py").write_text("")
    with pytest.raises(ValueError, match="there is another module 'json'"):
        import_plugin(str(tmp_path / "json.py"))


def test_metrics_groups_and_readers_register_in_the_same_way(tmp_path, monkeypatch):
    from recsys_lab.ranking.features import GROUPS, Feature, feature_group

    assert list(metrics.METRICS)[:6] == ["recall", "precision", "ndcg", "map", "mrr", "hit_rate"]
    assert {"table", "retailrocket", "matrix"} <= set(loading.READERS)
    for things, add in (
        (metrics.METRICS, lambda: metrics.metric("ndcg")(print)),
        (loading.READERS, lambda: loading.reader("table")(len)),
        (GROUPS, lambda: feature_group("popularity", Feature("one", "1", "of test"))(len)),
    ):
        before = dict(things)
        with pytest.raises(ValueError, match="is taken by the"):
            add()
        assert dict(things) == before


def test_a_reader_of_ones_own_reads_a_folder(tmp_path, monkeypatch):
    name = "lines_of_test"

    @loading.reader(name, options=("separator", "depth"), files=("*.lines",))
    def read_lines(folder: Path, log: str, separator: str = " ", depth: int = 1):
        rows = [line.split(separator) for path in folder.glob("*.lines") for line in path.read_text().splitlines()]
        frame = random_log(0).events.head(len(rows)).assign(user_id=[r[0] for r in rows], item_id=[r[1] for r in rows])
        return loading.Dataset(log, frame)

    try:
        (tmp_path / "a.lines").write_text("ann;kettle\nann;pot\nbob;pot\n")
        (tmp_path / "dataset.toml").write_text(f'format = "{name}"\nseparator = ";"\ndepth = 2\ntest = 0.2\n')
        log = loading.read_folder(tmp_path, "mine")
        assert len(log) == 3 and set(log.items) == {"kettle", "pot"} and log.cutoffs == {"test": 0.2}
        (tmp_path / "dataset.toml").write_text(f'format = "{name}"\nheight = 2\n')
        with pytest.raises(loading.DataError, match=r"\['height'\] unknown or missing"):
            loading.read_folder(tmp_path, "mine")
        (tmp_path / "dataset.toml").unlink()
        assert loading.format_of(tmp_path) == name
    finally:
        loading.READERS.discard(name)


def test_a_metric_of_ones_own_is_evaluated_and_checked(tmp_path):
    import numpy as np

    from recsys_lab import evaluation, splits
    from recsys_lab.models.popularity import Popularity

    @metrics.metric("first_of_test", bounded=False)
    def first(hits, n_relevant):
        return 10.0 * hits[:, 0]

    @metrics.metric("broken_of_test")
    def broken(hits, n_relevant):
        return hits

    try:
        split = splits.make(random_log(1))
        with pytest.raises(ValueError, match="the metric broken_of_test gives an array of shape"):
            evaluation.evaluate(Popularity(), split, "next_item", ks=(5,))
        metrics.METRICS.discard("broken_of_test")
        found = evaluation.evaluate(Popularity(), split, "next_item", ks=(1, 5))
        row = found.summary().query("metric == 'first_of_test' and k == 5").iloc[0]
        assert np.isclose(row.value, 10 * found.mean("precision", 1)) and row.high > 1 > 0 < row.value
        found.save(tmp_path / "e.npz")
        assert evaluation.Evaluation.load(tmp_path / "e.npz").mean("first_of_test", 5) == found.mean("first_of_test", 5)
    finally:
        for name in ("first_of_test", "broken_of_test"):
            metrics.METRICS.discard(name)


def test_entry_points_of_another_package_are_found_and_conflicts_named(tmp_path):
    """A package installed beside this one, as metadata on the path."""
    for package, place in (("one", "models_one:Newest"), ("two", "models_two:Newest")):
        info = tmp_path / package / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[recsys_lab.models]\nnewest_of_test = {place}\n")
        (tmp_path / package / f"models_{package}.py").write_text(textwrap.dedent(MINE))
    ask = (
        "import json; from recsys_lab.models.base import MODELS as m; name = 'newest_of_test'; "
        "print(json.dumps([m[name].__module__, name in list(m), name in m.own()]))"
    )

    def run(*packages):
        path = ":".join([str(ROOT), *(str(tmp_path / p) for p in packages)])
        return subprocess.run(
            [sys.executable, "-c", ask], capture_output=True, text=True, env={"PYTHONPATH": path}, check=False
        )

    assert json.loads(run("one").stdout) == ["models_one", True, False]
    assert "two packages declare 'newest_of_test'" in run("one", "two").stderr


def test_metrics_readers_and_features_of_another_package_are_found(tmp_path):
    """By their entry points, without an import by the user."""
    info = tmp_path / "more-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[recsys_lab.metrics]\nfirst = more_parts:first\n"
        "[recsys_lab.readers]\nlines = more_parts:read_lines\n"
        "[recsys_lab.features]\nones = more_parts:ones\n"
    )
    (tmp_path / "more_parts.py").write_text(
        textwrap.dedent(
            """
            import numpy as np
            from recsys_lab.loading import reader
            from recsys_lab.metrics import metric
            from recsys_lab.ranking.features import Feature, feature_group

            @metric("first")
            def first(hits, n_relevant):
                return hits[:, 0].astype(float)

            @reader("lines", files=("*.lines",))
            def read_lines(folder, name):
                return "a log"

            @feature_group("ones", Feature("one", "1", "always 1"))
            def ones(block):
                return {"one": np.ones(len(block.c.items))}
            """
        )
    )
    ask = (
        "from pathlib import Path; from recsys_lab import metrics, loading; from recsys_lab.ranking import features; "
        "print(list(metrics.METRICS)[-1], metrics.METRICS['first'].__module__, loading.format_of(Path('.')), "
        "features.group_of(())['one'], loading.READERS.place('lines'))"
    )
    (tmp_path / "a.lines").write_text("")
    path = ":".join([str(ROOT), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, env={"PYTHONPATH": path}, check=False, cwd=tmp_path
    )
    assert done.stdout.split() == ["first", "more_parts", "lines", "ones", "more_parts:read_lines"], done.stderr
