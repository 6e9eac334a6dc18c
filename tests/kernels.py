"""The same model file gives the same lists under every BLAS kernel, and searches make the same choices.

A processor's own kernels can be stood in for on one machine: OpenBLAS takes another by OPENBLAS_CORETYPE, NumPy does without what
NPY_DISABLE_CPU_FEATURES names. Every model of the lab is fitted once and saved; then each environment, in processes of its own, loads
the files, ranks all requests of the tiny shop with each, and with those of `SINGLE` in batches of 1, 7, 64 and all (the contract
suite does so for every model, under one kernel), fits a hybrid of its own and ranks with that too, and serves the bundle over HTTP.
`--choices` runs the chapters that search under two kernels instead, and compares what was chosen; with `--against` one of the two is a run
that is there already.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import requests
from helpers import ROOT, quick, serving
from threadpoolctl import threadpool_info

from recsys_lab import loading, provenance, runs, splits
from recsys_lab.histories import Histories
from recsys_lab.models.base import MODELS, load_model, model_class
from recsys_lab.serving.api import replay_requests
from recsys_lab.serving.bundle import pack
from recsys_lab.serving.schemas import MOST_HISTORY

PLACE = ROOT / "build" / "kernels"
KERNELS = {  # of OpenBLAS, by architecture: the name, and the feature (as NumPy names it) that a processor needs for it
    "x86_64": {"Nehalem": "X86_V2", "Haswell": "X86_V3", "Zen": "X86_V3", "SkylakeX": "X86_V4"},
    "aarch64": {"ARMV8": "NEON", "NEOVERSEN1": "ASIMDDP"},
}
BATCHES = (1, 7, 64)  # and all
NEAR = 1e-6
SEARCHES = "21,22,23,24,25,30,32,33,34,40,41,41b,42,52"  # chapters that choose something
ENOUGH = {
    "lightfm": {"epochs": 4},
    "lightfm_hybrid": {"epochs": 4},
    "bpr": {"epochs": 20},
    "lightgcn": {"epochs": 3},
}
ENOUGH |= {"bpr_mf": {"epochs": 3}, "sasrec": {"epochs": 2, "factors": 16}, "gru4rec": {"epochs": 2, "factors": 16}}
ENOUGH |= {"simplex": {"epochs": 4, "factors": 16}}
ALONE = ("als", "graph_filter", "bpr")  # bundled beside the hybrid
SINGLE = ("hybrid_shop", "als")  # ranked in all sizes of batch, one by one too
Lists = dict[str, np.ndarray]


def environments() -> dict[str, dict[str, str]]:
    """Names of environments, and the variables that make them; the first is this machine's own."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    found = {"own": {}}
    found |= {kernel: {"OPENBLAS_CORETYPE": kernel} for kernel in kernels()}
    if extra := [f for f in __cpu_dispatch__ if __cpu_features__.get(f)]:
        found |= {"plain NumPy": {"NPY_DISABLE_CPU_FEATURES": " ".join(extra)}}
    both = ("own", *list(found)[1:2])  # threads change nothing that a kernel does not: they are tried with two of them
    return {
        f"{name}, {n} threads": told | threads(n)
        for name, told in found.items()
        for n in ((1, 2) if name in both else (2,))
    }


def kernels() -> list[str]:
    """The kernels of `KERNELS` that this processor can run."""
    from numpy._core._multiarray_umath import __cpu_features__

    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    return [kernel for kernel, needs in KERNELS.get(machine, {}).items() if __cpu_features__.get(needs)]


def threads(n: int) -> dict[str, str]:
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(n))


def asked() -> tuple[Histories, str]:
    """The histories of every second test request of the tiny shop (none longer than the service takes), and what lists leave out."""
    split = splits.make(loading.load("shop", size="tiny"))
    protocol, target, exclude = runs.questions(split)[0]
    cases = splits.make_cases(split, protocol, target, "test", exclude)
    rows = np.flatnonzero(cases.history <= MOST_HISTORY)[::2]
    return cases.histories(slice(0, len(cases))).take(rows), exclude


def shop_hybrid():
    """A two-stage hybrid with ALS among its sources and one whose collaborative half is ALS, of the tiny shop."""
    known = splits.make(loading.load("shop", size="tiny")).known("test")
    return model_class("hybrid_tuned")(alpha=0.2, collaborative="als").fit(known)


