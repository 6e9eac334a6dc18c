"""Retraining as a Prefect flow: a schedule, retries and a page, around the commands of `recsys-lab`.

Prefect wants other versions of libraries than the lab, so it has an environment of its own (`pip install 'prefect>=3.9'`) and calls the
lab's command, `recsys-lab` or what RECSYS_LAB_COMMAND names. `python retrain_prefect.py my_log` serves the flow every night; its page is
that of `prefect server start`, which keeps its runs in SQLite. `python retrain_prefect.py my_log --once` runs it now.
"""

import os
import subprocess
import sys

os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")  # its own 20 are too few for a machine at work

from prefect import flow, get_run_logger, task
from prefect.states import State

STEPS = ("watch", "ingest", "validate", "drift", "refit", "register", "gate", "promote")
COMMAND = os.environ.get("RECSYS_LAB_COMMAND", "recsys-lab")
OPTIONS = os.environ.get("RECSYS_LAB_RETRAIN", "").split()  # as "--served /srv/served --margin 0.03"
REFUSED, ENDED = 3, 4  # exit codes of the command


class StepFailed(RuntimeError):
    """A step that ended with an error; refusals are not tried again."""

    def __init__(self, step: str, code: int, text: str):
        super().__init__(f"{step}: {text.strip() or f'exit code {code}'}")
        self.code = code


async def worth_a_retry(task: object, run: object, state: State) -> bool:
    """Whether a failed step is tried again: not where a check does not hold."""
    try:
        await state.aresult()
    except StepFailed as error:
        return error.code != REFUSED
    except Exception:
        return True
    return True


PAUSE = float(os.environ.get("RECSYS_LAB_RETRY", "60"))  # seconds before a step is tried again


@task(task_run_name="{step}", retries=2, retry_delay_seconds=PAUSE, retry_condition_fn=worth_a_retry)
def run_step(name: str, step: str) -> bool:
    """Run a step of the flow; False where the steps after it are not needed."""
    words = [*COMMAND.split(), "retrain", name, "--step", step, "--wait", *OPTIONS]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    get_run_logger().info(done.stdout.strip() or done.stderr.strip())
    if done.returncode not in (0, ENDED):
        raise StepFailed(step, done.returncode, done.stderr)
    return done.returncode == 0


@flow(name="retrain", flow_run_name="retrain-{name}")
def retrain(name: str) -> str:
    """From new rows to a promoted bundle; returns the last step."""
    for step in STEPS:
        if not run_step(name, step):
            return step
    return STEPS[-1]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python retrain_prefect.py NAME [--once]; NAME is a growing log (recsys-lab data grow)")
    if "--once" in sys.argv:
        print("ended with", retrain(sys.argv[1]))
    else:
        retrain.serve(name=f"retrain-{sys.argv[1]}", cron=os.environ.get("RECSYS_LAB_CRON", "0 4 * * *"), parameters={"name": sys.argv[1]})
