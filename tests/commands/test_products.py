"""Commands for products: counts and hits that programs can read."""

import json

import pytest

from recsys_lab.cli import main
from recsys_lab.commands.products import UserError, pairs_of


def test_counts_can_be_read_by_programs(tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/p.db"
    assert main(["products", "import", "shop", "--size", "tiny", "--db", url]) == 0
    capsys.readouterr()
    assert main(["products", "facts", "--db", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_products"] > 300


def test_a_mapping_is_checked():
    assert pairs_of(["product_id=sku", "title=a=b"], "--columns") == {"product_id": "sku", "title": "a=b"}
    with pytest.raises(UserError, match="--columns takes NAME=FIELD, as product_id=sku, not 'sku'"):
        pairs_of(["sku"], "--columns")