def fit_all() -> None:
    """Fit and save every model of the lab, and a bundle."""
    shutil.rmtree(PLACE / "models", ignore_errors=True)
    shop = loading.load("shop", size="tiny")
    known = splits.make(shop).known("test")
    for name in MODELS.own():
        model_class(name)(**quick(name) | ENOUGH.get(name, {})).fit(known).save(PLACE / "models" / name)
    hybrid = shop_hybrid().save(PLACE / "models" / "hybrid_shop")
    shutil.rmtree(PLACE / "bundle", ignore_errors=True)
    pack(hybrid, shop, PLACE / "bundle", {n: PLACE / "models" / n for n in ALONE}, {"dataset": "shop", "size": "tiny"})


def in_batches(model, histories: Histories, exclude: str, what: str, sizes: tuple[int, ...] = (64,)) -> Lists:
    """Lists of ten in each size of batch, which must be the same to the bit; returns those of the whole."""
    whole = model.rank(histories, 10, exclude)
    for size in sizes:
        parts = [
            model.rank(histories.take(slice(start, start + size)), 10, exclude)
            for start in range(0, len(histories), size)
        ]
        codes, scores = (np.concatenate([getattr(p, a) for p in parts]) for a in ("codes", "scores"))
        if (codes != whole.codes).any() or not np.array_equal(scores, whole.scores, equal_nan=True):
            row = int(
                np.flatnonzero(
                    (codes != whole.codes).any(1) | ~np.isclose(scores, whole.scores, equal_nan=True).all(1)
                )[0]
            )
            sys.exit(f"{what}: request {row} is ranked {whole.codes[row]} among all, {codes[row]} in a batch of {size}")
    return {"codes": whole.codes, "scores": whole.scores}


def over_http(histories: Histories, exclude: str, items) -> Lists:
    """Lists of ten that a server in a process of its own gives for each history."""
    with serving(PLACE / "bundle", "--quiet") as (url, _), requests.Session() as session:
        codes, scores = replay_requests(
            lambda path, body: session.post(f"{url}{path}", json=body).json(), histories, 10, exclude, items
        )
    return {"codes": codes, "scores": scores}


def one_environment(out: Path) -> None:
    """Everything that is compared, in this process's environment, into an npz file; a server is on one thread, whatever is asked."""
    served = os.environ["OMP_NUM_THREADS"] == "1"
    kernel = {d["architecture"] for d in threadpool_info() if d["user_api"] == "blas" and "architecture" in d}
    histories, exclude = asked()
    found: dict[str, Lists] = {}
    for folder in sorted((PLACE / "models").iterdir()):
        model = load_model(folder)
        sizes = BATCHES if folder.name in SINGLE else BATCHES[-1:]
        found[folder.name] = in_batches(model, histories, exclude, f"{folder.name} under {out.stem}", sizes)
        if folder.name == "hybrid_shop" and served:
            found["over HTTP"] = over_http(histories, exclude, model.items)
    own = shop_hybrid()
    in_batches(own, histories, exclude, f"a fit of its own under {out.stem}")
    arrays = {f"{name}/{part}": a for name, lists in found.items() for part, a in lists.items()}
    kept = load_model(PLACE / "models" / "hybrid_shop")
    equal = {
        "vectors": np.array_equal(own.parts["als"].state["item_vectors"], kept.parts["als"].state["item_vectors"]),
        "trees": np.array_equal(own.state["booster"], kept.state["booster"]),
    }
    np.savez(out, kernel=" ".join(sorted(kernel)), differs=[n for n, same in equal.items() if not same], **arrays)


def in_process(name: str, told: dict[str, str]) -> tuple[str, float, Path]:
    """Run `one_environment` in a process of its own: (name, seconds, file)."""
    out, start = PLACE / f"{name}.npz", time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--one", out], env=os.environ | told, capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip()[-2000:]}")
    return name, time.perf_counter() - start, out


def differing(first, other) -> tuple[int, float]:
    """(lists that differ, largest difference of scores) of two files of `one_environment`."""
    lists, worst = 0, 0.0
    for key in other.files:
        if key.endswith("/codes"):
            lists += int((first[key] != other[key]).any(1).sum())
        elif key.endswith("/scores"):
            size = max(1.0, np.nanmax(np.abs(first[key]), initial=0))  # counts are larger than 1
            worst = max(worst, float(np.nanmax(np.abs(first[key] - other[key]), initial=0)) / size)
            lists += int((np.isnan(first[key]) != np.isnan(other[key])).any(1).sum())
    return lists, worst


