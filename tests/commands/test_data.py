"""Commands for data: sizes are the shop's, lists can be read by programs."""

import json
from typing import get_args

from recsys_lab import simulator
from recsys_lab.cli import main
from recsys_lab.commands.data import Size
from recsys_lab.sniffing import layouts


def test_the_sizes_are_those_of_the_simulator():
    assert set(get_args(Size)) == set(simulator.SIZES)


def test_lists_can_be_read_by_programs(capsys):
    assert main(["data", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["shop"]["kind"] == "made here" and rows["gowalla"]["kind"] in ("download", "present")
    assert main(["data", "layouts", "--json"]) == 0
    assert {row["layout"] for row in json.loads(capsys.readouterr().out)} == set(layouts())


def test_a_card_can_be_read_by_programs(capsys):
    assert main(["data", "describe", "shop", "--size", "tiny", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["events"] > 10_000 and isinstance(card["notices"], dict)
