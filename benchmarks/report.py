"""Writes benchmarks/README.md from results/*.json, so that no figure in it is typed."""

import json
from pathlib import Path

from recsys_lab.runs import write_text

HERE = Path(__file__).parent


def read(name: str) -> dict:
    return json.loads((HERE / "results" / f"{name}.json").read_text())


(
    speed,
    knn,
    item,
    collaborative,
    ranking,
    graph,
    products,
    search,
    serving,
    parity,
    full,
    defaults,
    factors,
    samplers,
    carves,
    imported,
    by_session,
    words,
    growth,
    logging,
    updates,
    over_files,
    large,
) = (
    read(n)
    for n in (
        "evaluation_speed",
        "item_knn",
        "next_item",
        "collaborative",
        "ranking",
        "graph",
        "products",
        "search",
        "serving",
        "parity",
        "full_size",
        "defaults",
        "factors",
        "samplers",
        "carves",
        "import_size",
        "sessions",
        "command_line",
        "growth",
        "feedback_log",
        "updates",
        "cluster",
        "large_bundle",
    )
)


def shares_text(shares: list[float]) -> str:
    """The least and the mean of some shares."""
    return f"{min(shares):.3f}, {sum(shares) / len(shares):.3f}"


def best_lengths(model: str) -> str:
    """On each log the length of vectors with the best value, and what share of it vectors of 64 reach."""
    parts = []
    for log, size in factors["users, items, pairs"].items():
        values = {row["factors"]: row["ndcg@20"] for row in factors["rows"] if (row["model"], row["log"]) == (model, log)}
        best = max(values, key=lambda length: values[length])
        parts.append(f"{log} ({size[0]:,} x {size[1]:,}) {best}, {values[64] / values[best]:.3f} with 64")
    return "; ".join(parts)


def grown(step: str) -> tuple[str, str, str, str]:
    """A row about one step of growth.py: seconds at the published log's size and at four times it, memory, and how it grows."""
    rows = {size: growth["steps"][step].get(size, {}) for size in growth["sizes"]}
    if why := rows["one"].get("refused"):
        return "`growth.py`", step, why, ""
    word = "fit" if "fit" in rows["one"] else "seconds"
    parts = []
    for size, name in (("one", "1"), ("four", "4")):
        row = rows[size]
        if "refused" in row:
            parts.append(f"at {name}: {row['refused']}")
            continue
        judged = f" and {row['judge']:.1f} s for judging" if "judge" in row else ""
        parts.append(f"at {name}: {row[word]:.1f} s{judged}, {row['peak_mb'] / 1000:.1f} GB")
    grows = ", ".join(f"{value:.2f} ({where})" for where, value in growth["steps"][step]["exponents"].items())
    return "`growth.py`", step, f"{'; '.join(parts)}; exponent of the time {grows}", ""


def in_files() -> str:
    """What cluster.py measured: seconds on one machine, and over files with one and two worker processes."""
    rows = {row["where"]: row for row in over_files["rows"]}
    places = ("one machine", "local:1", "local:2")
    told = [f"{name}: {rows[name]['seconds']:.1f} s, {rows[name]['peak_mb'] / 1000:.1f} GB" for name in places]
    ratios = f"one worker takes {over_files['overhead']} times one machine's time, two are {over_files['speedup_of_two']} times as fast"
    return f"{'; '.join(told)}; {ratios}"


def at_full_size(step: str, what: str, goal: str, beside: str = "", against: str = "") -> tuple[str, str, str, str]:
    """A row about one step of full_size.py, with the ratio to another step where there is one."""
    told = f"{full[step]['seconds']} s, {full[step]['peak_gb']} GB at most"
    if beside:
        ratio = full[step]["seconds"] / full[beside]["seconds"]
        told += f"; {ratio:.2f} times the {full[beside]['seconds']} s of {against}"
    return "`full_size.py`", what, told, goal


