"""Downloads, against a server on this machine."""

import hashlib
import io
import os
import re
import socket
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from defectlab.data.sources.fetch import NEU_URL, check_files, fetch, fetch_neu, load_manifest
from defectlab.data.sources.layouts import NEU_CLASSES
from defectlab.errors import InputError

FILES = {f"{name}_{number}.jpg": os.urandom(20_000) for name in NEU_CLASSES for number in (1, 2)}
MANIFEST = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}


def pack(files: dict[str, bytes]) -> bytes:
    """The way a repository's archive looks: one top folder, images in two, other things beside them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("repository-351bee2/README.md", "text")
        for name, data in files.items():
            folder = "Validation_Images" if name.endswith("_2.jpg") else "IMAGES"
            archive.writestr(f"repository-351bee2/{folder}/{name}", data)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `content`, and keeps the Range header of every request; `answers` come first, one a request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = pack(FILES)
        self.ranges: list[str | None] = []
        self.honours_range = True
        self.chunked = False
        self.cuts: list[int] = []  # bytes after which the connection is cut
        self.errors: list[int] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/archive.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        if server.errors:
            self.send_error(server.errors.pop(0))
            return
        start = int(re.sub(r"\D", "", wanted)) if wanted and server.honours_range else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if not server.chunked:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(server: Server, target: Path, attempts: int = 3) -> Path:
    return fetch(server.url, target, MANIFEST, timeout=5, attempts=attempts, pause=0.01)


def assert_whole(target: Path) -> None:
    """The set is there, flat, and nothing lies beside it."""
    assert {path.name: path.read_bytes() for path in target.iterdir()} == FILES
    assert os.listdir(target.parent) == [target.name]


def assert_refused(server: Server, target: Path, *words: str, attempts: int = 3) -> None:
    with pytest.raises(InputError) as caught:
        get(server, target, attempts)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert not target.exists()


def test_a_whole_download(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "data" / "neu"
    assert get(server, target) == target
    assert_whole(target)
    assert get(server, target) == target  # complete already: nothing is asked for
    assert server.ranges == [None]


def test_a_server_that_tells_no_length(server: Server, tmp_path: Path) -> None:
    server.chunked = True
    assert_whole(get(server, tmp_path / "neu"))


def test_a_cut_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000, 50_000]
    assert_whole(get(server, tmp_path / "neu"))
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_call_goes_on_where_the_first_stopped(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000]
    assert_refused(server, tmp_path / "neu", "cut after 100,000 bytes", attempts=1)
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    assert_whole(get(server, tmp_path / "neu"))
    assert server.ranges == [None, "bytes=100000-"]


def test_a_server_that_ignores_range_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.honours_range = False
    server.cuts = [100_000]
    assert_whole(get(server, tmp_path / "neu"))
    assert server.ranges == [None, "bytes=100000-"]


@pytest.mark.parametrize("kept", [100_000, 10_000_000])
def test_bytes_of_another_version_are_given_up(server: Server, tmp_path: Path, kept: int) -> None:
    content = server.content
    server.content = os.urandom(kept + 1)
    server.cuts = [kept]
    assert_refused(server, tmp_path / "neu", "cut", attempts=1)
    server.content = content
    assert_whole(get(server, tmp_path / "neu"))
    assert server.ranges == [None, f"bytes={kept}-", None]


def test_a_changed_byte_is_found_and_nothing_is_kept(server: Server, tmp_path: Path) -> None:
    changed = bytearray(FILES["patches_1.jpg"])
    changed[77] ^= 1
    server.content = pack({**FILES, "patches_1.jpg": bytes(changed)})
    assert_refused(server, tmp_path / "neu", server.url, "1 of 12 files differ: patches_1.jpg", "by hand")
    assert os.listdir(tmp_path) == []
    assert server.ranges == [None]


def test_missing_files_are_named_and_counted(server: Server, tmp_path: Path) -> None:
    names = list(FILES)
    server.content = pack({name: FILES[name] for name in names[4:]})
    assert_refused(
        server,
        tmp_path / "neu",
        "4 of 12 files are missing: crazing_1.jpg, crazing_2.jpg, inclusion_1.jpg and so on",
    )
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_there_twice_needs_one_good_copy(server: Server, tmp_path: Path) -> None:
    buffer = io.BytesIO(server.content)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("repository-351bee2/A_thumbnails/crazing_1.jpg", b"small")
    server.content = buffer.getvalue()
    assert_whole(get(server, tmp_path / "neu"))


@pytest.mark.parametrize("content", [b"<html>please log in</html>", pack(FILES)[:-3000]])
def test_what_is_no_whole_zip_is_refused(server: Server, tmp_path: Path, content: bytes) -> None:
    server.content = content
    assert_refused(server, tmp_path / "neu", "no zip archive")
    assert os.listdir(tmp_path) == []


def test_not_found_says_so_at_once(server: Server, tmp_path: Path) -> None:
    server.errors = [404] * 3
    assert_refused(server, tmp_path / "data" / "neu", server.url, "HTTP 404", "by hand")
    assert server.ranges == [None]
    assert os.listdir(tmp_path) == []


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.errors = [503, 429]
    assert_whole(get(server, tmp_path / "neu"))
    server.errors = [503] * 3
    assert_refused(server, tmp_path / "other", "HTTP 503")


def test_an_unreachable_host_says_what_to_do_instead(server: Server, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{unused.getsockname()[1]}/archive.zip"
        assert_refused(server, tmp_path / "data" / "neu", server.url, "put them in", str(tmp_path / "data" / "neu"))
    assert os.listdir(tmp_path) == []


def test_a_target_with_other_content_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "neu").mkdir()
    (tmp_path / "neu" / "crazing_1.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"1 of 12 files differ.*11 of 12 files are missing"):
        get(server, tmp_path / "neu")
    with pytest.raises(InputError, match="exists"):
        fetch(server.url, tmp_path / "neu", None)
    assert os.listdir(tmp_path / "neu") == ["crazing_1.jpg"]
    assert server.ranges == []


def test_sizes_and_addresses_have_limits(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("defectlab.data.sources.fetch.MAX_BYTES", 100_000)
    with pytest.raises(InputError, match="larger than"):
        fetch(server.url, tmp_path / "neu", MANIFEST)
    with pytest.raises(InputError, match="expected an http"):
        fetch("ftp://127.0.0.1/archive.zip", tmp_path / "neu", MANIFEST)
    assert os.listdir(tmp_path) == []


def test_a_file_address_and_no_manifest(tmp_path: Path) -> None:
    archive = tmp_path / "archive.zip"
    archive.write_bytes(pack(FILES))
    target = fetch(archive.as_uri(), tmp_path / "neu", None)
    assert (target / "repository-351bee2" / "README.md").read_text() == "text"
    assert sorted(os.listdir(tmp_path)) == ["archive.zip", "neu"]


def test_the_shipped_manifest_and_what_neu_is_checked_against(server: Server, tmp_path: Path) -> None:
    manifest = load_manifest()
    names = [f"{name}_{number}.jpg" for name in NEU_CLASSES for number in range(1, 301)]
    assert sorted(manifest) == sorted(names)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in manifest.values())
    assert len(set(manifest.values())) == 1799  # patches_101 and patches_105 are the same image
    assert re.fullmatch(r"https://github\.com/.+/archive/[0-9a-f]{40}\.zip", NEU_URL)
    with pytest.raises(InputError, match=r"12 of 1,800 files differ.*1,788 of 1,800 files are missing"):
        fetch_neu(tmp_path / "neu", server.url)


def test_checking_files_by_name(tmp_path: Path) -> None:
    for name, data in (
        ("crazing_1.jpg", FILES["crazing_1.jpg"]),
        ("crazing_2.jpg", b"other"),
        ("x.jpg", b""),
    ):
        (tmp_path / name).write_bytes(data)
    check = check_files(sorted(tmp_path.iterdir()), MANIFEST)
    assert check.matching == {"crazing_1.jpg": tmp_path / "crazing_1.jpg"}
    assert check.differing == ["crazing_2.jpg"]
    assert len(check.missing) == 10
