"""The page: what it draws from answers (in process), and what a person sees in a real browser."""

import io
import os
import subprocess
import sys
import time
from contextlib import contextmanager

import matplotlib.pyplot as plt
import numpy as np
import pytest
import requests
from helpers import ROOT, packed, serving, tiny_encoder
from streamlit.testing.v1 import AppTest

from recsys_lab.serving.lean import free_port

pytest.importorskip("streamlit")
pytestmark = pytest.mark.slow


SCRIPT = str(ROOT / "recsys_lab" / "serving" / "ui.py")


@pytest.fixture(scope="module")
def service(folder):
    with serving(folder, "--quiet") as (url, _):
        yield url


@pytest.fixture
def page(service, monkeypatch):
    monkeypatch.setenv("RECSYS_LAB_API", service)
    return AppTest.from_file(SCRIPT, default_timeout=20).run()


def shown(page):
    return " ".join(m.value for m in page.markdown)


def press(page, label, nth=0):
    return [b for b in page.button if b.label == label][nth].click().run()


def test_a_known_visitor_sees_what_the_service_answers(page, service):
    assert not page.exception
    user = requests.get(f"{service}/").json()["examples"]["user_id"]
    wanted = requests.get(f"{service}/recommend/{user}?n=8").json()["recommendations"]
    assert all(item["title"] in shown(page) for item in wanted)
    assert sum("candidates scored" in c.value for c in page.caption) == 1
    assert sum("last seen" in c.value for c in page.caption) == 1
    recent = requests.get(f"{service}/user/{user}/stats").json()["recent_items"]
    assert recent and all(item["title"] in shown(page) for item in recent[:4])


def test_a_stranger_is_told_so(page):
    page.text_input(key="user").set_value("nobody-knows-me").run()
    assert not page.exception and any("Nobody knows this visitor" in c.value for c in page.caption)


def test_a_history_is_clicked_together(page, service):
    first = requests.get(f"{service}/recommend/nobody?n=8").json()["recommendations"]
    page.text_input(key="user").set_value("nobody").run()
    press(page, "Add", 2)
    assert not page.exception and f"**Clicked:** {first[2]['title']}" in shown(page)
    wanted = requests.post(f"{service}/recommend/explain", json={"history": [first[2]["itemid"]], "k": 8}).json()
    assert all(item["title"] in shown(page) for item in wanted["recommendations"])
    press(page, "Start again")
    assert any("Nothing clicked yet" in c.value for c in page.caption)


def test_similar_items_and_search(page, service):
    press(page, "Similar")
    assert not page.exception and page.subheader[0].value.startswith("Like ")
    page.text_input(key="query").set_value("bowl").run()
    found = requests.post(f"{service}/search", json={"query": "bowl", "top_k": 12}).json()["results"]
    assert found and all(f["title"] in shown(page) for f in found) and "by its words" in shown(page)
    assert any("no vectors" in c.value for c in page.caption)
    page.text_input(key="query").set_value("bowwl").run()
    assert "bowl for bowwl" in shown(page)
    page.text_input(key="query").set_value("xyzzy").run()
    assert any("Nothing was found" in c.value for c in page.caption)


def test_the_search_shows_both_halves(fits, shop, tmp_path, monkeypatch):
    packed(fits, shop, tmp_path / "b", encode=tiny_encoder(tmp_path, ["bowl", "lamp", "red"]))
    with serving(tmp_path / "b", "--quiet") as (url, _):
        monkeypatch.setenv("RECSYS_LAB_API", url)
        page = AppTest.from_file(SCRIPT, default_timeout=20).run()
        page.text_input(key="query").set_value("bowl").run()
        assert not page.exception and "What each half found" in [s.value for s in page.subheader]
        assert "by its words" in shown(page) and "by its meaning" in shown(page)
        for half, mode in (("By words", "lexical"), ("By meaning", "semantic")):
            wanted = requests.post(f"{url}/search", json={"query": "bowl", "top_k": 6, "mode": mode}).json()["results"]
            assert f"**{half}**" in shown(page) and all(r["title"] in shown(page) for r in wanted)
        page.number_input(key="price").set_value(0.01).run()
        assert any("Nothing was found" in c.value for c in page.caption)


def test_two_models_side_by_side(page):
    page.selectbox(key="model-1").set_value("als").run()
    page.selectbox(key="model-2").set_value("popularity").run()
    assert not page.exception and sum("stand on both lists" in c.value for c in page.caption) == 1


def test_the_service_may_be_away(monkeypatch):
    monkeypatch.setenv("RECSYS_LAB_API", f"http://127.0.0.1:{free_port()}")
    page = AppTest.from_file(SCRIPT, default_timeout=20).run()
    assert (
        not page.exception and "having a break" in page.info[0].value and "Try again" in [b.label for b in page.button]
    )


@contextmanager
def shown_at(api):
    port = free_port()
    words = [sys.executable, "-c", "from recsys_lab.cli import main; main()", "ui", "--api", api, "--port", str(port)]
    done = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for _ in range(150):
            assert done.poll() is None, done.stdout.read()
            try:
                if requests.get(f"http://127.0.0.1:{port}/_stcore/health", timeout=2).ok:
                    break
            except requests.ConnectionError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        done.terminate()
        done.communicate(timeout=20)


def waited(browser, css, least=1, seconds=30):
    for _ in range(seconds * 5):
        found = browser.find_elements("css selector", css)
        if len(found) >= least:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{css} did not appear")


def overflow(browser):
    return browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")


def test_a_person_sees_tiles_on_a_desk_and_on_a_phone(service, browser, tmp_path):
    with shown_at(service) as url:
        browser.set_window_size(1300, 1400)
        browser.get(url)
        tiles = waited(browser, ".tile:not(.seen)", 8)
        places = {(t.location["x"], t.location["y"]) for t in tiles[:8]}
        assert len({x for x, _ in places}) == 4 and len(places) == 8  # four across, none on another
        seen = browser.find_elements("css selector", ".tile.seen")
        assert seen and max(t.location["x"] + t.size["width"] for t in seen) < min(
            x for x, _ in places
        )  # beside the list
        buttons = [b for b in browser.find_elements("tag name", "button") if b.text.strip() == "Similar"]
        browser.execute_script("arguments[0].click()", buttons[0])
        waited(browser, ".tile:not(.seen)", 9)
        desk = browser.get_screenshot_as_png()
        browser.set_window_size(500, 1200)
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        )
        browser.get(url)
        tiles = waited(browser, ".tile:not(.seen)", 8)
        time.sleep(1)
        assert len({t.location["x"] for t in tiles[:8]}) == 2 and overflow(browser) <= 0
        phone = browser.get_screenshot_as_png()
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    for picture in (desk, phone):  # something is drawn: tiles have colours of their own
        pixels = plt.imread(io.BytesIO(picture))[..., :3]
        assert len(np.unique(np.round(pixels.reshape(-1, 3), 1), axis=0)) > 20
    if place := os.environ.get("RECSYS_LAB_SHOTS"):
        os.makedirs(place, exist_ok=True)
        for name, picture in (("desk", desk), ("phone", phone)):
            with open(os.path.join(place, f"{name}.png"), "wb") as file:
                file.write(picture)


def test_a_person_is_told_kindly_that_the_service_is_away(browser):
    with shown_at(f"http://127.0.0.1:{free_port()}") as url:
        browser.get(url)
        assert "having a break" in waited(browser, "[data-testid=stAlert]")[0].text
        assert not browser.find_elements("css selector", "[data-testid=stException]")
