"""Sequence models: a list for one history on one core, and SASRec beside RecTools' in an environment of its own.

Lists are of 20 items among 41,000 for histories of 50 events, by models with the usual settings and one pass of learning, which changes
no time. Learning is on sessions of RECSYS_LAB_DATA: both SASRecs have the same blocks, heads, length of vectors, inner width, softmax
over the catalogue and passes; ours batches by length and bounds a batch by its positions, theirs by its sequences, and each has a learning
rate for its batches. Quality is the hit rate of the last event of later sessions. The environment is
made by `make .venv-rectools/.installed`.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import load, record
from threadpoolctl import threadpool_limits

from recsys_lab.datasets import Dataset
from recsys_lab.histories import Histories
from recsys_lab.models.sequential import GRU4Rec, SASRec

ROOT = Path(__file__).parent.parent
THEIRS = ROOT / ".venv-rectools" / "bin" / "python"
ITEMS, ASKED, LENGTH = 41_000, 100, 50
SESSIONS, LATER, EPOCHS, FACTORS, MOST, BATCH = 20_000, 2_000, 3, 64, 50, 128
RATE = 0.001


def serving() -> dict[str, Any]:
    """Milliseconds of a list for one history on one thread, median and 95th percentile."""
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.permutation(ITEMS), rng.integers(0, ITEMS, 59_000)])
    frame = pd.DataFrame({"user_id": np.arange(len(items)) // 20, "item_id": items, "event": "view"})
    log, out = Dataset("random", frame, has_times=False), {}
    asked = [Histories.from_lists([rng.integers(0, ITEMS, LENGTH).tolist()]) for _ in range(ASKED)]
    for kind in (SASRec, GRU4Rec):
        model, times = kind(epochs=1).fit(log), []
        with threadpool_limits(1):
            for one in asked:
                start = time.perf_counter()
                model.rank(one, 20, "none")
                times.append(1000 * (time.perf_counter() - start))
        out[kind.name] = {
            "median_ms": round(statistics.median(times), 2),
            "p95_ms": round(float(np.percentile(times, 95)), 2),
        }
    return out


def parts() -> tuple[pd.DataFrame, pd.DataFrame]:
    """(events of some sessions, events of later sessions on items that these have, of two events or more)."""
    events = load("retailrocket-sessions").events[["user_id", "item_id"]]
    learn = events[events["user_id"].between(80_000, 80_000 + SESSIONS - 1)]
    later = events[events["user_id"].between(80_000 + SESSIONS, 80_000 + SESSIONS + LATER - 1)]
    later = later[later["item_id"].isin(learn["item_id"])]
    sizes = later.groupby("user_id")["item_id"].transform("size")
    return learn, later[sizes >= 2]


def hits(lists: np.ndarray, right: np.ndarray) -> float:
    return float((lists == right[:, None]).any(1).mean())


def ours(learn: pd.DataFrame, later: pd.DataFrame) -> dict[str, float]:
    """Seconds of a pass, and the hit rate of the last event of later sessions."""
    log = Dataset("sessions", learn.assign(event="view"), has_times=False)
    settings = {"factors": FACTORS, "max_history": MOST, "inner": 4, "dropout": 0.2, "learning_rate": RATE * 4}
    model = SASRec(loss="softmax", epochs=EPOCHS, **settings).fit(log)
    sessions = later.groupby("user_id")["item_id"].apply(list)
    ranked = model.rank(Histories.from_lists([s[:-1] for s in sessions]), 20, "none")
    each = np.diff(np.append(0, model.curve["seconds"]))
    return {
        "epoch_seconds": float(np.median(each)),
        "hit_rate": hits(np.asarray(model.items)[ranked.codes], np.array([s[-1] for s in sessions])),
    }


RECTOOLS = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import numpy as np, pandas as pd
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

place, epochs, factors, most, batch, rate = sys.argv[1], *map(float, sys.argv[2:])
learn, later = (pd.read_csv(f"{place}/{name}.csv") for name in ("learn", "later"))
times = []

class Clock(Callback):
    def on_train_epoch_start(self, trainer, module):
        self.start = time.perf_counter()
    def on_train_epoch_end(self, trainer, module):
        times.append(time.perf_counter() - self.start)

def trainer():
    return Trainer(max_epochs=int(epochs), min_epochs=int(epochs), accelerator="cpu", logger=False, enable_progress_bar=False,
                   enable_model_summary=False, enable_checkpointing=False, callbacks=[Clock()])

def frame(events):
    out = events.rename(columns={"user_id": Columns.User, "item_id": Columns.Item})
    return out.assign(weight=1.0, datetime=pd.to_datetime(np.arange(len(out)), unit="s"))

model = SASRecModel(n_blocks=2, n_heads=1, n_factors=int(factors), session_max_len=int(most), batch_size=int(batch), lr=rate,
                    loss="softmax", dropout_rate=0.2, get_trainer_func=trainer, dataloader_num_workers=0)
model.fit(Dataset.construct(frame(learn)))
last = later.groupby("user_id")["item_id"].last()
asked = later[later.duplicated("user_id", keep="last")]
lists = model.recommend(asked["user_id"].unique(), Dataset.construct(frame(pd.concat([learn, asked]))), 20, filter_viewed=False)
found = lists.merge(last.rename("right"), left_on=Columns.User, right_index=True)
hit = (found[Columns.Item] == found["right"]).groupby(found[Columns.User]).any().reindex(last.index, fill_value=False)
print(json.dumps({"epoch_seconds": float(np.median(times)), "hit_rate": float(hit.mean())}))
"""


def theirs(learn: pd.DataFrame, later: pd.DataFrame) -> dict[str, float]:
    """The same by RecTools, in its environment."""
    with tempfile.TemporaryDirectory() as folder:
        learn.to_csv(f"{folder}/learn.csv", index=False)
        later.to_csv(f"{folder}/later.csv", index=False)
        words = [str(n) for n in (EPOCHS, FACTORS, MOST, BATCH, RATE)]
        done = subprocess.run(
            [str(THEIRS), "-c", RECTOOLS, folder, *words], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    result: dict[str, Any] = {"items": ITEMS, "history": LENGTH, "serving": serving()}
    if THEIRS.exists():
        learn, later = parts()
        both = {"ours": ours(learn, later), "rectools": theirs(learn, later)}
        result["learning"] = {
            "sessions": SESSIONS,
            "events": len(learn),
            "items": int(learn["item_id"].nunique()),
            "epochs": EPOCHS,
            **{f"{who}_{what}": round(value, 4) for who, values in both.items() for what, value in values.items()},
            "ratio_of_epochs": round(both["rectools"]["epoch_seconds"] / both["ours"]["epoch_seconds"], 2),
        }
    else:
        print(f"no {THEIRS.parent.parent.name}: not compared with RecTools", file=sys.stderr)
    record("sequences", result)


if __name__ == "__main__":
    main()
