"""What tests share: small logs, quick settings, the real data, a server in a process of its own."""

import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys_lab import datasets, histories, loading
from recsys_lab.datasets import Dataset
from recsys_lab.models.base import model_class
from recsys_lab.ranking import training
from recsys_lab.serving.lean import server_process

ROOT = Path(__file__).resolve().parents[1]


def real_folder(name: str) -> Path:
    """A folder of RECSYS_LAB_DATA, or a skip where it is not there."""
    folder = os.environ.get("RECSYS_LAB_DATA")
    if not folder or not (ROOT / folder / name).is_dir():
        pytest.skip(f"RECSYS_LAB_DATA holds no {name}")
    return ROOT / folder / name


def real_data(name: str) -> datasets.Dataset:
    """A real dataset, or a skip where RECSYS_LAB_DATA does not hold it."""
    return loading.read_folder(real_folder(name), name)


def random_log(seed: int, n: int = 400, users: int = 40, items: int = 25, text: bool = False) -> datasets.Dataset:
    """A log of random events in a month, with carts and purchases; ids are numbers or text."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "user_id": rng.integers(0, users, n),
            "item_id": rng.zipf(1.4, n) % items,
            "event": rng.choice(histories.EVENTS, n, p=[0.8, 0.12, 0.08]),
            "timestamp": pd.to_datetime(rng.integers(1_700_000_000, 1_702_600_000, n) * 1000, unit="ms", utc=True),
        }
    )
    if text:
        frame = frame.assign(user_id="u" + frame.user_id.astype(str), item_id="i" + frame.item_id.astype(str))
    return datasets.Dataset("random", frame)


def untimed_sessions(seed: int, sessions: int = 300, items: int = 40) -> datasets.Dataset:
    """Sessions in order, without times."""
    rng = np.random.default_rng(seed)
    length = rng.integers(2, 8, sessions)
    frame = pd.DataFrame(
        {"user_id": np.repeat(np.arange(sessions), length), "item_id": rng.integers(0, items, length.sum())}
    )
    return datasets.Dataset("sessions", frame.assign(event="view"), has_times=False)


def arrived_split(seed: int) -> datasets.Dataset:
    """A log that arrives split into train and test."""
    log = untimed_sessions(seed).events.drop_duplicates(["user_id", "item_id"])
    part = np.where(np.random.default_rng(seed).random(len(log)) < 0.2, "test", "train")
    return datasets.Dataset(
        "arrived", log.assign(part=pd.Categorical(part, ["train", "test"])).drop(columns="timestamp"), has_times=False
    )


TWO_STAGE = {"lr", "lr_enriched", "lightgbm", "hybrid", "hybrid_tuned"}


SEQUENCES = {"sasrec", "gru4rec"}


FEW_SOURCES = {"revisits": 10, "session_walk": 20, "item_knn": 10, "popularity": 10}


def quick(name: str) -> dict:
    """Settings under which a two-stage or sequence model is fitted in a moment; none for other models."""
    if name in SEQUENCES | {"simplex"}:
        return {"factors": 16, "negatives": 64, "epochs": 3}
    rows = {"sources": FEW_SOURCES, "max_requests": 200, "n_windows": 2, "window_fraction": 0.1, "negatives": 5}
    trees = {"num_boost_round": 15, "min_data_in_leaf": 5} if name in TWO_STAGE - {"lr", "lr_enriched"} else {}
    return {**rows, **trees} if name in TWO_STAGE else {}


LEAN = [sys.executable, "-m", "recsys_lab.serving.lean"]


@contextmanager
def serving(folder, *words, **env):
    """A server in a process of its own, ready; yields its URL and its process."""
    with server_process(folder, *words, cwd=ROOT, env=os.environ | env) as (url, done):
        yield url, done


@contextmanager
def redis_server(port, place):
    if not shutil.which("redis-server"):
        pytest.skip("no redis-server")
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(place)]
    done = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                time.sleep(0.05)
        yield done
    finally:
        done.terminate()
        done.wait(10)


def packed(fits, shop, out, **more):
    """A bundle of `fits` at a place; returns its manifest."""
    from recsys_lab.serving.bundle import pack

    return pack(fits[0], shop, out, {"item_knn": fits[1]}, {"dataset": "shop", "size": "tiny"}, **more)


def eventually(holds, seconds=30):
    """Whether something holds within some seconds."""
    end = time.time() + seconds
    while time.time() < end:
        if holds():
            return True
        time.sleep(0.05)
    return False


BIN = Path(sys.executable).parent


def run_lab(*words, cwd=ROOT, **extra):
    return subprocess.run(
        [BIN / "recsys-lab", *words], cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, **extra}
    )


HEADER = "timestamp,visitorid,event,itemid,transactionid\n"


def write_log(folder, content, name="events.csv"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


SHOP_ONLY = {"oracle"}


def make_quick(name, **settings):
    return model_class(name)(**quick(name) | settings)


def same_lists(a, b):
    return (a.codes == b.codes).all() and np.array_equal(a.scores, b.scores, equal_nan=True) and a.items.equals(b.items)


LOG = random_log(7)


def dense(log):
    return log.matrix().matrix.toarray().astype(float)


MEMBERS = {"item_knn": {"shrinkage": 5.0}, "graph_filter": {"factors": 8}, "popularity": {}}


T0 = 1_500_000_000  # seconds


def write_json_lines(path, records):
    """JSON lines, gzipped if the name says so; text stays as it is."""
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def review(user, product, stars=5.0, at=T0):
    return {"reviewerID": user, "asin": product, "overall": stars, "unixReviewTime": at}


def item(product, **told):
    return {"asin": product, "title": f"Title of {product}", **told}


STAGE = training.Stage(tuple(FEW_SOURCES.items()), max_requests=200, n_windows=2, window_fraction=0.1, negatives=5)


def times(*days):
    return pd.to_datetime(list(days), utc=True)


def tiny_log(**extra):
    """Three users, four items in two categories under one root, with prices and a cart."""
    events = pd.DataFrame(
        [
            (1, 10, "view", "2024-01-01 10:00"),
            (1, 20, "view", "2024-01-01 10:01"),
            (2, 10, "view", "2024-01-01 12:00"),
            (2, 30, "addtocart", "2024-01-02 12:00"),
            (2, 30, "transaction", "2024-01-02 12:05"),
            (3, 30, "view", "2024-01-03 09:00"),
            (3, 40, "view", "2024-01-03 09:30"),
        ],
        columns=["user_id", "item_id", "event", "timestamp"],
    )
    events["timestamp"] = times(*events.timestamp)
    told = [(10, "categoryid", "a"), (20, "categoryid", "a"), (30, "categoryid", "b"), (40, "categoryid", "b")]
    told += [
        (10, "price", "10"),
        (20, "price", "20"),
        (30, "price", "40"),
        (10, "available", "1"),
        (20, "available", "0"),
    ]
    properties = pd.DataFrame(told, columns=["item_id", "property", "value"])
    properties["timestamp"] = times("2023-12-01")[0]
    tree = pd.DataFrame({"category": ["r", "a", "b"], "parent": [None, "r", "r"]})
    return Dataset("tiny", events.assign(**extra), properties, tree)


def ms(text):
    return int(pd.Timestamp(text, tz="UTC").value // 1_000_000)


def tiny_encoder(folder, words):
    """An exported encoder that is known by heart: a vector of a word is 1 at the word's place and .01 elsewhere, a text's their mean.

    The network, the tokenizer and the facts are real files; words that it does not know have a place of their own.
    """
    pytest.importorskip("onnxruntime")
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    from recsys_lab.encoders import ENCODER_FORMAT, Encoder, write_facts

    place = Path(folder) / f"encoder-{len(words)}"
    place.mkdir(parents=True, exist_ok=True)
    n = len(words) + 1
    table = np.roll(np.eye(n, dtype=np.float32) * 0.99 + 0.01, -1, axis=1)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("ReduceMean", ["tokens", "axes"], ["vectors"], keepdims=0),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "length"])
    vectors = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", n])
    constants = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axes")]
    graph = helper.make_graph(nodes, "tiny", [ids], [vectors], constants)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), place / "model.onnx"
    )
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, **{w: k + 1 for k, w in enumerate(words)}}, "[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer.post_processor = None
    tokenizer.save(str(place / "tokenizer.json"))
    facts = {"format": ENCODER_FORMAT, "name": "tiny", "precision": "float32", "cosine": 1.0, "prompts": {}}
    write_facts(place, {**facts, "dimension": n, "max_tokens": 48})
    return Encoder(place)


def with_crawler(log: datasets.Dataset) -> datasets.Dataset:
    """The log, in which one visitor has two of five events."""
    events = log.events
    own = np.random.default_rng(0).random(len(events)) < 0.4
    return datasets.Dataset(
        log.name,
        events.assign(user_id=np.where(own, events["user_id"].iloc[0], events["user_id"])),
        has_times=log.has_times,
    )


LOGS_IN_FILES = {  # by what is hard about them
    "times": lambda seed: random_log(seed),
    "text ids": lambda seed: random_log(seed, text=True),
    "few moments": lambda seed: datasets.Dataset(
        "days", random_log(seed).events.assign(timestamp=lambda f: f["timestamp"].dt.floor("3D"))
    ),
    "one crawler": lambda seed: with_crawler(random_log(seed)),
    "sessions": lambda seed: untimed_sessions(seed, sessions=60, items=15),
}
