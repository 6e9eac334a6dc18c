"""Retraining as an Airflow DAG: the steps of `recsys-lab retrain`, one task each.

Airflow pins most of what it needs, so it has an environment of its own (`pip install 'apache-airflow>=3'`) and calls the lab's command,
`recsys-lab` or what RECSYS_LAB_COMMAND names. Put this file into the folder of DAGs, and name the growing logs in RECSYS_LAB_LOGS
(as `shop,shoes`). A step after which nothing is to be done skips those that follow; a check that does not hold fails at once, all other
errors are tried again.
"""

import os
from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

STEPS = ("watch", "ingest", "validate", "drift", "refit", "register", "gate", "promote")
COMMAND = os.environ.get("RECSYS_LAB_COMMAND", "recsys-lab")
OPTIONS = os.environ.get("RECSYS_LAB_RETRAIN", "")  # as "--served /srv/served --margin 0.03"
REFUSING = ("validate", "promote")  # steps that look at what is there already, so that trying again changes nothing
ENDED = 4  # exit code of a step after which nothing is to be done


def make_dag(name: str) -> DAG:
    """The DAG of one growing log."""
    with DAG(
        f"retrain_{name}",
        description=f"from new rows of {name} to a promoted bundle",
        schedule=os.environ.get("RECSYS_LAB_CRON", "0 4 * * *"),
        start_date=datetime(2026, 1, 1),
        catchup=False,
        max_active_runs=1,
        tags=["recsys_lab"],
    ) as dag:
        before = None
        for step in STEPS:
            now = BashOperator(
                task_id=step,
                bash_command=f"{COMMAND} retrain {name} --step {step} --wait {OPTIONS}".strip(),
                append_env=True,
                skip_on_exit_code=ENDED,
                retries=0 if step in REFUSING else 2,
                retry_delay=timedelta(minutes=1),
                cwd=os.environ.get("RECSYS_LAB_HOME"),
            )
            if before is not None:
                before >> now
            before = now
    return dag


for log in filter(None, os.environ.get("RECSYS_LAB_LOGS", "shop").split(",")):
    globals()[f"retrain_{log}"] = make_dag(log)
