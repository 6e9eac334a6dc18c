"""Candidates from several sources."""

from dataclasses import replace

from helpers import FEW_SOURCES, STAGE, random_log, untimed_sessions

from recsys_lab.histories import Histories
from recsys_lab.models.base import model_class
from recsys_lab.ranking import candidates, training


def test_candidates_are_the_union_of_the_sources(shop_split):
    known = shop_split.known("test")
    sources = candidates.fit_sources(known, FEW_SOURCES)
    h = known.histories(known.users[:60]).encode(known.items)
    for exclude in ("none", "seen", "purchased"):
        c = candidates.gather(sources, FEW_SOURCES, h, exclude)
        for row in range(len(h)):
            union = {}
            for at, (name, model) in enumerate(sources.items()):
                codes, _ = candidates.source_lists(model, h.take(slice(row, row + 1)), FEW_SOURCES[name], exclude)
                for place, code in enumerate(codes[0][codes[0] >= 0]):
                    union.setdefault(int(code), [0] * len(sources))[at] = place + 1
            mine = slice(c.indptr[row], c.indptr[row + 1])
            assert c.items[mine].tolist() == sorted(union)
            assert c.ranks[mine].tolist() == [union[i] for i in sorted(union)]
            if exclude == "seen":
                assert not set(union) & set(h.items[h.indptr[row] : h.indptr[row + 1]].tolist())


def test_sources_that_a_log_cannot_feed_are_left_out_by_name():
    log = random_log(5)
    widths, out = candidates.available_sources(candidates.WIDTHS, log)
    assert "taxonomy" not in widths and out == {"taxonomy": "needs categories"}
    first = training.first_stage_of(log, replace(STAGE, widths=tuple(candidates.WIDTHS.items())))
    assert {"price", "category_share", "available"} <= set(first.left_out) and "hour" in first.names
    plain = training.first_stage_of(untimed_sessions(1), STAGE)
    assert {"hour", "since_last", "pair_carts"} <= set(plain.left_out) and "pair_near" in plain.names


def test_personal_sources_say_nothing_to_strangers(shop_split):
    known = shop_split.known("test")
    for name in ("als", "item_knn", "bpr"):
        codes, _ = candidates.source_lists(
            model_class(name)().fit(known), Histories.from_lists([[], [0]]).encode(known.items), 5, "none"
        )
        assert (codes[0] == -1).all() and (codes[1] >= 0).any()
