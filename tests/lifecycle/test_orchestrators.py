"""The files of `deploy/` for Prefect and Airflow, run in environments of their own on a log of the tiny shop.

`make test-orchestrators` makes these environments; without them the tests are skipped.
"""

import json
import os
import subprocess
import sys

import pytest
from helpers import ROOT

from recsys_lab.lifecycle.registry import ModelRegistry
from recsys_lab.lifecycle.retraining import STEPS, start_growing
from recsys_lab.ranking.hybrid import Hybrid
from recsys_lab.serving.bundle import pack

pytest.importorskip("mlflow")
pytestmark = pytest.mark.slow
PREFECT, AIRFLOW = (ROOT / f".venv-{name}" / "bin" / "python" for name in ("orchestrators", "airflow"))
FEW = {
    "sources": {"session_walk": 20, "popularity": 20},
    "max_requests": 100,
    "n_windows": 2,
    "window_fraction": 0.1,
    "num_boost_round": 5,
}


@pytest.fixture
def lab(shop, tmp_path):
    """A lab with a growing log, a registry with one champion, and the words by which it is found."""
    (tmp_path / "nbs").mkdir()
    (tmp_path / "lab.toml").write_text("")
    cut = shop.events["timestamp"].iloc[-1001]
    known = shop.before(cut)
    home = start_growing(known, tmp_path / "data" / "live")
    shop.events[shop.events["timestamp"] >= cut].to_parquet(home / "inbox" / "new.parquet")
    pack(Hybrid(**FEW).fit(known).save(tmp_path / "fit"), known, tmp_path / "bundle", about={"dataset": "live"})
    registry = ModelRegistry(str(tmp_path / "registry"))
    registry.promote(registry.register(tmp_path / "bundle"), [])
    main = tmp_path / "recsys-lab"
    main.write_text(f"#!{sys.executable}\nfrom recsys_lab.cli import main\nraise SystemExit(main())\n")
    main.chmod(0o755)
    words = {
        "RECSYS_LAB_COMMAND": str(main),
        "RECSYS_LAB_RETRAIN": "--p99 5000 --margin 0.5",
        "RECSYS_LAB_REGISTRY": registry.store,
    }
    words |= {
        "RECSYS_LAB_HOME": str(tmp_path),
        "RECSYS_LAB_LOGS": "live",
        "PYTHONPATH": str(ROOT),
        "RECSYS_LAB_RETRY": "0",
    }
    return tmp_path, registry, {**os.environ, **words}


@pytest.mark.skipif(not PREFECT.exists(), reason="make test-orchestrators installs Prefect")
def test_prefect_runs_the_flow_and_has_its_schedule(lab):
    place, registry, env = lab
    env |= {"PREFECT_HOME": str(place / "prefect"), "PREFECT_LOGGING_LEVEL": "ERROR", "DO_NOT_TRACK": "1"}
    env |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true"}
    words = [str(PREFECT), str(ROOT / "deploy" / "retrain_prefect.py"), "live", "--once"]
    done = subprocess.run(words, cwd=place, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ended with promote" in done.stdout and registry.aliases() == {"champion": 2}
    again = subprocess.run(words, cwd=place, env=env, capture_output=True, text=True, timeout=300)
    assert "ended with drift" in again.stdout, again.stderr[-3000:]
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import retrain_prefect as r\n"
        "made = r.retrain.to_deployment('nightly', cron='0 4 * * *', parameters={'name': 'live'})\n"
        "print(made.schedules[0].schedule.cron, r.STEPS)"
    )
    told = subprocess.run(
        [str(PREFECT), "-c", code, str(ROOT / "deploy")],
        cwd=place,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.stdout.strip() == f"0 4 * * * {STEPS}", told.stderr[-2000:]


@pytest.mark.skipif(not PREFECT.exists(), reason="make test-orchestrators installs Prefect")
def test_prefect_does_not_try_a_refusal_again(lab):
    place, _, env = lab
    env |= {"PREFECT_HOME": str(place / "prefect"), "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true", "DO_NOT_TRACK": "1"}
    counting = place / "count"
    counting.write_text(
        f"#!/bin/sh\necho $4 >> {place}/asked\n[ $4 = validate ] && echo 'bad day' >&2 && exit 3\n[ $4 = ingest ] && exit 1\nexit 0\n"
    )
    counting.chmod(0o755)
    words = [str(PREFECT), str(ROOT / "deploy" / "retrain_prefect.py"), "live", "--once"]
    done = subprocess.run(
        words, cwd=place, env=env | {"RECSYS_LAB_COMMAND": str(counting)}, capture_output=True, text=True, timeout=300
    )
    assert (place / "asked").exists(), done.stdout + done.stderr  # the flow began
    assert done.returncode and (place / "asked").read_text().split() == ["watch", "ingest", "ingest", "ingest"]
    (place / "asked").unlink()
    counting.write_text(counting.read_text().replace("[ $4 = ingest ] && exit 1\n", ""))
    done = subprocess.run(
        words, cwd=place, env=env | {"RECSYS_LAB_COMMAND": str(counting)}, capture_output=True, text=True, timeout=300
    )
    assert (
        done.returncode
        and "bad day" in done.stderr
        and (place / "asked").read_text().split() == ["watch", "ingest", "validate"]
    )


@pytest.mark.skipif(not AIRFLOW.exists(), reason="make test-orchestrators installs Airflow")
def test_airflow_imports_and_runs_the_dag(lab):
    place, registry, env = lab
    env |= {
        "AIRFLOW_HOME": str(place / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "deploy"),
    }
    env |= {"AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR", "PATH": f"{AIRFLOW.parent}:{env['PATH']}"}
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import retrain_airflow as r\n"
        "dag = r.retrain_live\n"
        "order = [t.task_id for t in dag.topological_sort()]\n"
        "print('FACTS', json.dumps([order, dag.task_dict['promote'].retries, dag.task_dict['refit'].retries, str(dag.schedule)]))\n"
        "if len(sys.argv) > 2: print('STATE', json.dumps({t.task_id: str(t.state) for t in dag.test().get_task_instances()}))"
    )

    def run(*words):
        done = subprocess.run(
            [str(AIRFLOW), "-c", code, str(ROOT / "deploy"), *words],
            cwd=place,
            env=env,
            capture_output=True,
            text=True,
            timeout=400,
        )
        return {
            line.split(" ", 1)[0]: json.loads(line.split(" ", 1)[1])
            for line in done.stdout.splitlines()
            if line[:5] in ("FACTS", "STATE")
        }, done

    told, done = run()
    assert told.get("FACTS") == [list(STEPS), 0, 2, "0 4 * * *"], done.stderr[-3000:]
    subprocess.run(
        [str(AIRFLOW), "-m", "airflow", "db", "migrate"],
        cwd=place,
        env=env,
        capture_output=True,
        check=True,
        timeout=300,
    )
    told, done = run("--run")
    assert told.get("STATE") and set(told["STATE"].values()) == {"success"}, done.stdout[-3000:] + done.stderr[-3000:]
    assert registry.aliases() == {"champion": 2}
    told, done = run("--run")
    assert told["STATE"]["drift"] == told["STATE"]["promote"] == "skipped", done.stderr[-2000:]
