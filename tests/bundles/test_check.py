"""Hostile bundles are found out and nothing of them runs; ours and harmless ones pass."""

import io
import json
import pickle
import re
import shutil
import stat
import zipfile
from pathlib import Path

import pytest
import torch
from serialized import scripted, torch_file
from tiny_bundle import BUNDLES, NAME, make_tiny_bundle
from typer.testing import CliRunner

from medrestore_monai.bundles.check import check_bundle
from medrestore_monai.bundles.check.expressions import as_python, problems
from medrestore_monai.bundles.check.names import reason_against_target
from medrestore_monai.bundles.check.weights import pickle_problems
from medrestore_monai.cli import app

SHIPPED = sorted(path.parents[1] for path in BUNDLES.glob("*/configs/metadata.json"))
TOUCH = "pathlib.Path('CANARY').touch()"  # what every attack tries to run
IMPORTS = {"monai": "monai", "torch": "torch", "np": "numpy", "numpy": "numpy"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def bundle(tiny, tmp_path, monkeypatch):
    root = tmp_path / "guest"
    shutil.copytree(tiny, root)
    monkeypatch.chdir(tmp_path)  # where a canary would land
    return root


def hostile(root, **entries):
    """Put entries into the inference configuration."""
    path = root / "configs" / "inference.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize("root", SHIPPED, ids=lambda root: root.name)
def test_shipped_bundles_pass(root):
    assert check_bundle(root) == []


# keys and values in a configuration, and what must be said about it
CONFIGS = {
    "system": ({"x": {"_target_": "os.system", "command": "touch CANARY"}}, "os.system is not among the known"),
    "builtin eval": ({"x": {"_target_": "eval", "source": TOUCH}}, "eval is not a component of MONAI"),
    "builtins.exec": ({"x": {"_target_": "builtins.exec"}}, "builtins.exec is not among"),
    "through torch": ({"x": {"_target_": "torch.os.system"}}, "torch.os.system is not among"),
    "through MONAI": ({"x": {"_target_": "monai.data.utils.os.system"}}, "os.system is neither a class nor a function"),
    "through MONAI to Python": ({"x": {"_target_": "monai.data.utils.os.path.join"}}, "stands for .*path.join"),
    "through torch.nn": ({"x": {"_target_": "torch.nn.modules.module.functools.partial"}}, "stands for functools"),
    "torch.load": ({"x": {"_target_": "torch.load", "f": "models/evil.pt"}}, "torch.load is not among"),
    "torch.hub": ({"x": {"_target_": "torch.hub.load", "repo_or_dir": "a/b"}}, "torch.hub.load is not among"),
    "download": ({"x": {"_target_": "monai.apps.utils.download_url"}}, "download_url is not among"),
    "download by short name": ({"x": {"_target_": "download_and_extract"}}, "download_and_extract is not among"),
    "MONAI's own runner": ({"x": {"_target_": "monai.bundle.scripts.run"}}, "is not among the known names"),
    "configuration in a configuration": ({"x": {"_target_": "ConfigParser", "config": {}}}, "ConfigParser is not"),
    "remote code": ({"x": {"_target_": "PerceptualLoss", "spatial_dims": 2}}, "downloads and runs code"),
    "cached pickles": ({"x": {"_target_": "monai.data.PersistentDataset"}}, "loads pickles"),
    "NumPy pickles": ({"x": {"_target_": "NumpyReader", "allow_pickle": True}}, "allow_pickle: loads pickles"),
    "pickled state": ({"x": {"_target_": "CheckpointLoader", "weights_only": False}}, "weights_only: loads pickles"),
    "pretrained": ({"x": {"_target_": "monai.networks.nets.resnet18", "pretrained": True}}, "downloads weights"),
    "private part": ({"x": {"_target_": "monai.transforms.Compose.__init__"}}, "private part"),
    "target by reference": ({"n": "os.system", "x": {"_target_": "@n"}}, "known only when it runs"),
    "target by expression": ({"x": {"_target_": "$monai.transforms.Compose"}}, "known only when it runs"),
    "target by macro": ({"n": "os.system", "x": {"_target_": "%n"}}, "known only when it runs"),
    "target as a key with separators": ({"network_def::_target_": "os.system"}, "network_def::_target_: os.system"),
    "target as a key with old separators": ({"+network_def#_target_": "os.system"}, "os.system is not among"),
    "reader by name": (
        {"x": {"_target_": "LoadImaged", "keys": "a", "reader": "os.system"}},
        "reader: os.system is not",
    ),
    "reader in a list": ({"x": {"_target_": "LoadImage", "reader": ["PILReader", "exec"]}}, "exec is not a component"),
    "reader by reference": (
        {"r": "os.system", "x": {"_target_": "LoadImage", "reader": "@r"}},
        "known only when it runs",
    ),
    "writer by name": (
        {"x": {"_target_": "SaveImage", "writer": "subprocess.Popen"}},
        "writer: subprocess.Popen is not",
    ),
    "merger by name": ({"x": {"_target_": "PatchInferer", "merger_cls": "os.system"}}, "merger_cls: os.system is not"),
    "reader in an expression": ({"x": "$monai.transforms.LoadImage('os.system')"}, "looks a name up"),
    "reader called later": ({"x": {"_target_": "LoadImage", "_mode_": "callable"}}, "looks a name up"),
    "debugger": ({"x": {"_target_": "Compose", "_mode_": "debug"}}, "'debug' is none of"),
    "breakpoint": ({"x": {"_target_": "Compose", "_debug_": True}}, "starts a debugger"),
    "__import__": ({"x": "$__import__('pathlib').Path('CANARY').touch()"}, "the name __import__ is not"),
    "eval": ({"x": "$eval('1')"}, "the name eval is not"),
    "exec": ({"x": "$exec('1')"}, "the name exec is not"),
    "open": ({"x": "$open('CANARY', 'w')"}, "the name open is not"),
    "getattr": ({"x": "$getattr(torch, 'load')"}, "the name getattr is not"),
    "dunder": ({"x": "$().__class__.__base__.__subclasses__()"}, "the attribute __subclasses__"),
    "frames": ({"x": "$(i for i in [1]).gi_frame.f_back.f_globals"}, "the attribute gi_frame"),
    "format": ({"x": "$'{0.x}'.format(torch)"}, "the attribute format"),
    "torch.load in an expression": (
        {"x": "$torch.load('models/evil.pt', weights_only=True)"},
        "torch.load is not among",
    ),
    "torch.os": ({"x": "$torch.os.system('touch CANARY')"}, "torch.os.system is not among"),
    "NumPy file": ({"x": "$np.load('evil.npy', allow_pickle=True)"}, "numpy.load is not among"),
    "a module as a value": ({"x": "$torch.nn", "y": "$@x.modules"}, "torch.nn is not among"),
    "method of a reference": ({"p": "a", "x": "$@p.write_text('CANARY')"}, "the attribute write_text"),
    "walrus": ({"x": "$[t := torch, t.load('a')]"}, "NamedExpr is not allowed"),
    "shadowed module": ({"x": "$[torch.load for torch in [1]]"}, "gives the name torch another meaning"),
    "shadowed builtin": ({"x": "$[lambda open: 1, open('CANARY', 'w')]"}, "gives the name open another meaning"),
    "hidden behind a comment": ({"x": "$[1][0 # + __import__('os').system('touch CANARY')\n]"}, "__import__"),
    "out of a string": ({"x": "$'@or'"}, "two underscores"),
    "power": ({"x": "$9 ** 9 ** 9"}, "a power"),
    "import os": ({"imports": ["$import os"]}, "imports::0: imports os, which"),
    "import anywhere": ({"a": {"b": ["$import subprocess as np"]}}, "a::b::0: imports subprocess"),
    "from import": ({"imports": ["$from torch import load"]}, "imports torch.load"),
    "two statements": ({"imports": ["$import torch; import os"]}, "more than one import"),
    "another meaning": ({"imports": ["$import torch as monai"]}, "imports torch as monai, which stands for monai"),
    "import of own code": ({"imports": ["$import scripts.evil"]}, "imports scripts.evil"),
    "macro out of the folder": ({"x": "%../other/configs/evil.json::x"}, "no file of the bundle"),
    "absolute macro": ({"x": "%/tmp/evil.yaml#x"}, "'/tmp/evil.yaml', which is no file"),
    "absolute path": ({"output_dir": "/etc"}, "the path '/etc' is absolute"),
    "home": ({"weights": "~/.ssh/id_rsa"}, "is absolute"),
    "Windows path": ({"weights": "C:\\secret"}, "is absolute"),
    "parent folder": ({"weights": "models/../../secret.pt"}, "leaves the bundle by"),
    "parent in an expression": ({"weights": "$@bundle_root + '/../../secret.pt'"}, "leaves the bundle by"),
    "address": ({"x": {"_target_": "DataLoader", "tracking": "http://198.51.100.7/collect"}}, "an address outside"),
    "deep": ({"x": json.loads("[" * 150 + "]" * 150)}, "nested too deeply"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_hostile_configurations_are_found(bundle, name):
    entries, reason = CONFIGS[name]
    hostile(bundle, **entries)
    found = [str(finding) for finding in check_bundle(bundle)]
    assert any(line.startswith("configs/inference.json") and re.search(reason, line) for line in found), found
    assert not Path("CANARY").exists()


class Touch:
    """An object whose pickle runs something as soon as it is loaded."""

    def __reduce__(self):
        return eval, ("__import__('pathlib').Path('CANARY').touch()",)


LOGGING = (BUNDLES / NAME / "configs" / "logging.conf").read_text()
TARGET = '{"x": {"_target_": "os.system"}}'
FILES = {
    "pickled weights": ("models/model.pt", lambda: torch_file({"a": Touch()}), "a pickle that calls .*eval"),
    "a plain pickle": ("models/model.pt", lambda: pickle.dumps(Touch()), "a pickle of its own"),
    "a pickle by another name": ("docs/picture.png", lambda: pickle.dumps(Touch()), "a pickle of its own"),
    "TorchScript": ("models/model.ts", scripted, "TorchScript"),
    "TorchScript as weights": ("models/model.pt", scripted, "TorchScript"),
    "a NumPy file": ("docs/table.npy", lambda: b"\x93NUMPY\x01\x00", "not a file of torch.save"),
    "Python": ("scripts/__init__.py", lambda: TOUCH, "a program"),
    "Python that MONAI would import": ("monai.py", lambda: TOUCH, "a program"),
    "our package, changed": ("medrestore_monai/__init__.py", lambda: TOUCH, "differs from the file of the installed"),
    "a path file": ("evil.pth", lambda: "import os", "not a file of torch.save"),
    "a shell script": ("docs/README", lambda: "#!/bin/sh\ntouch CANARY", "a program"),
    "an unknown kind": ("models/model.plan", lambda: b"engine", "has no use for"),
    "a second configuration": ("docs/more.JSON", lambda: TARGET, "x::_target_: os.system"),
    "the card": ("configs/metadata.json", lambda: '{"version": "$__import__(\'os\')"}', "version: the name __import__"),
    "a key twice": ("configs/a.json", lambda: '{"x": {"_target_": "os.system"}, "x": 1}', "x: the key stands there"),
    "not JSON": ("configs/a.json", lambda: "{", "cannot be read"),
    "nested JSON": ("configs/a.json", lambda: "[" * 100_000, "nested too deeply|cannot be read"),
    "YAML": ("configs/a.yaml", lambda: "x:\n  _target_: os.system\n", "x::_target_: os.system"),
    "YAML merged": ("configs/a.yml", lambda: "x:\n  <<: {_target_: os.system}\n", "the key <<"),
    "a YAML tag": ("configs/a.yaml", lambda: "x: !!python/object/apply:os.system ['touch CANARY']", "the tag"),
    "a YAML bomb": ("configs/a.yaml", lambda: "a: &a [1, 1]\nb: [*a, *a]\n", "the alias"),
    "a key twice in YAML": ("configs/a.yaml", lambda: "x: 1\nx: 2\n", "the key stands there twice"),
    "logging class": ("configs/logging.conf", lambda: LOGGING.replace("StreamHandler", "os.system"), "a class other"),
    "logging socket": (
        "configs/logging.conf",
        lambda: LOGGING.replace("StreamHandler", "handlers.SocketHandler"),
        "class",
    ),
    "logging arguments": (
        "configs/logging.conf",
        lambda: LOGGING.replace("(sys.stdout,)", "(__import__('pathlib').Path('CANARY').touch(),)"),
        "handler_consoleHandler::args: evaluates more",
    ),
    "logging filled in": ("configs/other.ini", lambda: LOGGING.replace("(sys.stdout,)", "%(x)s"), "filled in"),
    "logging defaults": ("configs/logging.conf", lambda: f"[DEFAULT]\nargs=(1,)\n{LOGGING}", "has defaults"),
    "large file outside": (
        "large_files.yml",
        lambda: "large_files:\n- path: ../../evil.pt\n  url: https://example.org/x\n",
        "leaves the bundle by",
    ),
    "large file of this machine": (
        "large_files.yml",
        lambda: "large_files:\n- path: models/a.pt\n  url: file:///etc/passwd\n",
        "an address outside",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_hostile_files_are_found(bundle, name):
    path, content, reason = FILES[name]
    content = content()
    (bundle / path).parent.mkdir(exist_ok=True)
    (bundle / path).write_bytes(content.encode() if isinstance(content, str) else content)
    found = [str(finding) for finding in check_bundle(bundle)]
    assert any(line.startswith(path) and re.search(reason, line) for line in found), found
    assert not Path("CANARY").exists()


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "/etc"])
def test_links_are_found(bundle, target):
    (bundle / "docs" / "notes.txt").symlink_to(target)
    assert [str(f) for f in check_bundle(bundle)] == ["docs/notes.txt: a link, which may lead out of the bundle"]


def zipped(root, path, extra=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, f"{NAME}/{file.relative_to(root)}")
        for entry, content in extra:
            archive.writestr(entry, content)
    return path


def link_entry():
    entry = zipfile.ZipInfo(f"{NAME}/docs/link.txt")
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return entry


ZIPS = {
    "path upward": [("../evil.txt", "a")],
    "absolute path": [("/etc/evil.txt", "a")],
    "Windows path": [("..\\evil.txt", "a")],
    "link": [(link_entry(), "/etc/passwd")],
    "bomb": [(f"{NAME}/docs/big.txt", bytes(50_000_000))],
    "Python beside": [("scripts/evil.py", TOUCH)],
    "name twice": [(f"{NAME}/docs/twice.txt", "a"), (f"{NAME}/docs/twice.txt", "b")],
}
REASONS = ["leaves the folder", "leaves the folder", "leaves the folder", "a link", "unpacks from", "a program", "once"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("name", "reason"), zip(ZIPS, REASONS, strict=True))
def test_hostile_zips_are_found(bundle, tmp_path, name, reason):
    found = check_bundle(zipped(bundle, tmp_path / "guest.zip", ZIPS[name]))
    assert found
    assert all(reason in finding.reason for finding in found), found


@pytest.mark.slow
def test_a_harmless_zip_passes_and_a_damaged_one_does_not(bundle, tmp_path):
    path = zipped(bundle, tmp_path / "guest.zip")
    assert check_bundle(path) == []
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    assert check_bundle(path)


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no configs/metadata\.json"):
        check_bundle(tmp_path)
    (tmp_path / "text").write_text("a")
    with pytest.raises(ValueError, match="neither a folder nor a zip"):
        check_bundle(tmp_path / "text")


HARMLESS = [
    "$@network_def.to(@device)",
    "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "$monai.handlers.from_engine(['pred', 'label'])",
    "$lambda x: x['loss'].item() if isinstance(x, dict) else x[0]",
    "$[{'image': i, 'n': n} for n, i in enumerate(@datalist) if n % 2 == 0]",
    "$@train#transforms + @validate::transforms[:1]",
    "$np.float32(2) ** 2 + torch.tensor([1, 2.5]).max().item()",
    '$f"{@epochs}-{1:03d}" + "/models"',
    "$sorted(set(list(range(3)) + [int(s) for s in 'a b'.split()]), reverse=True)",
    "$torch.nn.functional.relu",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_expressions_pass(text):
    assert list(problems(text, IMPORTS)) == []


def test_an_expression_is_read_as_monai_hands_it_to_python():
    from monai.bundle import ReferenceResolver

    for text in [*HARMLESS, "$'@or' # @a", "$@ab + @a + @a#b#0", "$[@a#1, '@a::1x']"]:
        references = dict.fromkeys(ReferenceResolver.match_refs_pattern(text), 0)
        assert as_python(text) == ReferenceResolver.update_refs_pattern(text, references)[1:]


@pytest.mark.parametrize("state", [{}, {"a": torch.zeros(2, 3)}, {"a": torch.nn.Parameter(torch.zeros(2).half())}])
def test_what_torch_loads_as_weights_only_passes(state):
    content = torch_file(state)
    torch.load(io.BytesIO(content), weights_only=True)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert list(pickle_problems(archive.read("archive/data.pkl"))) == []


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_read_in_every_protocol(protocol, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert list(pickle_problems(pickle.dumps(Touch(), protocol)))
    assert list(pickle_problems(pickle.dumps([1, "a"], 2) + b"cos\nsystem\n."))
    assert not Path("CANARY").exists()


@pytest.mark.parametrize(
    "target", ["Compose", "monai.networks.nets.restormer.Restormer", "torch.nn.L1Loss", "PSNRMetric"]
)
def test_known_targets_pass(target):
    assert reason_against_target(target) == ""


@pytest.mark.slow
def test_the_command_lists_each_finding_and_exits_with_3(bundle):
    result = CliRunner().invoke(app, ["bundles", "check", str(bundle)])
    assert (result.exit_code, result.stderr) == (0, "")
    hostile(bundle, x={"_target_": "os.system"}, y="$eval('\x1b[2J')")
    result = CliRunner().invoke(app, ["bundles", "check", str(bundle)])
    assert result.exit_code == 3
    assert len(result.stdout.splitlines()) == 2
    assert "configs/inference.json:x::_target_: os.system is not among the known names" in result.stdout
    assert "\x1b" not in result.stdout
    assert "2 finding(s)" in result.stderr
    assert CliRunner().invoke(app, ["bundles", "check", str(bundle / "nothing")]).exit_code == 2
