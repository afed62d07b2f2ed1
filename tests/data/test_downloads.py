"""Downloads as ir_datasets does them, from a server on this machine: told before, taken up where they broke off."""

import hashlib
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.data.beir import Beir
from retrieval_kd.data.downloads import Download, fetch, home, listed

CONTENT = bytes(range(256)) * 400
NAME, KEY = "beir", "nfcorpus"


class Server(BaseHTTPRequestHandler):
    """Gives CONTENT; the first answer breaks off in the middle where ``breaks`` says so."""

    breaks = False
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        type(self).asked.append(self.headers["Range"])
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if type(self).breaks and not start:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def served(irds, monkeypatch):
    """nfcorpus, at the server's address, with CONTENT's size and checksum."""
    import ir_datasets

    class Fresh(Server):
        asked: ClassVar[list[str | None]] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    entry = {
        "url": f"http://127.0.0.1:{server.server_address[1]}/nfcorpus.zip",
        "size_hint": len(CONTENT),
        "expected_md5": hashlib.md5(CONTENT).hexdigest(),
        "cache_path": "nfcorpus/source.zip",
    }
    monkeypatch.setitem(ir_datasets.util.DownloadConfig.contents()[NAME], KEY, entry)
    yield Fresh
    server.shutdown()
    server.server_close()
    listed(NAME, KEY).path.unlink(missing_ok=True)


def test_the_size_is_told_before_and_the_file_is_there_after(served, caplog):
    file = listed(NAME, KEY)
    assert (file.present, file.path) == (False, home() / "beir/nfcorpus/source.zip")
    with caplog.at_level(logging.INFO):
        fetch("nfcorpus", [file, file])
    assert "nfcorpus: 1 file(s) are fetched, 102.4KB, to" in caplog.text
    assert file.path.read_bytes() == CONTENT
    caplog.clear()
    fetch("nfcorpus", [file])
    assert caplog.text == ""
    assert len(served.asked) == 1


def test_a_broken_connection_is_taken_up_where_it_broke(served):
    served.breaks = True
    fetch("nfcorpus", [listed(NAME, KEY)])
    assert listed(NAME, KEY).path.read_bytes() == CONTENT
    assert served.asked[0] is None
    assert served.asked[-1].startswith("bytes=")
    assert served.asked[-1] != "bytes=0-"


def test_what_a_killed_download_left_is_not_taken_for_the_file(served):
    path = listed(NAME, KEY).path
    path.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{path}.tmp").write_bytes(CONTENT[:100])
    fetch("nfcorpus", [listed(NAME, KEY)])
    assert path.read_bytes() == CONTENT
    assert not Path(f"{path}.tmp").exists()


def test_a_wrong_checksum_is_told_and_nothing_is_kept(served, monkeypatch):
    import ir_datasets

    monkeypatch.setitem(ir_datasets.util.DownloadConfig.contents()[NAME][KEY], "expected_md5", "0" * 32)
    file = listed(NAME, KEY)
    with pytest.raises(UserError, match=r"nfcorpus: cannot be fetched \(HashVerificationError: Expected md5"):
        fetch("nfcorpus", [file])
    assert not file.path.exists()


def test_without_a_network_it_is_told_which_files_go_where(irds, monkeypatch):
    import ir_datasets

    entry = ir_datasets.util.DownloadConfig.contents()["beir"]["fiqa"]
    monkeypatch.setitem(entry, "url", "http://127.0.0.1:9/datasets/fiqa.zip")  # nobody listens there
    source = Beir("fiqa")
    file = source.missing()[0]
    with pytest.raises(UserError) as caught:
        source.digest()
    told = str(caught.value)
    assert told.startswith("fiqa: cannot be fetched (ConnectionError: ")
    assert "put these files there, or set IR_DATASETS_HOME" in told
    assert f"{irds}/beir/fiqa/source.zip (17.9MB, md5 17918ed23cd04fb15047f73e6c3bd9d9, http" in told
    assert "\n" not in told
    assert not file.path.exists()


def test_a_disk_without_room_is_told_before_anything_is_fetched(served, monkeypatch):
    import ir_datasets

    monkeypatch.setitem(ir_datasets.util.DownloadConfig.contents()[NAME][KEY], "size_hint", 10**18)
    with pytest.raises(UserError, match=r"nfcorpus: Insufficient disk space: .*its files go to .*IR_DATASETS_HOME"):
        fetch("nfcorpus", [listed(NAME, KEY)])
    assert served.asked == []


def test_downloads_can_be_forbidden(irds):
    with pytest.raises(
        UserError, match=r"fiqa: data.download=false, and these files are not here: .*source.zip \(17.9MB"
    ):
        Beir("fiqa", download=False).digest()


def test_half_a_file_is_told_and_another_of_the_same_checksum_is_not(served, tmp_path):
    file = listed(NAME, KEY)
    file.path.parent.mkdir(parents=True, exist_ok=True)
    file.path.write_bytes(CONTENT[:1000])
    with pytest.raises(
        UserError, match=r"source.zip: 1,000 bytes, 102,400 expected .*half a download.*data.verify=false"
    ):
        Beir("nfcorpus").digest()
    assert len(Beir("nfcorpus", verify=False).digest()) == 32
    Download("u", file.path, 999, hashlib.md5(CONTENT[:1000]).hexdigest()).check()  # the list may be wrong about a size


def test_a_copy_under_its_checksum_is_used_without_a_network(served, monkeypatch):
    import ir_datasets

    entry = ir_datasets.util.DownloadConfig.contents()[NAME][KEY]
    monkeypatch.setitem(entry, "url", "http://127.0.0.1:9/nfcorpus.zip")
    monkeypatch.setitem(entry, "size_hint", 6_000_000)
    copy = home() / "downloads" / entry["expected_md5"]
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(CONTENT)
    fetch("nfcorpus", [listed(NAME, KEY)], allowed=False)
    assert listed(NAME, KEY).path.read_bytes() == CONTENT
    copy.unlink()


def test_a_file_of_no_list_is_fetched_too(served, irds):
    import ir_datasets

    url = ir_datasets.util.DownloadConfig.contents()[NAME][KEY]["url"]
    file = Download(url, irds / "dpr-w100" / "some.qa.csv")
    assert "no checksum is published" in file.told()
    fetch("nq", [file])
    assert file.path.read_bytes() == CONTENT
    file.path.unlink()
