"""Downloads from a server that stalls, truncates, lies about length, forgets ranges and serves wrong files; all on loopback."""

import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recsys_lab import cli, downloads, loading
from recsys_lab.downloads import DownloadError, Resuming, Source

CONTENT = hashlib.sha256(b"seed").digest() * 4000  # 128,000 bytes
SHA = hashlib.sha256(CONTENT).hexdigest()
QUICK = Resuming(timeout=0.5, tries=3, wait=0.01)


class Server:
    """A server whose answers a test writes: `answer(handler, number of the request)`."""

    def __init__(self):
        self.requests, self.answer, outer = [], None, self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append((self.path, self.headers.get("Range"), body))
                outer.answer(self, len(outer.requests))

            do_POST = do_GET

            def log_message(self, *words):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.stopping = threading.Event()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def ranges(self):
        return [asked for _, asked, _ in self.requests]


@pytest.fixture
def server():
    made = Server()
    yield made
    made.stopping.set()
    made.server.shutdown()
    made.server.server_close()


def reply(handler, body, status=200, length=None, **headers):
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def rest(handler, body=CONTENT):
    """What a decent server does: the range asked for."""
    start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
    more = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
    reply(handler, body[start:], 206 if start else 200, **more)


def fetch(server, folder, sha=SHA, downloader=QUICK):
    return downloads.fetch(f"{server.address}/log.bin", folder, "log.bin", sha, downloader)


def test_a_file_comes_once(server, tmp_path):
    server.answer = lambda h, n: rest(h)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    fetch(server, tmp_path)
    assert len(server.requests) == 1 and [p.name for p in tmp_path.iterdir()] == ["log.bin"]


def test_a_truncated_file_goes_on_where_it_stopped(server, tmp_path):
    server.answer = lambda h, n: reply(h, CONTENT[:60_000], length=len(CONTENT)) if n == 1 else rest(h)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    first, second = server.ranges
    assert first is None and 50_000 < int(second[6:-1]) <= 60_000


def test_a_stalling_server_is_given_up_and_what_came_is_kept(server, tmp_path):
    def stall(handler, number):
        if number > 3:
            return rest(handler)
        handler.send_response(200 if number == 1 else 206)
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        handler.send_header("Content-Length", str(len(CONTENT) - start))
        handler.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        handler.end_headers()
        handler.wfile.write(CONTENT[start : start + 20_480])
        handler.wfile.flush()
        server.stopping.wait(5)

    server.answer = stall
    with pytest.raises(
        DownloadError, match=r"log.bin broke off 3 times \(.*\), the last time after 6\d,\d+ bytes, .*try again"
    ):
        fetch(server, tmp_path)
    assert fetch(server, tmp_path).read_bytes() == CONTENT  # the next command goes on
    assert server.ranges[-1] == f"bytes={3 * 20_480}-"


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.answer = lambda h, n: reply(h, CONTENT[: 60_000 if n == 1 else None], length=len(CONTENT))
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_range_that_was_not_asked_for_is_not_appended(server, tmp_path):
    """A 206 that starts elsewhere would put the wrong bytes into the middle."""

    def wrong(handler, number):
        if number == 1:
            reply(handler, CONTENT[:60_000], length=len(CONTENT))
        else:
            reply(handler, CONTENT, 206, Content_Range=f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}")

    server.answer = wrong
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_length_too_small_is_caught_by_the_checksum(server, tmp_path):
    server.answer = lambda h, n: reply(h, CONTENT, length=100_000)
    with pytest.raises(DownloadError, match="this is not the file expected"):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_length_too_large_is_an_error(server, tmp_path):
    def lie(handler, number):
        if handler.headers.get("Range"):
            reply(handler, b"", 416)
        else:
            reply(handler, CONTENT, length=len(CONTENT) + 999)

    server.answer = lie
    with pytest.raises(DownloadError, match=r"not the file expected|broke off"):
        fetch(server, tmp_path)
    assert not (tmp_path / "log.bin").exists()


