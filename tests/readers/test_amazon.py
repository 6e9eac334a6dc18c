"""Lines of Amazon reviews and of their metadata."""

import pytest
from helpers import T0, item, review, write_json_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab.readers import amazon
from recsys_lab.readers.amazon import Refused, clean_text, parse_price, product_of, rating_of


def test_long_lines_do_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(amazon, "MAX_LINE", 100)
    path = write_json_lines(tmp_path / "r.json", [{"a": 1}, {"long": "x" * 500}, {"b": 2}])
    found = list(amazon.json_lines(path))
    assert [(n, r if isinstance(r, dict) else str(r)) for n, r in found] == [
        (1, {"a": 1}),
        (2, "the line is longer than 100 bytes"),
        (3, {"b": 2}),
    ]
    assert [n for n, _ in amazon.json_lines(path, after=2)] == [3]


def test_both_amazon_layouts():
    old = item(
        "B1",
        price="$1,299.99",
        category=["Office", "Pens &amp; Ink"],
        description=["One.", "<b>Two</b>."],
        brand="Inky",
    )
    assert product_of(old, {}) == {
        "product_id": "B1",
        "title": "Title of B1",
        "description": "One. Two .",
        "brand": "Inky",
        "category": "Office > Pens & Ink",
        "price": 1299.99,
        "in_stock": None,
        "image_url": "",
    }
    new = {
        "parent_asin": "P",
        "title": "",
        "store": "S",
        "price": "from 6.99",
        "categories": [],
        "main_category": "Toys",
    }
    new |= {
        "description": ["A very long story. " * 10],
        "images": [{"large": None, "thumb": "https://x.example/t.jpg"}],
    }
    found = product_of(new, {})
    assert (found["product_id"], found["brand"], found["category"], found["price"]) == ("P", "S", "Toys", 6.99)
    assert (
        found["title"] == ("A very long story. " * 10)[:80].strip() and found["image_url"] == "https://x.example/t.jpg"
    )
    assert rating_of(
        {"user_id": "u", "asin": "a", "parent_asin": "P", "rating": 4, "timestamp": T0 * 1000}, {}
    ) == rating_of(review("u", "P", 4), {})


@settings(max_examples=100, deadline=None)
@given(cents=st.integers(1, 10**8), mark=st.sampled_from(["${}", "{}", "{} €", "from {}", "${} - $99999999"]))
def test_prices_survive_being_written(cents, mark):
    value = cents / 100
    for text in (f"{value:,.2f}", f"{value:.2f}", f"{value:,.2f}".translate(str.maketrans(",.", ".,"))):
        assert parse_price(mark.format(text)) == pytest.approx(value)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda c: st.lists(c) | st.dictionaries(st.text(), c),
        max_leaves=6,
    )
)
def test_no_value_breaks_a_reader(value):
    """Whatever stands where a field is expected: a row or a reason, and text that a database takes."""
    text = clean_text(value)
    assert "\x00" not in text and "\n" not in text and text == text.strip()
    text.encode("utf-8")
    price = parse_price(value)
    assert price is None or 0 < price < 1e9
    for reader, names in (
        (product_of, amazon.PRODUCT_LAYOUTS),
        (lambda r, c: rating_of(r, c), {"asin": 0, "overall": 0}),
    ):
        try:
            reader({"parent_asin": "p", **{n: value for n in names}, "title": value, "rating": value}, {})
        except Refused:
            pass


def test_other_scales_than_five_stars_are_told():
    """Of a ten-point scale, 10 was set aside and 4 counted as liked."""
    ten = {"user_id": "u", "product_id": "p", "rating": "10", "timestamp": ""}
    columns = {"rating": "rating", "product_id": "product_id"}
    with pytest.raises(Refused, match=r"goes beyond 5: is the scale 10 \(--scale 10\)"):
        rating_of(ten, columns)
    assert [rating_of({**ten, "rating": r}, columns, scale=10)["rating"] for r in (10, "8", 4, 1)] == [5, 4, 2, 1]
    for wrong in (0, 11, "4,5", "nan", True):
        with pytest.raises(Refused, match="rating is not a rating above 0 and up to 10"):
            rating_of({**ten, "rating": wrong}, columns, scale=10)
