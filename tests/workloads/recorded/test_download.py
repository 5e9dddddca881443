"""Where trace files are looked for, and what happens when a download goes well or wrong."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from policies.checks import InputError
from workloads.recorded.places import PublishedFile, lock

CONTENT = b"TIMESTAMP,ContextTokens,GeneratedTokens\n" + b"2023-11-16 18:15:46.6805900,374,44\n" * 10_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serve the content at /good, half of it at /cut, nothing elsewhere."""

    def do_GET(self) -> None:
        """Answer one request."""
        self.server.asked += 1  # type: ignore[attr-defined]
        if self.path not in ("/good", "/cut"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/good" else CONTENT[: len(CONTENT) // 2])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """Run a local server that counts what it is asked."""
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.asked = 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache of its own, no data folder and no proxy."""
    monkeypatch.delenv("BATON_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache/baton"


def published(server: HTTPServer, page: str, sha256: str = SHA256) -> PublishedFile:
    """Return a file whose official place is a page of the local server."""
    return PublishedFile("azure2023", "trace.csv", f"http://127.0.0.1:{server.server_port}/{page}", sha256)


def test_an_absent_file_is_downloaded_once(server: HTTPServer, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        found = published(server, "good").locate(None)
        assert found == cache / "trace.csv"
        assert found.read_bytes() == CONTENT
    assert server.asked == 1  # type: ignore[attr-defined]
    assert [file.name for file in cache.iterdir()] == ["trace.csv"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("page", "sha256", "reason"),
    [
        ("good", "0" * 64, f"the file's SHA-256 is {SHA256}, expected 000"),
        ("absent", SHA256, "the server answered 404"),
        ("cut", SHA256, f"the transfer ended after {len(CONTENT) // 2} of {len(CONTENT)} bytes"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_where_to_get_the_file(
    server: HTTPServer, cache: Path, page: str, sha256: str, reason: str
) -> None:
    file = published(server, page, sha256)
    with pytest.raises(InputError) as refused:
        file.locate(None)
    said = str(refused.value)
    for part in (reason, file.url, "workload.path=FILE", "$BATON_DATA", str(cache / "trace.csv")):
        assert part in said
    assert "\n" not in said
    assert list(cache.iterdir()) == []


def test_without_a_connection_one_line_says_where_to_get_the_file(server: HTTPServer, cache: Path) -> None:
    file = PublishedFile("azure2023", "trace.csv", "http://127.0.0.1:1/good", SHA256)
    with pytest.raises(InputError, match=r"no connection: .*: get it from http://127\.0\.0\.1:1/good"):
        file.locate(None)
    assert list(cache.iterdir()) == []


def test_an_interruption_leaves_nothing(server: HTTPServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def update(self, chunk: bytes) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr("workloads.recorded.download.hashlib.sha256", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        published(server, "good").locate(None)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_an_input_error(server: HTTPServer, cache: Path) -> None:
    cache.parent.write_text("a file where the cache's folder should be")
    with pytest.raises(InputError, match="cannot write to"):
        published(server, "good").locate(None)


class TestLookUp:
    """The path given comes first, then $BATON_DATA, then the cache, then the download."""

    def test_a_given_path_is_taken_and_never_downloaded(self, server: HTTPServer, tmp_path: Path) -> None:
        (tmp_path / "mine.csv").write_text("mine")
        assert published(server, "good").locate(str(tmp_path / "mine.csv")) == tmp_path / "mine.csv"
        with pytest.raises(InputError, match="there is no such file"):
            published(server, "good").locate(str(tmp_path / "missing.csv"))
        assert server.asked == 0  # type: ignore[attr-defined]

    @pytest.mark.parametrize("place", ["azure2023/trace.csv", "trace.csv"])
    def test_the_data_folder_may_be_flat(
        self, server: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
    ) -> None:
        file = tmp_path / "data" / place
        file.parent.mkdir(parents=True)
        file.write_text("theirs")
        monkeypatch.setenv("BATON_DATA", str(tmp_path / "data"))
        assert published(server, "good").locate(None) == file

    @pytest.mark.parametrize("folder", ["", "empty", "missing"])
    def test_a_data_folder_that_lacks_the_file_falls_through_to_the_cache(
        self, server: HTTPServer, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, folder: str
    ) -> None:
        (tmp_path / "empty").mkdir()
        monkeypatch.setenv("BATON_DATA", folder and str(tmp_path / folder))
        cache.mkdir(parents=True)
        (cache / "trace.csv").write_text("cached")
        assert published(server, "good").locate(None) == cache / "trace.csv"
        assert server.asked == 0  # type: ignore[attr-defined]


def test_what_a_killed_download_left_is_cleared_by_the_next_run(server: HTTPServer, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / ".trace.csv.abc.part").write_bytes(b"TIMESTAMP")
    (cache / ".other.csv.abc.part").write_bytes(b"another's")
    (cache / "trace.csv").write_bytes(CONTENT)
    published(server, "good").locate(None)
    assert {file.name for file in cache.iterdir()} == {".other.csv.abc.part", "trace.csv"}


def test_what_another_run_is_downloading_is_left_alone(server: HTTPServer, cache: Path) -> None:
    cache.mkdir(parents=True)
    with open(cache / ".trace.csv.abc.part", "wb") as file:
        assert lock(file)
        published(server, "good").locate(None)
        assert {file.name for file in cache.iterdir()} == {".trace.csv.abc.part", "trace.csv"}
    published(server, "good").locate(None)
    assert {file.name for file in cache.iterdir()} == {"trace.csv"}
