"""Do 95% intervals hold the truth in 95 of 100 worlds, and does the paired test err in 5 of 100? Simulated over a grid.

`python tests/interval_grid.py --worlds 20000` prints the whole grid and fails where a share is off; `make test-intervals` runs it. The
short form of it is in `test_intervals.py`.
"""

import argparse
import sys

import numpy as np

from recsys_lab.intervals import FEW, difference_intervals, informative, mean_intervals, paired_p

GAINS = 1 / np.log2(np.arange(2, 12))


def hits(p):
    """Hit or miss."""
    return lambda rng, n, worlds: (rng.random((n, worlds)) < p).astype(float), p


def gains(p):
    """NDCG@10 with one relevant item that is listed with probability p."""
    return (
        lambda rng, n, worlds: (rng.random((n, worlds)) < p) * GAINS[rng.integers(0, 10, (n, worlds))],
        p * GAINS.mean(),
    )


def unequal(p, better):
    """Means of visitors of whom few ask most (Zipf); those who ask often are served better by `better`."""

    def draw(rng, n, worlds):
        cases = np.minimum(rng.zipf(1.7, (n, worlds)), 500)
        return rng.binomial(cases, p + better * (cases > 3)) / cases

    often = 1 - (np.arange(1, 4.0) ** -1.7).sum() / (np.arange(1, 2_000_000.0) ** -1.7).sum()
    return draw, p + better * often


MEANS = {
    "hits of 2%": hits(0.02),
    "hits of 5%": hits(0.05),
    "hits of 20%": hits(0.2),
    "hits of 98%": hits(0.98),
    "NDCG, hits of 2%": gains(0.02),
    "NDCG, hits of 10%": gains(0.1),
    "unequal visitors": unequal(0.2, 0.0),
    "unequal visitors, the frequent better served": unequal(0.1, 0.3),
}


def change(a, b, both, size_a=None, size_b=None):
    """Differences of NDCG: model a alone lists the item with probability a, b alone with b, both with `both`."""

    def draw(rng, n, worlds):
        u, one, two = rng.random((n, worlds)), *(GAINS[rng.integers(0, 10, (2, n, worlds))])
        one = one if size_a is None else np.full_like(one, size_a)
        two = two if size_b is None else np.full_like(two, size_b)
        out = np.where(u < a, one, np.where(u < a + b, -two, 0.0))
        return np.where((u >= a + b) & (u < a + b + both), one - two, out)

    mean = a * (GAINS.mean() if size_a is None else size_a) - b * (GAINS.mean() if size_b is None else size_b)
    return draw, mean


def clustered(better):
    """Differences of two models' means of unequal visitors; the frequent ones are served differently, with mean 0 over all."""

    def draw(rng, n, worlds):
        cases = np.minimum(rng.zipf(1.7, (n, worlds)), 500)
        one, two = (
            rng.binomial(cases, 0.3 + s * better * np.where(cases > 3, 1.0, -RARE)) / cases for s in (0.5, -0.5)
        )
        return one - two

    return draw, 0.0


TAIL = (
    1 - (np.arange(1, 4.0) ** -1.7).sum() / (np.arange(1, 2_000_000.0) ** -1.7).sum()
)  # visitors with more than 3 cases
RARE = TAIL / (1 - TAIL)

NULLS = {
    "equal, 5% differ each way": change(0.05, 0.05, 0.1),
    "equal, 20% differ each way": change(0.2, 0.2, 0.2),
    "equal means, rare gains against common losses": change(0.06, 0.12, 0.0, 0.6, 0.3),
    "equal means, the frequent served differently": clustered(0.2),
}
SHIFTED = {"one lists 12% more": change(0.2, 0.08, 0.2)}
SIZES = (50, 100, 200, 500, 1000, 5000)


def simulate(draw, truth, n, worlds, seed, paired, block=1000):
    """(share of worlds whose interval holds the truth, share with p < .05, share that is marked as resting on few visitors)."""
    rng, held, low_p, few = np.random.default_rng([seed, n]), 0, 0, 0
    for start in range(0, worlds, block):
        values = draw(rng, n, min(block, worlds - start))
        low, high = difference_intervals(values) if paired else mean_intervals(values)
        held += ((low <= truth + 1e-12) & (truth - 1e-12 <= high)).sum()
        low_p += sum(paired_p(column) < 0.05 for column in values.T) if paired else 0
        few += ((values != 0).sum(0) if paired else informative(values)).__lt__(FEW).sum()
    return held / worlds, low_p / worlds, few / worlds


def grid(worlds, sizes=SIZES, seed=0):
    """Rows (kind, n, coverage, size of the test or NaN, share marked)."""
    for kind, (draw, truth) in MEANS.items():
        for n in sizes:
            yield (
                kind,
                n,
                *simulate(draw, truth, n, worlds, seed, False)[:1],
                np.nan,
                simulate(draw, truth, n, 200, 1, False)[2],
            )
    for kind, (draw, truth) in (NULLS | SHIFTED).items():
        for n in sizes:
            held, size, few = simulate(draw, truth, n, worlds, seed, True)
            yield kind, n, held, size if kind in NULLS else np.nan, few


def faults(rows, worlds):
    """Sentences for every share that is off by more than what is promised and four standard errors of the simulation.

    Promised are 95 +- 1.5% and a size of 5 +- 1% where fewer than half of the results are marked. Where more are, nothing is claimed, and
    no more than 8.5% of the intervals of means miss.
    """
    spread = 4 * np.sqrt(0.05 * 0.95 / worlds)
    for kind, n, held, size, few in rows:
        least, most = (0.935, 0.965) if few < 0.5 else (0.915 if np.isnan(size) else 0.0, 1.0)
        if not least - spread <= held <= most + spread:
            yield f"{kind}, n={n}: the interval holds the truth in {held:.1%} of {worlds} worlds"
        if few < 0.5 and not np.isnan(size) and not 0.04 - spread <= size <= 0.06 + spread:
            yield f"{kind}, n={n}: the test errs in {size:.1%} of {worlds} worlds"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--worlds", type=int, default=20_000)
    arguments = parser.parse_args()
    found = []
    for row in grid(arguments.worlds):
        found.append(row)
        print(f"{row[0]:48} n={row[1]:5} held {row[2]:.3f} size {row[3]:.3f} marked {row[4]:.2f}", flush=True)
    wrong = list(faults(found, arguments.worlds))
    print("\n".join(wrong) or "every interval holds what it says")
    sys.exit(bool(wrong))
