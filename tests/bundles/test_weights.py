"""Large files are fetched whole and right or not at all, and a transfer that was cut off goes on."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from monai.bundle import download_large_files
from tiny_bundle import edit_json, make_tiny_bundle
from typer.testing import CliRunner

from medrestore_monai.bundles import find_bundle
from medrestore_monai.bundles.weights import LargeFile, download, get_weights, large_files, verify_files
from medrestore_monai.cli import app

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def bundle(tmp_path):
    return find_bundle(make_tiny_bundle(tmp_path / "bundles"))


def listed(bundle, url, path="models/large.pt", **more):
    lines = {"path": path, "url": url, "hash_val": DIGEST, "hash_type": "sha256", **more}
    text = "".join(f"  {key}: {value}\n" for key, value in lines.items() if value)
    (bundle.root / "large_files.yml").write_text(f"large_files:\n-{text[1:]}")
    return bundle


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.pt"
    path.write_bytes(CONTENT)
    return path.as_uri()


class Server(BaseHTTPRequestHandler):
    """Serves ``CONTENT``; breaks off in the middle ``breaks`` times, and may know no ranges."""

    breaks = 0
    ranges = True
    asked: list = []  # noqa: RUF012

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        if type(self).breaks:
            type(self).breaks -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    Server.breaks, Server.ranges, Server.asked = 0, True, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/large.pt"
        running.shutdown()


def test_a_file_is_fetched_once_and_verified(bundle, source):
    listed(bundle, source)
    assert verify_files(bundle) == [("models/model.pt", ""), ("models/large.pt", "missing")]
    reported = []
    (path,) = get_weights(bundle, report=reported.append, allow_file=True)
    assert path.read_bytes() == CONTENT
    get_weights(bundle, report=reported.append, allow_file=True)
    assert reported == ["models/large.pt: fetched, sha256 right", "models/large.pt: there, sha256 right"]
    assert [state for _, state in verify_files(bundle)] == ["", ""]
    assert not list(bundle.root.rglob("*.part"))


def test_monai_reads_the_same_list(bundle, source):
    listed(bundle, source)
    download_large_files(bundle_path=str(bundle.root))
    assert get_weights(bundle, allow_file=True)[0].read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_a_transfer_that_was_cut_off_goes_on(tmp_path, server, ranges):
    Server.breaks, Server.ranges = 1, ranges
    entry, target = LargeFile("large.pt", server, DIGEST), tmp_path / "large.pt"
    with pytest.raises(RuntimeError, match="5120 of 10240 bytes arrived; the next try resumes it"):
        download(entry, target)
    assert not target.exists()
    download(entry, target)
    assert target.read_bytes() == CONTENT
    assert Server.asked == [None, "bytes=5120-"]


def test_a_transfer_that_was_cut_off_at_its_very_end_is_taken(tmp_path, server):
    (tmp_path / "large.pt.part").write_bytes(CONTENT)
    download(LargeFile("large.pt", server, DIGEST), tmp_path / "large.pt")
    assert (tmp_path / "large.pt").read_bytes() == CONTENT


def test_what_arrived_of_a_transfer_in_chunks_is_kept(tmp_path, server, monkeypatch):
    def in_chunks(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"28\r\n" + CONTENT[:40] + b"\r\n")  # and no end

    with monkeypatch.context() as patch:
        patch.setattr(Server, "protocol_version", "HTTP/1.1")
        patch.setattr(Server, "do_GET", lambda self: (in_chunks(self), setattr(self, "close_connection", True)))
        with pytest.raises(RuntimeError, match="could not be fetched in full"):
            download(LargeFile("a.pt", server, DIGEST), tmp_path / "a.pt")
    assert (tmp_path / "a.pt.part").read_bytes() == CONTENT[:40]
    download(LargeFile("a.pt", server, DIGEST), tmp_path / "a.pt")
    assert Server.asked == ["bytes=40-"]
    assert (tmp_path / "a.pt").read_bytes() == CONTENT


def test_another_content_is_not_kept(bundle, source, tmp_path):
    listed(bundle, source)
    (tmp_path / "source.pt").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(ValueError, match="another sha256 than listed; nothing was kept"):
        get_weights(bundle, allow_file=True)
    assert sorted(path.name for path in (bundle.root / "models").iterdir()) == ["model.pt"]


def test_a_file_that_is_there_is_not_replaced_unasked(bundle, source):
    listed(bundle, source)
    path = bundle.root / "models" / "large.pt"
    path.write_bytes(b"mine")
    assert verify_files(bundle)[1] == ("models/large.pt", "another sha256 than listed")
    with pytest.raises(ValueError, match="`overwrite` replaces it"):
        get_weights(bundle, allow_file=True)
    assert path.read_bytes() == b"mine"
    get_weights(bundle, overwrite=True, allow_file=True)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["file:///nothing/a.pt", "http://127.0.0.1:abc/a.pt", "http://127.0.0.1/a b.pt"])
def test_an_address_that_cannot_be_reached_is_named(tmp_path, url):
    with pytest.raises(RuntimeError, match="could not be fetched in full"):
        download(LargeFile("a.pt", url, DIGEST), tmp_path / "a.pt")


BAD = {
    "no digest": ({"hash_val": ""}, "has no sha256 or sha512"),
    "unknown digest": ({"hash_type": "crc32"}, "has no sha256 or sha512"),
    "weak digest": ({"hash_type": "md5"}, "has no sha256 or sha512"),
    "MONAI's own digest": ({"hash_type": ""}, "has no sha256 or sha512"),
    "outside": ({"path": "../../a.pt"}, "is not inside the bundle"),
    "absolute": ({"path": "/tmp/a.pt"}, "is not inside the bundle"),
    "scheme": ({"url": "ftp://example.org/a.pt"}, "does not begin with https"),
    "plain transfer": ({"url": "http://example.org/a.pt"}, "does not begin with https"),
    "no address": ({"url": ""}, "is no list of large files"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lists_are_refused(bundle, source, name):
    change, message = BAD[name]
    listed(bundle, **{"url": source, **change})
    with pytest.raises(ValueError, match=message):
        large_files(bundle, allow_file=True)


def test_the_digest_of_the_weights_may_be_that_of_the_card(bundle, source):
    listed(bundle, source, path="models/model.pt", hash_val="")
    assert large_files(bundle, allow_file=True)[0].digest == bundle.metadata["weights_sha256"]
    with pytest.raises(ValueError, match="is a file of this machine; set allow_file"):
        large_files(bundle)


@pytest.mark.slow
def test_the_commands_fetch_and_verify(bundle, source):
    def run(*args):
        return CliRunner().invoke(app, ["bundles", "weights", *args, str(bundle.root)])

    assert run("verify").stdout == "models/model.pt: verified\n"
    listed(bundle, source)
    assert run("verify").exit_code == 3
    assert "set allow_file to take it" in run("get").stderr
    result = run("get", "--allow-file")
    assert (result.exit_code, result.stdout) == (0, "models/large.pt: fetched, sha256 right\n")
    assert run("verify").exit_code == 0
    edit_json(bundle.root / "configs" / "metadata.json", lambda metadata: metadata.update(weights_sha256="0" * 64))
    result = run("verify")
    assert result.exit_code == 3
    assert "models/model.pt: another sha256 than listed" in result.stdout


def outside(tmp_path):
    path = tmp_path / "outside.txt"
    path.write_text("mine")
    return path


LINKS = {
    "part": lambda root, path: (root / "models" / "large.pt.part").symlink_to(path),
    "second name of a part": lambda root, path: (root / "models" / "large.pt.part").hardlink_to(path),
    "part that leads nowhere": lambda root, path: (root / "models" / "large.pt.part").symlink_to(path.parent / "new"),
    "target": lambda root, path: (root / "models" / "large.pt").symlink_to(path),
    "folder": lambda root, path: (root / "models").rename(root / "m") and (root / "models").symlink_to(path.parent),
}


@pytest.mark.parametrize("name", LINKS)
def test_no_link_is_followed(bundle, source, tmp_path, name):
    place = tmp_path / "elsewhere"
    place.mkdir()
    LINKS[name](bundle.root, outside(place))
    listed(bundle, source)
    with pytest.raises(ValueError, match=r"is a link|is not a file of its own"):
        get_weights(bundle, overwrite=True, allow_file=True)
    assert {path.name: path.read_text() for path in place.iterdir()} == {"outside.txt": "mine"}


def test_no_more_is_fetched_than_allowed(bundle, source):
    listed(bundle, source)
    with pytest.raises(ValueError, match="more than 1000 bytes; nothing was kept"):
        get_weights(bundle, allow_file=True, largest=1000)
    assert sorted(path.name for path in (bundle.root / "models").iterdir()) == ["model.pt"]
    get_weights(bundle, allow_file=True, largest=len(CONTENT))


@pytest.mark.parametrize("elsewhere", ["http://127.0.0.1:1/a.pt", "file:///etc/passwd", "ftp://127.0.0.1/a.pt"])
def test_a_server_that_leads_elsewhere_is_not_followed(tmp_path, server, monkeypatch, elsewhere):
    def redirect(self):
        self.send_response(302)
        self.send_header("Location", elsewhere)
        self.end_headers()

    monkeypatch.setattr(Server, "do_GET", redirect)
    with pytest.raises((ValueError, RuntimeError), match=r"does not begin with https|not allowed"):
        download(LargeFile("a.pt", server, DIGEST), tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()