def logged_rows() -> list[tuple[str, str, str, str]]:
    """Rows about the service with a log of what it serves beside one without, measured in turns."""
    plain, logged = logging["without"], logging["with"]

    def pair(name: str) -> str:
        return " beside ".join(
            f"{min(r[name] for r in rows):g} to {max(r[name] for r in rows):g}" for rows in (logged, plain)
        )

    share = sum(row["a_second"] for row in logged) / sum(row["a_second"] for row in plain)
    written, served = (sum(row[name] for row in logged) for name in ("written", "served"))
    what = f"with a log and exploration beside without, {len(plain)} rounds in turns"
    return [
        ("`feedback_log.py`", f"p50 at 50 a second, ms, {what}", pair("p50_ms"), ""),
        ("`feedback_log.py`", f"p99 at 50 a second, ms, {what}", pair("p99_ms"), "25"),
        ("`feedback_log.py`", f"answers a second, {what}", f"{pair('a_second')}; {share:.0%} of those without", ""),
        ("`feedback_log.py`", f"largest unshared memory of a worker, MB, {what}", pair("unshared_mb"), "256"),
        ("`feedback_log.py`", "lists in the log of those served, after SIGTERM", f"{written:,} of {served:,}", "all"),
    ]


def update_rows() -> list[tuple[str, str, str, str]]:
    """Rows about updates of models by the newest days of the full shop."""
    return [
        (
            "`updates.py`",
            f"{row['model']} updated with {row['new_events']:,} events of {row['changed_visitors']:,} visitors ({row['days']} days of the full shop), against a new fit",
            f"{row['ratio']} times its time ({row['update']} s and {row['fit']} s)",
            "",
        )
        for row in updates["rows"]
    ]


def both(values: dict) -> str:
    """Hit rate and MRR with their intervals."""
    ordered = [values[name] for name in ("hit_rate", "mrr")]
    return ", ".join(f"{v['value']:.3f} [{v['low']:.3f}, {v['high']:.3f}]" for v in ordered)


