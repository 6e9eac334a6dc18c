"""Versions, aliases and decisions: agreement with MLflow, a server that follows, and a registry that is away."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests
from helpers import LEAN, ROOT, eventually, serving

from recsys_lab.files import DataError, UserError
from recsys_lab.lifecycle import registry as registries
from recsys_lab.lifecycle.registry import (
    Check,
    ModelRegistry,
    Reference,
    Refused,
    bundle_folder,
    look_up,
    parse_reference,
)
from recsys_lab.serving.bundle import read_manifest
from recsys_lab.serving.lean import free_port, server_process

pytest.importorskip("mlflow")
SERVER = ROOT / ".venv-orchestrators" / "bin" / "mlflow"
HOLDS, FAILS = Check("bundle", True, "whole"), Check("quality", False, "worse by 0.1")


@pytest.fixture
def bundles(folder, tmp_path):
    """Three small bundles that differ in their facts only."""
    out = []
    for number in range(3):
        place = tmp_path / f"bundle{number}"
        shutil.copytree(folder, place)
        manifest = read_manifest(place)
        manifest |= {"version": f"{number}" * 12, "about": {**manifest["about"], "number": number}}
        (place / "manifest.json").write_text(json.dumps(manifest))
        out.append(place)
    return out


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_LAB_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("RECSYS_LAB_CACHE", str(tmp_path / "cache"))
    ticks = iter(range(1_700_000_000_000, 1_800_000_000_000, 1000))
    return ModelRegistry(clock=lambda: next(ticks))


def test_what_is_read_without_mlflow_is_what_mlflow_says(registry, bundles):
    for bundle in bundles:
        registry.promote(registry.register(bundle), [HOLDS])
    for word in ("champion", "1", "3"):
        found = look_up(Reference(registry.store, registry.name, word))
        by_alias = registry.client.get_model_version_by_alias
        theirs = (
            by_alias(registry.name, word)
            if word == "champion"
            else registry.client.get_model_version(registry.name, word)
        )
        assert (found.version, found.source) == (int(theirs.version), theirs.source)
    for word in ("nobody", "4"):
        with pytest.raises(DataError, match=f"has no version '{word}'"):
            look_up(Reference(registry.store, registry.name, word))
    assert [r["parent"] for r in registry.versions()] == ["", "1", "2"]
    registry.client.delete_model_version(registry.name, "2")
    with pytest.raises(DataError, match="has no version '2'"):
        look_up(Reference(registry.store, registry.name, "2"))


def test_the_small_process_reads_an_alias_without_mlflow(registry, bundles):
    registry.promote(registry.register(bundles[0]), [HOLDS])
    code = (
        "from recsys_lab.serving.lean import lean, loaded\nlean()\nimport sys\n"
        "from recsys_lab.lifecycle.registry import bundle_folder\n"
        "print(bundle_folder('registry:champion'), loaded(), 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(" ", 1)[1].strip() == "[] False"
    assert read_manifest(Path(done.stdout.split(" ", 1)[0]))["version"] == "0" * 12


def test_decisions_go_back_as_they_came(registry, bundles):
    one, two, three = (registry.register(bundle) for bundle in bundles)
    for version in (one, two, three):
        registry.promote(version, [HOLDS])
    assert registry.roll_back("a")["version"] == two
    assert registry.roll_back("b")["version"] == one
    with pytest.raises(UserError, match="version 1 is the first champion"):
        registry.roll_back()
    registry.promote(three, [HOLDS])
    assert registry.roll_back()["version"] == one  # over which it was promoted last
    told = [(d["what"], d["version"], d["over"]) for d in registry.decisions()]
    ups = [("promote", 1, None), ("promote", 2, 1), ("promote", 3, 2)]
    assert told == [*ups, ("rollback", 2, 3), ("rollback", 1, 2), ("promote", 3, 1), ("rollback", 1, 3)]
    assert registry.withdrawn("2" * 12) and registry.withdrawn("1" * 12) and not registry.withdrawn("0" * 12)
    assert [d["at"] for d in registry.decisions()] == sorted(d["at"] for d in registry.decisions())


def test_a_refusal_and_who_insists_leave_traces(registry, bundles):
    one, two = (registry.register(bundle) for bundle in bundles[:2])
    registry.promote(one, [HOLDS])
    with pytest.raises(Refused, match="version 2 is not promoted: quality: worse by") as refused:
        registry.promote(two, [HOLDS, FAILS])
    assert refused.value.checks == [FAILS] and registry.aliases() == {"champion": 1, "challenger": 2}
    assert registry.promote(two, [HOLDS, FAILS], force=True)["forced"]
    assert registry.promote(two, [FAILS])["what"] == "unchanged"
    last = registry.decisions()[-1]
    assert (last["what"], last["forced"], last["checks"][1]) == ("promote", True, ["quality", False, "worse by 0.1"])
    assert not registry.promote(one, [HOLDS], force=True)["forced"]  # nothing was overruled


def test_a_registration_that_was_broken_off_is_taken_up(registry, bundles, monkeypatch):
    made = registry.client.create_model_version

    def killed(*args, **words):
        raise KeyboardInterrupt

    monkeypatch.setattr(registry.client, "create_model_version", killed)
    with pytest.raises(KeyboardInterrupt):
        registry.register(bundles[0])
    monkeypatch.setattr(registry.client, "create_model_version", made)
    assert (registry.register(bundles[0]), registry.register(bundles[0])) == (1, 1)
    experiment = registry.client.get_experiment_by_name("shop")
    assert len(registry.client.search_runs([experiment.experiment_id])) == 1


def test_a_bundle_that_is_not_whole_is_not_added(registry, bundles):
    (bundles[0] / "catalogue" / "price.npy").write_bytes(b"")
    with pytest.raises(DataError, match="is not as it was written"):
        registry.register(bundles[0])
    assert registry.versions() == [] and registry.decisions() == []


def test_versions_are_named_by_alias_number_or_bundle(registry, bundles):
    registry.register(bundles[1])
    assert [registry.number(word) for word in ("challenger", 1, "1", "111111", "11111", "champion")] == [
        1,
        1,
        1,
        1,
        None,
        None,
    ]
    with pytest.raises(UserError, match=r"has no version '7'; there are 1 \(111111111111\)"):
        registry.folder("7")
    for word in ("registry:", "registry:a/b/c", "champion"):
        with pytest.raises(DataError, match="names no version"):
            parse_reference(word)


@pytest.mark.slow
def test_no_request_fails_while_the_champion_changes(registry, bundles):
    """Two threads ask without a pause; the champion changes four times, by promotion and by going back."""
    one, two = (registry.register(bundle) for bundle in bundles[:2])
    registry.promote(one, [HOLDS])
    seen, stop = [], threading.Event()
    with serving("registry:champion", "--quiet") as (url, _):

        def hammer():
            session = requests.Session()
            while not stop.is_set():
                answer = session.get(f"{url}/recommend/1?n=5", timeout=10)
                seen.append(answer.status_code)

        def now():
            return requests.get(f"{url}/ready", timeout=5).json()["model_version"]

        threads = [threading.Thread(target=hammer) for _ in range(2)]
        for thread in threads:
            thread.start()
        for change in (lambda: registry.promote(two, [HOLDS]), registry.roll_back) * 2:
            wanted = read_manifest(registry.folder(change()["version"]))["version"]
            assert eventually(lambda wanted=wanted: now() == wanted)
        stop.set()
        for thread in threads:
            thread.join()
    assert len(seen) > 100 and set(seen) == {200}


@pytest.mark.slow
def test_a_registry_that_is_away(registry, bundles):
    """A server goes on with what it has, a new one starts with the last one known, and without any it says what is wrong."""
    registry.promote(registry.register(bundles[0]), [HOLDS])
    store, aside = Path(registry.store), Path(registry.store).with_name("aside")
    with serving("registry:champion", "--quiet") as (url, _):
        (store / "mlflow.db").rename(aside)
        time.sleep(2.5)  # two looks
        assert requests.get(f"{url}/recommend/1", timeout=5).status_code == 200
    with serving("registry:champion", "--quiet") as (url, _):
        assert requests.get(f"{url}/ready", timeout=5).json()["model_version"] == "0" * 12
    shutil.rmtree(os.environ["RECSYS_LAB_CACHE"])
    done = subprocess.run(
        [*LEAN, "registry:champion", "--port", str(free_port())], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "there is no registry here; add a bundle" in done.stderr
    aside.rename(store / "mlflow.db")
    with sqlite3.connect(store / "mlflow.db") as db:
        db.execute("DROP TABLE registered_model_aliases")
    with pytest.raises(DataError, match="cannot be read at the moment"):
        bundle_folder("registry:champion")


def test_a_training_of_a_served_registry_is_refused(registry, bundles):
    from fastapi.testclient import TestClient

    from recsys_lab.serving.api import create_app
    from recsys_lab.serving.service import Settings

    registry.promote(registry.register(bundles[0]), [HOLDS])
    with TestClient(create_app(Settings(bundle="registry:champion", token="t", every=0))) as client:
        answer = client.post("/training", json={"model_type": "hybrid"}, headers={"Authorization": "Bearer t"})
    assert answer.status_code == 409 and "registry" in answer.json()["error"]["message"]


@pytest.mark.slow
@pytest.mark.skipif(not SERVER.exists(), reason="make test-orchestrators installs an MLflow server")
def test_a_registry_on_a_server(bundles, tmp_path, monkeypatch):
    """MLflow's own server: bundles are copied from it, and one that is away is borne."""
    port = free_port()
    words = [str(SERVER), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    places = ["--backend-store-uri", f"sqlite:///{tmp_path}/m.db", "--artifacts-destination", str(tmp_path / "files")]
    done = subprocess.Popen([*words, *places], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("RECSYS_LAB_REGISTRY", url)
        monkeypatch.setenv("RECSYS_LAB_CACHE", str(tmp_path / "cache"))
        assert up(url)
        registry = ModelRegistry()
        one, two = (registry.register(bundle) for bundle in bundles[:2])
        registry.promote(one, [HOLDS])
        with server_process("registry:champion", "--quiet", cwd=ROOT) as (served, _):
            registry.promote(two, [HOLDS])
            assert eventually(lambda: requests.get(f"{served}/ready", timeout=5).json()["model_version"] == "1" * 12)
            done.terminate()
            done.wait(30)
            time.sleep(1.5)
            assert requests.get(f"{served}/recommend/1", timeout=20).status_code == 200
        assert read_manifest(bundle_folder("registry:champion"))["version"] == "1" * 12  # the last one known
        with pytest.raises(UserError, match="does not answer"):
            ModelRegistry().versions()
    finally:
        if done.poll() is None:
            done.terminate()
            done.wait(30)


def up(url):
    """Whether a server is ready within a minute."""

    def answers():
        try:
            return registries.ask_server(f"{url}/health")
        except DataError:
            return b""

    return eventually(answers, 60)
