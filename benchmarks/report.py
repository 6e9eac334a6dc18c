"""Writes benchmarks/README.md from results/*.json, so that no figure in it is typed."""

import json
from pathlib import Path

from recsys_lab.runs import write_text

HERE = Path(__file__).parent


def read(name: str) -> dict:
    return json.loads((HERE / "results" / f"{name}.json").read_text())


speed, knn, item, quality, full = (
    read(n) for n in ("evaluation_speed", "item_knn", "next_item", "gowalla", "full_size")
)


def at_full_size(step: str, what: str, goal: str, beside: str = "", against: str = "") -> tuple[str, str, str, str]:
    """A row about one step of full_size.py, with the ratio to another step where there is one."""
    told = f"{full[step]['seconds']} s, {full[step]['peak_gb']} GB at most"
    if beside:
        ratio = full[step]["seconds"] / full[beside]["seconds"]
        told += f"; {ratio:.2f} times the {full[beside]['seconds']} s of {against}"
    return "`full_size.py`", what, told, goal


events, rows_kept = full["read_events"]["rows"], full["read_properties"]["kept"]
pairs = [(n, knn[f"neighbours_{n}"]) for n in (20, 100)]
rows = [
    at_full_size("make_events", f"simulate {full['make_events']['events']:,} events and write them", "60 s, 4 GB"),
    at_full_size(
        "make_shop",
        f"the same with the catalogue's {full['make_shop']['property_rows']:,} rows and the truth, {sum(full['make_shop']['bytes'].values()) / 1e9:.2f} GB of files",
        "4 min",
    ),
    at_full_size(
        "read_events",
        f"read {events:,} events as text, every value checked",
        "15 s, 1.5 GB",
        "pandas_events",
        "pandas.read_csv",
    ),
    at_full_size("read_properties", f"stream all property rows, {rows_kept:,} kept", "3 min, 2 GB"),
    at_full_size("first_load", "load all of it the first time", ""),
    at_full_size("second_load", "load it the second time, from Parquet", "2 s"),
    at_full_size(
        "look_up",
        "the category of 10 million (item, time) pairs, index included",
        "5 s",
        "merge_asof",
        "pandas.merge_asof",
    ),
    (
        "`evaluation_speed.py`",
        f"{speed['metrics']} metrics with {speed['draws']:,}-draw intervals, {speed['users']:,} users x {speed['items']:,} items, beyond the top 20 itself",
        f"{speed['seconds_of_metrics_and_intervals']} s (the top 20 takes {speed['seconds_of_the_top_20']} s)",
        f"at most {speed['goal_seconds']:g} s",
    ),
    *(
        (
            "`item_knn.py`",
            f"item-item cosine on Gowalla, {n} neighbours: fit and top 20 of all users, against {knn['against']}",
            f"{p['ratio']} times its time [{p['ratio_min']}, {p['ratio_max']}] ({p['ours_seconds']} s and {p['theirs_seconds']} s, medians of {p['runs']})",
            f"at most {knn['goal_ratio']} times",
        )
        for n, p in pairs
    ),
    (
        "`next_item.py`",
        f"next item with item-item CF on real sessions, {item['predictions']:,} predictions",
        f"{item['predictions_a_second']:,} a second; {item['predictions_a_second_with_all_metrics']:,} with all metrics",
        f"at least {item['goal_predictions_a_second']:,} a second",
    ),
    *(
        (
            "`gowalla.py`",
            f"item-item CF, given split, all items ranked: {metric}@20, {len(quality['trials'])} settings tried on a part carved from train",
            f"{v['ours']} [{v['low']}, {v['high']}], {v['ratio']} times the published figure",
            f"{v['published']} (BARS)",
        )
        for metric, v in quality["at_20"].items()
    ),
]
machine = quality["machine"]
text = f"""# Benchmarks

`make benchmarks` runs them all and writes this page; each file runs alone too. All but `full_size.py` need the real data (`RECSYS_LAB_DATA`). Measured on
{machine["cores"]} cores ({machine["processor"]}), Python {machine["python"]}; machines are noisy, so where there is another library the figure is
the median ratio of runs in turn. Brackets are the smallest and largest ratio, or a 95% interval over users.

| file | what | measured | goal |
|:--|:--|:--|:--|
"""
text += "\n".join("| " + " | ".join(row) + " |" for row in rows)
text += f"\n\nSettings chosen on validation for Gowalla: `{json.dumps(quality['settings'])}`.\n"
write_text(HERE / "README.md", text)