als, batch = collaborative["als"], collaborative["batch"]
events, rows_kept = full["read_events"]["rows"], full["read_properties"]["kept"]
steps = graph["step"]["steps"]
pairs = [(n, knn[f"neighbours_{n}"]) for n in (20, 100)]
month, opened = imported["import_file"], imported["open_and_split"]
rows = [
    (
        "`import_size.py`",
        f"import {month['rows']:,} events in REES46's layout ({imported['make_file']['gb']} GB of CSV) into ordered Parquet",
        f"{month['seconds']} s, {month['peak_gb']} GB at most",
        "5 min, 4 GB",
    ),
    (
        "`import_size.py`",
        "open that log, describe it and split it by time",
        f"{opened['seconds']} s, {opened['peak_gb']} GB at most; pandas alone reads and orders four columns of the CSV in "
        f"{imported['pandas_alone']['seconds']} s and {imported['pandas_alone']['peak_gb']} GB",
        "60 s, 6 GB",
    ),
    (
        "`command_line.py`",
        "`recsys-lab --help`, a whole process; `recsys-lab run --help`",
        f"{words['help']['--help']['bare']['ours_seconds']} s, {words['help']['--help']['import pandas']['ratio']} times a process that imports pandas; "
        f"{words['help']['run --help']['bare']['ours_seconds']} s",
        "0.3 s",
    ),
    *(
        (
            "`command_line.py`",
            f"explaining an item for a known user of the small shop by {name}, one at a time ({found['users']} users)",
            f"{1000 * found['ours_seconds'] / found['users']:.1f} ms, {found['ratio']} times making the list",
            "",
        )
        for name, found in words["explain"].items()
    ),
    *(
        (
            "`sessions.py`",
            f"{model} on {log} learning from sessions (30 minutes) instead of whole histories: NDCG@10, {row['question'][0].replace('_', ' ')}, leaves out {row['question'][1]}",
            f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}] ({row['sessions']:.4f} and {row['whole']:.4f})",
            "",
        )
        for log, models in by_session.items()
        if log != "machine"
        for model, found in models.items()
        for row in found
    ),
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
    *(
        (
            "`next_item.py`",
            f"next item with {name} on real sessions, {m['predictions']:,} predictions; hit rate and MRR at 20 with repeats, and without",
            f"{m['predictions_a_second']:,} a second; {both(m['as_it_happened'])}; {both(m['without_repeats'])}",
            f"at least {m['goal_predictions_a_second']:,} a second"
            + ("; .60 with repeats" if name == "session_walk" else ""),
        )
        for name, m in item.items()
        if name != "machine"
    ),
    (
        "`collaborative.py`",
        f"ALS on Gowalla, fit and top 20 of all users, against bare implicit ({als['shared_items_of_20']:g} of 20 items the same in double precision)",
        f"{als['ratio']} times its time [{als['ratio_min']}, {als['ratio_max']}] ({als['ours_seconds']} s and {als['theirs_seconds']} s, medians of {als['runs']})",
        f"at most {als['goal_ratio']} times",
    ),
    *(
        (
            "`collaborative.py`",
            f"{name} on Gowalla, fit and top 20 of all users",
            f"{collaborative[name]['seconds']} s",
            f"{collaborative[name]['goal_seconds']} s",
        )
        for name in ("user_knn", "rp3beta")
    ),
    *(
        (
            "`collaborative.py`",
            f"one user's recommend at {collaborative['items']:,} items, {name}: above the model's own time",
            f"{collaborative[name]['one_user']['above_ms']} ms (of {collaborative[name]['one_user']['recommend_ms']} ms)",
            f"{collaborative['goal_above_ms']} ms",
        )
        for name in ("als", "user_knn", "rp3beta")
    ),
    (
        "`collaborative.py`",
        f"`recsys-lab recommend` for {batch['users']:,} users, ALS, lists of {batch['k']} from {batch['items']:,} items",
        f"{batch['seconds']} s, {batch['peak_gb']} GB at most, {batch['megabytes']} MB of Parquet",
        "",
    ),
    *(
        (
            "`ranking.py`",
            f"feature rows, {told['features']} features, {told['rows']:,} candidates of the shop, {threads}",
            f"{told['rows_a_second']:,} a second",
            f"{ranking['goal_rows_a_second']:,} a second on 2 cores",
        )
        for threads, told in (("one thread", ranking["features_one_thread"]), ("two", ranking["features_two_threads"]))
    ),
    (
        "`ranking.py`",
        "a block of features rounded to their grid, against the same without",
        f"{ranking['grid']['ratio']} times its time [{ranking['grid']['ratio_min']}, {ranking['grid']['ratio_max']}]",
        "at most 1.3 times",
    ),
    (
        "`ranking.py`",
        "NDCG@10 of next items, small shop, by the same trees with features and scores rounded, and with neither",
        f"{ranking['grid']['with_grid']:.5f} and {ranking['grid']['without']:.5f}",
        f"a difference of at most {ranking['grid']['goal']:g}",
    ),
    *(
        (
            "`ranking.py`",
            f"one visitor's {ranking['one_visitor']['candidates']} candidates: {what}, one thread",
            f"{ranking['one_visitor'][key]} ms",
            f"{ranking['goal_ms']} ms",
        )
        for key, what in (("features_ms", "their features"), ("scoring_ms", "trees and blend"))
    ),
    *(
        (
            "`graph.py`",
            f"a step of LightGCN on Gowalla ({graph['step']['layers']} layers, {graph['step']['factors']} factors, batch {graph['step']['batch']:,}) beside {what}",
            f"{told['times_faster']} times as fast [{1 / told['ratio_max']:.1f}, {1 / told['ratio_min']:.1f}] ({told['ours_seconds'] / steps * 1000:.0f} ms and {told['theirs_seconds'] / steps * 1000:.0f} ms)",
            f"{graph['goal_times_faster']} times" if name == "plain" else "",
        )
        for name, what, told in (
            ("plain", "the usual PyTorch way (COO, autograd)", graph["step"]["plain"]),
            ("pyg", "PyTorch Geometric's model", graph["step"]["pytorch_geometric"]),
        )
    ),
    (
        "`graph.py`",
        f"an epoch of it, {graph['step']['epoch']['steps']} steps; the usual way's is its step so many times",
        f"{graph['step']['epoch']['ours_seconds']} s and {graph['step']['epoch']['plain_seconds']} s",
        "",
    ),
    (
        "`graph.py`",
        "a step without layers (`bpr_mf`) beside one with three",
        f"{graph['step']['bpr_mf']['ratio']} times its time",
        "",
    ),
    *(
        (
            "`graph.py`",
            "graph_filter on Gowalla, 768 singular vectors: fit, and top 20 of all users",
            f"{told['fit_seconds']} s and {told['rank_seconds']} s, {told['peak_gb']} GB at most",
            f"{graph['goal_gowalla_seconds']} s, {graph['goal_gowalla_gb']} GB",
        )
        for told in [graph.get("gowalla")]
        if told
    ),
    *(
        (
            "`graph.py`",
            f"{name} on {told['events']:,} events of the full shop ({told['users']:,} users, {told['items']:,} items): fit{', one epoch' if name == 'lightgcn' else ''}",
            f"{told['fit_seconds']} s, {told['peak_gb']} GB at most",
            f"{graph['goal_peak_gb']} GB" if told["events"] == graph[name][-1]["events"] else "",
        )
        for name in ("lightgcn", "gf_cf", "graph_filter")
        for told in graph.get(name, [])
    ),
    *(
        (
            "`products.py`",
            f"{told['rows']:,} lines of reviews and products into SQLite, {what}",
            f"{told['seconds']} s, {told['rows_a_second']:,} rows a second, {told['peak_mb']} MB at most",
            f"{products['goal_rows_a_second']:,} rows a second, {products['goal_mb']} MB",
        )
        for what, told in (("empty before", products["first"]), ("once more", products["again"]))
    ),
    *(
        (
            "`search.py`",
            f"a query to {search['products']:,} products over HTTP, {how}, 20 a second",
            f"{search[how]['p50_ms']} ms, 95% within {search[how]['p95_ms']} ms, 99% within {search[how]['p99_ms']} ms",
            f"95% within {search['goals']['hybrid_p95_ms']} ms" if how == "hybrid" else "",
        )
        for how in ("lexical", "semantic", "hybrid")
    ),
    (
        "`search.py`",
        "the same with a filter on the price",
        f"95% within {search['filtered']['p95_ms']} ms",
        "",
    ),
    (
        "`search.py`",
        f"its worker: memory of its own, start to ready; limit {search['limit_mb'] or 'none'} MB",
        f"{search['own_mb']} MB; {search['ready_seconds']} s",
        f"{search['goals']['own_mb']} MB; {search['goals']['ready_seconds']} s",
    ),
    (
        "`search.py`",
        "the same products: the ten nearest by the graph that comparing all finds; index on disk; made without encoding in",
        f"{search['vectors']['recall']:.1%}; {search['index_mb']} MB; {search['bundle_seconds_without_encoding']} s",
        "",
    ),
    (
        "`search.py`",
        f"products encoded in 8 bits ({search['encoder']['precision']}), both threads; a query, one thread",
        f"{search['encoded_a_second']} a second; {search['query']['p50_ms']} ms, 95% within {search['query']['p95_ms']} ms",
        f"{search['goal_a_second']} a second; 8 ms",
    ),
    (
        "`serving.py`",
        f"the whole hybrid over HTTP, {serving['items']:,} items, {serving['users']:,} visitors, {serving['candidates']:g} candidates on average, 50 requests a second",
        f"p50 {serving['at_50_a_second']['p50_ms']} ms, p99 {serving['at_50_a_second']['p99_ms']} ms, {serving['at_50_a_second']['errors']} errors",
        "p50 8 ms, p99 25 ms",
    ),
    (
        "`serving.py`",
        f"the same as fast as {serving['workers']} workers go",
        f"{serving['hybrid']['a_second']:,} a second, {serving['hybrid']['errors']} errors",
        "150 a second",
    ),
    (
        "`serving.py`",
        "popular items for strangers",
        f"{serving['strangers']['a_second']:,} a second, {serving['strangers']['errors']} errors",
        "1,000 a second",
    ),
    (
        "`serving.py`",
        f"unshared memory of each worker after {serving['mixed']['requests']:,} requests of all kinds ({serving['mixed']['errors']} errors), bundle of {serving['bundle_mb']} MB",
        f"{', '.join(map(str, serving['unshared_mb']))} MB"
        + (f"; all of it within a limit of {serving['limit_mb']} MB" if serving["limit_holds"] else ""),
        "256 MB; 512 MB",
    ),
    *(
        (
            "`parity.py`",
            f"{parity['visitors']:,} visitors over HTTP, served under the kernel {kernel}, against lists evaluated under {parity['evaluated_under']}",
            f"{told['other_lists']} other lists, scores differ by at most {told['largest_difference']:.1g}; {told['median_ms']} ms each (median)",
            "0, 1e-6",
        )
        for kernel, told in parity["served_under"].items()
    ),
    *(
        (
            "`defaults.py`",
            f"{model}: NDCG@20 (validation) on a log left out, as a share of the best found there, least and mean of {len(defaults['logs'])} "
            "logs: the defaults; the best of them and of four settings that were best on others",
            f"{shares_text(told['left_out']['defaults'])}; {shares_text(told['left_out']['with 4 starts'])}",
            "at least 0.97",
        )
        for model, told in defaults["models"].items()
    ),
    *(
        (
            "`factors.py`",
            f"{model}: the length of vectors, of 32 to 1,024, with the best NDCG@20 (validation) on a log of so many users and items, and the share "
            "of it that vectors of 64 reach; all else as by default",
            best_lengths(model),
            "",
        )
        for model in dict.fromkeys(row["model"] for row in factors["rows"])
    ),
    *(
        (
            "`factors.py`",
            f"{model}: the least and the mean share of the best length's NDCG@20 (validation) that a rule by users and items reaches on a log "
            "left out when it was found; the rule of the lab on all six",
            f"{shares_text([one['share'] for one in rules['left_out'].values()])}; {shares_text(list(rules['rule_of_the_lab'].values()))}",
            "least .97",
        )
        for model, rules in factors["rules"].items()
    ),
    *(
        (
            "`samplers.py`",
            f"{model} on {samplers['log']}: the best NDCG@20 of {', '.join(map(str, samplers['after']))} trials by the values of those before, "
            f"as a share of the best of all searches (validation, {samplers['seeds']} seeds); drawn at random",
            f"{', '.join(f'{share:.3f}' for share in told['by the values'])}; {', '.join(f'{share:.3f}' for share in told['random'])}",
            "",
        )
        for model, told in samplers["models"].items()
    ),
    *(
        (
            "`carves.py`",
            f"{log}: percent of test NDCG@20 that is lost against the best of {told['settings']} settings by choosing on validation, of one model "
            "and of four together",
            "; ".join(f"{how} {', '.join(map(str, lost.values()))}" for how, lost in told["regret"].items()),
            "",
        )
        for log, told in carves["logs"].items()
    ),
    *logged_rows(),
    *update_rows(),
    ("`serving.py`", "from start to ready", f"{serving['ready_seconds']} s", "3 s"),
    (
        "`large_bundle.py`",
        f"from start to ready with a bundle of {large['gigabytes']['large']} GB, within {large['limit_mb']} MB, against one of "
        f"{large['gigabytes']['small']} GB; unshared memory of a worker. Arrays are mapped, and their checksums are compared after the start",
        f"{large['large']['ready_seconds']} s against {large['small']['ready_seconds']} s, ratio {large['ratio_of_starts']}; "
        f"{large['large']['unshared_mb']} MB against {large['small']['unshared_mb']} MB",
        "ratio 1",
    ),
    (
        "`serving.py`",
        f"the {serving['near']['als']['k']} best by the index of vectors that comparing all finds",
        f"{serving['near']['als']['recall']:.1%}",
        "",
    ),
    (
        "`serving.py`",
        "requests drawn from the OpenAPI description without a 500 or an answer of another shape",
        f"{serving['drawn']['cases']:,}, {'all passed' if serving['drawn']['passed'] else 'one failed'}",
        "10,000",
    ),
    (
        "`ranking.py`",
        "chapters 30 to 35 on the small shop, alone",
        f"{ranking['chapters']['seconds']} s, {ranking['chapters']['peak_gb']} GB at most",
        f"{ranking['goal_peak_gb']} GB",
    ),
    (
        "`cluster.py`",
        f"four models fitted and judged over {over_files['files']} files of {over_files['events']:,} events, memory of the largest process",
        in_files(),
        "",
    ),
    *(
        (
            file,
            f"{'fit ' if 'fit' in growth['steps'][step]['one'] else ''}{what}, at 1 and 4 times the published log",
            told,
            goal,
        )
        for step in growth["steps"]
        for file, what, told, goal in [grown(step)]
    ),
]
machine = full["machine"]
text = f"""# Benchmarks

`make benchmarks` runs them all and writes this page; each file runs alone too. All but `full_size.py`, `growth.py` and `products.py` need the real data (`RECSYS_LAB_DATA`). Measured on
{machine["cores"]} cores ({machine["processor"]}), Python {machine["python"]}; machines are noisy, so where there is another library the figure is
the median ratio of runs in turn. Brackets are the smallest and largest ratio, or a 95% interval over users.

| file | what | measured | goal |
|:--|:--|:--|:--|
"""
text += "\n".join("| " + " | ".join(row) + " |" for row in rows)
text += "\n\nQuality against published tables stands in [the ledger](../reports/published/ledger.csv).\n"
write_text(HERE / "README.md", text)