def compare_kernels() -> None:
    """Fit once, rank and serve everywhere; exits with what differs."""
    PLACE.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    fit_all()
    print(
        f"fitted {len(MODELS.own()) + 1} models and packed a bundle in {time.perf_counter() - start:.0f} s", flush=True
    )
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(pool.map(lambda item: in_process(*item), environments().items()))
    first, wrong = np.load(done[0][2]), []
    served = differing_served(first)
    for name, spent, path in done:
        found = np.load(path)
        lists, worst = differing(first, found)
        fits = (
            f"a fit of its own has other {' and '.join(d)}"
            if len(d := found["differs"])
            else "a fit of its own is equal"
        )
        print(
            f"{name:24} kernel {found['kernel']!s:12} {spent:4.0f} s  lists that differ {lists}, scores {worst:.1e}; {fits}"
        )
        wrong += [name] * (lists > 0 or worst > NEAR)
    requests_asked, models = len(first["hybrid_shop/codes"]), sum(k.endswith("/codes") for k in first.files) - 1
    if wrong or served:
        sys.exit(
            f"not the same as {done[0][0]}: {', '.join(wrong) or 'none'}; served otherwise than ranked: {served} lists"
        )
    told = f"{requests_asked} requests, {models} models, batches of 1, 7, 64 and all, and over HTTP"
    print(f"{told}: the same lists in {len(done)} environments")


def differing_served(found) -> int:
    """Lists that the server gave otherwise than `rank`."""
    lists = (found["over HTTP/codes"] != found["hybrid_shop/codes"]).any(1)
    far = np.nanmax(np.abs(found["over HTTP/scores"] - found["hybrid_shop/scores"]), initial=0) > NEAR
    return int(lists.sum()) + int(far)


def searched(name: str, told: dict[str, str], size: str) -> tuple[Path, float]:
    """A run of the chapters that search, under an environment: (folder, seconds)."""
    out, start = PLACE / f"choices-{size}-{name}", time.perf_counter()
    shutil.rmtree(out, ignore_errors=True)
    command = [
        Path(sys.executable).parent / "recsys-lab",
        "run",
        "--dataset",
        "shop",
        "--size",
        size,
        "--only",
        SEARCHES,
    ]
    done = subprocess.run(
        [*command, "--budget", "none", "--no-book", "--out", out],
        env=os.environ | told | threads(1),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip()[-2000:]}")
    return out, time.perf_counter() - start


def outside(a: Path, b: Path) -> list[str]:
    """Headlines (NDCG@10 of each model and question) of each run that lie outside the other's interval."""
    keys = ("model", "protocol", "target", "exclude")
    searching = tuple(SEARCHES.split(","))
    one, other = (
        {
            tuple(r[k] for k in keys): r
            for r in json.loads((folder / "metrics.json").read_text())
            if (r["slice"], r["metric"], r["k"], r["part"]) == ("all", "ndcg", 10, "test")
            and r["chapter"].partition("_")[0] in searching
        }
        for folder in (a, b)
    )
    assert one.keys() == other.keys() and one
    found = []
    for key, x in one.items():
        y = other[key]
        if not (x["low"] <= y["value"] <= x["high"] and y["low"] <= x["value"] <= y["high"]):
            found.append(
                f"{' '.join(key)}: {x['value']} [{x['low']}, {x['high']}] and {y['value']} [{y['low']}, {y['high']}]"
            )
    print(
        f"{len(one)} headlines, {sum(one[k]['value'] == other[k]['value'] for k in one)} of them equal to the last digit; "
        f"largest difference {max(abs(one[k]['value'] - other[k]['value']) for k in one):.6f}"
    )
    return found


def compare_choices(size: str, under: list[str], there: Path | None = None) -> None:
    """Run the searches under two kernels, or under the first where a run is `there`.

    Exits with the choices that differ, and with headlines outside each other's intervals.
    """
    if len(under) < 2:
        print("no two kernels are known for this processor, so no choices were compared")
        return
    under = under[:1] if there else under
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda k: searched(k, {"OPENBLAS_CORETYPE": k}, size), under))
    done += [(there, 0.0)] if there else []
    (a, spent_a), (b, spent_b) = done
    made, wrong, far = len(provenance.collect_choices(runs.Run(a))), provenance.choice_differences(a, b), outside(a, b)
    print(f"{a.name} ({spent_a:.0f} s) and {b.name} ({spent_b:.0f} s): {made} choices, {len(wrong)} differ")
    if len(wrong) or far:
        sys.exit("\n".join([wrong.to_string(index=False), *far]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", type=Path, help="what one environment does, into this file")
    parser.add_argument(
        "--choices", metavar="SIZE", help="compare the choices of the searches on the shop of this size"
    )
    parser.add_argument("--against", type=Path, help="a run of that size that is there, as one of the two of --choices")
    parser.add_argument("--kernels", nargs=2, default=kernels()[:2], help="the two kernels of --choices")
    args = parser.parse_args()
    if args.one:
        one_environment(args.one)
    elif args.choices:
        compare_choices(args.choices, args.kernels, args.against)
    else:
        compare_kernels()