def test_a_wrong_file_is_refused_and_not_kept(server, tmp_path):
    server.answer = lambda h, n: reply(h, b"<html>please log in</html>")
    with pytest.raises(DownloadError, match="this is not the file expected"):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_final(server, tmp_path, status):
    server.answer = lambda h, n: reply(h, b"no", status)
    with pytest.raises(DownloadError, match=f"log.bin: the server says {status}"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.answer = lambda h, n: reply(h, b"", 503) if n < 3 else rest(h)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_nobody_there(tmp_path, server):
    address = server.address
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(DownloadError, match=r"broke off 3 times \(.*refused.*\), the last time before anything came"):
        downloads.fetch(f"{address}/log.bin", tmp_path, "log.bin", SHA, QUICK)


TRAIN, TEST = b"0 1 2\n1 2 3\n", b"0 3\n1 1\n"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty checkout, so that nothing is found elsewhere."""
    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RECSYS_LAB_DATA", raising=False)
    return tmp_path


def split_at(server, **counts):
    files = {f"{p}.txt": (f"{server.address}/{p}.txt", None) for p in ("train", "test")}
    return {"little": Source("a little split", "none", files, counts)}


def serve_split(handler, number):
    reply(handler, TRAIN if "train" in handler.path else TEST)


def test_a_dataset_appears_whole_with_its_origin(server, home):
    server.answer = serve_split
    folder = downloads.get("little", split_at(server, users=2, items=3, events=6), QUICK)
    assert folder == home / "data" / "little" and len(loading.load("little")) == 6
    told = json.loads((folder / "source.json").read_text())
    assert told["files"]["train.txt"]["sha256"] == hashlib.sha256(TRAIN).hexdigest()
    assert not (home / "data" / ".downloads" / "little").exists()
    asked = len(server.requests)
    assert downloads.get("little", split_at(server), QUICK) == folder and len(server.requests) == asked


def test_what_is_not_what_was_published_is_not_kept(server, home):
    server.answer = serve_split
    with pytest.raises(DownloadError, match="little: what came has 6 events instead of 7"):
        downloads.get("little", split_at(server, users=2, events=7), QUICK)
    assert not (home / "data" / "little").exists()


def test_a_dataset_that_breaks_off_goes_on(server, home):
    server.answer = lambda h, n: serve_split(h, n) if "train" in h.path else reply(h, b"", 503)
    with pytest.raises(
        DownloadError, match=r"test.txt broke off[\s\S]*Or put train.txt and test.txt into data/little/"
    ):
        downloads.get("little", split_at(server), QUICK)
    assert not (home / "data" / "little").exists()
    server.answer = serve_split
    downloads.get("little", split_at(server), QUICK)
    assert [path for path, *_ in server.requests].count("/train.txt") == 1


@pytest.fixture
def kaggle(server, tmp_path, monkeypatch):
    """The real kagglehub, talking to the test's server without credentials."""
    kaggle_env = pytest.importorskip("kagglesdk.kaggle_env")
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.TEST, server.address)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return server


def test_without_credentials_the_error_tells_how_to_get_them(kaggle, home, capsys):
    kaggle.answer = lambda h, n: reply(h, b'{"message": "forbidden"}', 403)
    assert cli.main(["data", "fetch", "retailrocket"]) == 2
    told = capsys.readouterr().err
    assert "retailrocket/ecommerce-dataset did not come from Kaggle: 403" in told
    assert "kaggle.json" in told and "KAGGLE_USERNAME" in told and "data/retailrocket/" in told
    assert not (home / "data" / "retailrocket").exists()


def test_kaggle_s_archive_becomes_a_dataset(kaggle, home):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as z:
        z.writestr("events.csv", "timestamp,visitorid,event,itemid,transactionid\n1433193132535,5,view,11,\n")
        z.writestr("category_tree.csv", "categoryid,parentid\n1,\n")

    def answer(handler, number):
        if "Download" in handler.path:
            reply(handler, packed.getvalue(), Content_Type="application/zip")
        else:
            reply(handler, b'{"currentVersionNumber": 2}', Content_Type="application/json")

    kaggle.answer = answer
    sources = {"retailrocket": Source("a log", "none", kaggle="retailrocket/ecommerce-dataset", counts={"users": 1})}
    folder = downloads.get("retailrocket", sources)
    assert sorted(p.name for p in folder.iterdir()) == ["category_tree.csv", "events.csv", "source.json"]
    assert len(loading.load("retailrocket")) == 1


def test_the_command_line(home, capsys):
    assert cli.main(["data", "fetch", "netflix"]) == 2
    assert "these can: gowalla" in capsys.readouterr().err
    assert cli.main(["data", "fetch"]) == 2
    assert "say which dataset to fetch; there are gowalla, yelp2018" in capsys.readouterr().err
    assert cli.main(["data", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(word in listed for word in ("shop", "gowalla", "recsys-lab data fetch", "CC BY-NC-SA 4.0"))
