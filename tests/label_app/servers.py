"""A MONAI Label server and an Orthanc, on free ports of this machine, from their first answer to the end of a block."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

BUNDLE = "ct_denoise_restore_rwkv"
ORTHANC_PLUGINS = "/usr/share/orthanc/plugins"
# servers of this machine are asked without a proxy
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"


def http(url: str, body: bytes | None = None, kind: str = "application/json", method: str = "") -> tuple[int, bytes]:
    """Ask, and return the status and the body, whatever they are."""
    method = method or ("GET" if body is None else "POST")
    request = urllib.request.Request(url, body, {"Content-Type": kind, "Accept": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def running(command: list[str], url: str, folder: Path, **environment: str) -> Iterator[None]:
    """A server and its children, from its first answer to the end of the block."""
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            until = time.monotonic() + 600  # only a busy machine needs that
            while True:
                try:
                    urllib.request.urlopen(url, timeout=5)
                    break
                except OSError:
                    said = (folder / "output.log").read_text(errors="replace")[-3000:]
                    assert process.poll() is None, f"{command[0]} ended:\n{said}"
                    assert time.monotonic() < until, f"{command[0]} does not answer:\n{said}"
                    time.sleep(0.2)
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@dataclass(frozen=True)
class LabelServer:
    """A running MONAI Label server.

    Args:
        url: of the server.
        app: its copy of the app.
        studies: its folder of images, or the URL of its store.
    """

    url: str
    app: Path
    studies: Path | str

    def infer(self, image: str, model: str = BUNDLE, output: str = "json", **params: object) -> tuple[int, dict]:
        """Ask for the parameters of a result, or for the reason why there is none."""
        body = "&".join(["params=" + urllib.request.quote(json.dumps(params))]).encode()
        url = f"{self.url}/infer/{model}?image={urllib.request.quote(image)}&output={output}"
        status, answer = http(url, body, "application/x-www-form-urlencoded")
        return status, json.loads(answer)

    def logs(self) -> str:
        """All that the server has written down."""
        files = [self.app.parent / "output.log", *self.app.joinpath("logs").rglob("*")]
        return "".join(file.read_text(errors="replace") for file in files if file.is_file())


@contextmanager
def label_server(folder: Path, studies: Path | str) -> Iterator[LabelServer]:
    """The real ``monailabel start_server``, with the app of the installed package."""
    package = importlib.util.find_spec("medrestore_monai.label_app")
    assert package is not None
    assert package.origin is not None
    shutil.copytree(Path(package.origin).parent, folder / "app", ignore=shutil.ignore_patterns("__pycache__"))
    port = free_port()
    command = [str(Path(sys.executable).with_name("monailabel")), "start_server", "--app", str(folder / "app")]
    command += ["--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "MONAILABEL_PYEXE": sys.executable,
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache"),
        "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
    }
    url = f"http://127.0.0.1:{port}"
    with running(command, f"{url}/info/", folder, **environment):
        yield LabelServer(url, folder / "app", studies)


@contextmanager
def orthanc(folder: Path) -> Iterator[str]:
    """A real Orthanc with nothing in it; gives its URL."""
    port = free_port()
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "HttpBindAddresses": ["127.0.0.1"],
        "Plugins": [str(path) for path in sorted(Path(ORTHANC_PLUGINS).glob("libOrthancDicomWeb.so*"))[:1]],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Host": "127.0.0.1"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    url = f"http://127.0.0.1:{port}"
    with running(["Orthanc", str(folder / "orthanc.json")], f"{url}/system", folder):
        yield url


def medrestore(*arguments: object) -> None:
    """The command of the same installation, which results are compared with."""
    from medrestore_monai.cli import app

    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
