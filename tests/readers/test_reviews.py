"""Ratings read as a log of events."""

import pytest

from recsys_lab import products
from recsys_lab.files import DataError
from recsys_lab.readers import reviews


def test_ratings_without_times_keep_the_order_of_lines(tmp_path):
    url = f"sqlite:///{tmp_path}/p.db"
    (tmp_path / "r.csv").write_text("user_id,product_id,rating\nb,2,5\na,9,5\nb,1,4\nlow,1,1\n")
    columns = {name: name for name in ("user_id", "product_id", "rating")}
    products.load_products(url, tmp_path / "r.csv", None, columns)
    log = reviews.to_dataset(url, "untimed")
    assert not log.has_times and log.events.item_id.tolist() == ["2", "9", "1"]
    (tmp_path / "low.csv").write_text("user_id,product_id,rating\nlow,1,1\n")
    other = f"sqlite:///{tmp_path}/low.db"
    products.load_products(other, tmp_path / "low.csv", None, columns)
    with pytest.raises(DataError, match="no rating of at least 3"):
        reviews.to_dataset(other, "low")
