"""The tables of the book: as markdown, and as they sort and filter in a page."""

import json

import pandas as pd
import pytest
from helpers import ROOT

from recsys_lab import book


def test_markdown_tables_escape_and_align():
    table = book.markdown_table(pd.DataFrame({"a|b": ["x|y"], "n": [1234567]}))
    assert table == "| a\\|b | n |\n|:--|--:|\n| x\\|y | 1,234,567 |"


def test_a_claim_is_counted_only_where_it_is_shown(tmp_path):
    """The overview of all runs: a difference whose corrected p-value is above 5% is none."""
    row = {"protocol": "next_item", "target": "any", "exclude": "seen", "chosen": "als", "baseline": "ease"}
    row |= {"confidence_set": [], "difference": 0.02, "low": 0.01, "high": 0.03, "p_adjusted": 0.001, "n_differing": 99}
    plain = {k: row[k] for k in ("protocol", "target", "exclude", "baseline", "confidence_set")} | {"chosen": "ease"}
    for name, told in (("a", row), ("b", row | {"p_adjusted": 0.3}), ("c", plain)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "decisions.json").write_text(json.dumps([told]))
    assert book.decision_rows(tmp_path).shown.tolist() == [True, False, False]
    text = book.decision_table(tmp_path)
    assert (
        "On 1 of 3 logs" in text
        and "on 1 a simple model was chosen" in text
        and text.count("not shown") == 1
        and text.count("the same model") == 1
    )


@pytest.mark.slow
def test_tables_sort_and_filter_in_the_page(browser, tmp_path):
    rows = [("ease", "0.30 [0.2, 0.4]", "1,200"), ("als", "0.25 [0.2, 0.3]", "90"), ("bpr", "", "1,100")]
    rows += [(f"model_{i}", f"0.0{i}", str(i)) for i in range(1, 8)]
    cells = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    head = "<tr><th>model</th><th>NDCG@10</th><th>users</th></tr>"
    page = f'<article class="bd-article"><table><thead>{head}</thead><tbody>{cells}</tbody></table></article>'
    (tmp_path / "page.html").write_text(f"<html><body>{page}<script>{book.TABLES}</script></body></html>")
    browser.get(f"file://{tmp_path}/page.html")

    def shown():
        rows = browser.find_elements("css selector", "tbody tr")
        return [row.find_element("css selector", "td").text for row in rows if row.is_displayed()]

    buttons = browser.find_elements("css selector", "th button")
    assert [b.text for b in buttons] == ["model", "NDCG@10", "users"] and len(shown()) == 10
    buttons[2].click()
    assert shown()[:4] == ["ease", "bpr", "als", "model_7"]  # by number, the largest first
    buttons[2].click()
    assert shown()[0] == "model_1" and shown()[-1] == "ease"
    assert browser.find_elements("css selector", "th")[2].get_attribute("aria-sort") == "ascending"
    buttons[0].click()
    assert shown() == sorted(shown(), reverse=True)
    browser.find_element("css selector", "input.filter").send_keys("model_ 0.03")
    assert shown() == ["model_3"]


def test_every_chapter_stands_under_a_heading():
    names = sorted(p.stem for p in (ROOT / "nbs").glob("[0-9]*.ipynb"))
    placed = [name for _, chapters in book.chapter_parts(names) for name in chapters]
    assert sorted(placed) == names


def test_a_picture_that_a_cell_holds_stands_in_its_page():
    """Jupyter looks up `attachment:`, Sphinx does not: the book's page had a broken picture."""
    cell = {"cell_type": "markdown", "metadata": {}, "source": "See ![it](attachment:a.png)."}
    page = book.render_page(
        {"cells": [{**cell, "attachments": {"a.png": {"image/png": "QUJD"}}}, cell], "metadata": {}}
    )
    assert (
        page["cells"][0]["source"] == "See ![it](data:image/png;base64,QUJD)." and "attachments" not in page["cells"][0]
    )
    assert page["cells"][1]["source"] == cell["source"]
