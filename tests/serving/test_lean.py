"""A server in a small process: no large library is loaded, and every model is served as it ranks."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, TWO_STAGE

from recsys_lab import splits
from recsys_lab.models.base import MODELS, model_class
from recsys_lab.serving.bundle import pack

pytest.importorskip("fastapi_offline")


@pytest.mark.slow
def test_a_server_holds_no_large_library(folder):
    ask = (
        "from recsys_lab.serving.lean import lean, loaded; lean(); lean()\n"
        f"from recsys_lab.serving.bundle import Bundle; b = Bundle({str(folder)!r})\n"
        "import recsys_lab.serving.api\n"
        "[b.rank(b.history(u), 10, name) for u in (-1, 0, 5) for name in b.models]\n"
        "b.find('lamp', 3); b.similar(0, 3, 'als')\n"
        "print('lean', loaded())"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "lean []", done.stderr


@pytest.mark.slow
def test_every_single_model_is_served_as_it_ranks_in_a_small_process(fits, shop, tmp_path):
    """Stored vectors, neighbours, filters, graphs: the lists of known users by name are those of `recommend`."""
    known = splits.make(shop).known("test")
    settings = {
        "lightfm": {"factors": 4, "epochs": 2},
        "bpr": {"factors": 4, "epochs": 3},
        "lightgcn": {"factors": 4, "epochs": 1},
        "gf_cf": {"factors": 8},
        "ials": {"factors": 8},
        "sasrec": {"factors": 8, "epochs": 1},
        "gru4rec": {"factors": 8, "epochs": 1},
        "graph_filter": {"factors": 8},
        "spectral_filter": {"factors": 8},
        "simplex": {"factors": 8, "epochs": 1},
        "content": {"new_items": False},
    }
    names = [n for n in MODELS.own() if n not in TWO_STAGE | {"oracle", "lightfm_hybrid"}]  # whose catalogue is larger
    models = {n: model_class(n)(**settings.get(n, {})).fit(known) for n in names}
    others = {n: m.save(tmp_path / "fits" / n) for n, m in models.items()}
    pack(fits[0], shop, tmp_path / "b", others)
    users = known.users[::30].tolist()
    ask = (
        "from recsys_lab.serving.lean import lean, loaded; lean()\n"
        "import json\n"
        "from recsys_lab.serving.bundle import Bundle\n"
        f"b = Bundle({str(tmp_path / 'b')!r})\n"
        f"found = {{n: [b.rank(b.history(b.users.find(u)), 10, n, 'seen') for u in {users}] for n in {names}}}\n"
        "items = {n: b.models[n].items for n in found}\n"
        "told = {n: [[[i.item() for i in items[n][r.codes]], r.scores.tolist()] for r in rs] for n, rs in found.items()}\n"
        "print(json.dumps([told, loaded()]))"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    told, heavy = json.loads(done.stdout)
    assert heavy == []
    for name, model in models.items():
        wanted = model.recommend(users, 10, "seen")
        size = np.nanmax(np.abs(wanted.scores), initial=0)
        for row, (ids, scores) in enumerate(told[name]):
            assert ids == wanted.items[wanted.codes[row]].tolist(), name
            np.testing.assert_allclose(np.array(scores, float), wanted.scores[row], rtol=0, atol=1e-6 * max(1, size))
