"""Whatever way a path, a download, a loop or a size takes into a call, the check finds it."""

import ast
import json
import re
import shutil
import sys
from functools import cache
from pathlib import Path

import pytest
from tiny_bundle import make_tiny_bundle

from medrestore_monai.bundles.check import check_bundle
from medrestore_monai.bundles.check.sinks import downloads_by_default, path_parameters

BUILT = "a path that an expression builds"


def call(name, **arguments):
    return {"x": {"_target_": name, **arguments}}


EVASIONS = {
    "path put together": (call("SaveImage", output_dir="$'/' + 'etc'"), BUILT),
    "path put together of three": (call("SaveImage", output_dir="$@bundle_root + '/.' + './x'"), BUILT),
    "path joined": (call("SaveImage", output_dir="$'/'.join(['', 'etc'])"), BUILT),
    "path formatted": (call("MetricsSaver", save_dir="$f'{chr}/etc'"), BUILT),
    "path of letters": (call("MetricsSaver", save_dir="$str('/etc')"), BUILT),
    "path replaced": (call("CheckpointSaver", save_dict={}, save_dir="$'Xetc'.replace('X', '/')"), BUILT),
    "path by condition": (call("TensorBoardStatsHandler", log_dir="$'/etc' if True else 'a'"), BUILT),
    "path of a list": (call("LogfileHandler", output_dir="$['/etc'][0]"), BUILT),
    "absolute path in an expression": (call("LogfileHandler", output_dir="$ '/etc'"), "is absolute"),
    "upward in an expression": (call("LogfileHandler", output_dir="$@bundle_root + '/../x'"), "leaves the bundle"),
    "path by reference": ({"p": "$'/' + 'etc'", **call("SaveImage", output_dir="@p")}, BUILT),
    "path by two references": ({"p": "$'/' + 'etc'", "q": "@p", **call("SaveImage", output_dir="@q")}, BUILT),
    "path after a reference": ({"p": "$'/' + 'e'", **call("SaveImage", output_dir="$@p + '/a'")}, BUILT),
    "path of an unknown reference": (call("SaveImage", output_dir="@nothing"), "known only when it runs"),
    "output_dir itself": ({"output_dir": "$'/' + 'etc'", **call("SaveImage", output_dir="@output_dir")}, BUILT),
    "path that a call makes": (
        {"p": {"_target_": "monai.utils.first", "iterable": ["/e"]}, **call("SaveImage", output_dir="@p")},
        "makes; write the path itself",
    ),
    "path that refers to itself": ({"p": "@q", "q": "@p", **call("SaveImage", output_dir="@p")}, "refers to itself"),
    "name of the file": (call("LogfileHandler", output_dir="@output_dir", filename="$'.' + './x'"), BUILT),
    "name that a function makes": (call("SaveImage", output_name_formatter="$lambda m, s: m"), BUILT),
    "mapping file": (call("WriteFileMappingd", keys="image", mapping_file_path="$'/' + 'etc'"), BUILT),
    "our own writer": (call("medrestore_monai.engines.BestWeights", path="$'/' + 'etc'"), BUILT),
    "weights of elsewhere": (call("medrestore_monai.bundles.load_weights", path="$'/' + 'etc'"), BUILT),
    "bundle of elsewhere": (call("medrestore_monai.bundles.start_from", bundle="$'/' + 'x'"), BUILT),
    "checkpoint of elsewhere": (call("CheckpointLoader", load_dict={}, load_path="$'/' + 'x'"), BUILT),
    "table of elsewhere": (call("CSVDataset", src="$'ht' + 'tp://198.51.100.7/a.csv'"), BUILT),
    "list of elsewhere": (call("monai.data.load_decathlon_datalist", data_list_file_path="$'/' + 'x'"), BUILT),
    "files of elsewhere": ({"x": "$glob.glob('/' + 'etc/*')"}, BUILT),
    "files of elsewhere, by name": ({"x": "$glob.glob(pathname='/etc/*')"}, "is absolute"),
    "writing in an expression": ({"x": "$monai.handlers.MetricsSaver('/' + 'etc')"}, f"save_dir of .*{BUILT}"),
    "arguments put in": ({"x": "$monai.handlers.MetricsSaver(*['/etc'])"}, "known only when it runs"),
    "named arguments put in": ({"x": "$monai.handlers.MetricsSaver(**@args)"}, "known only when it runs"),
    "a writer called elsewhere": ({"x": "$list(map(monai.handlers.MetricsSaver, ['/etc']))"}, "called where it stands"),
    "a writer called later": (call("MetricsSaver", save_dir="a", _mode_="callable"), "called later"),
    "arguments without names": (call("MetricsSaver", _args_=["$'/' + 'etc'"]), "arguments without names"),
    "a method that writes": (call("monai.data.PILWriter.write", filename="x"), "loads, saves or converts"),
    "a function that writes": (call("monai.handlers.write_metrics_reports", save_dir="x"), "loads, saves or"),
    "pretrained by default": (call("EfficientNetBN", model_name="efficientnet-b0"), "downloads weights"),
    "pretrained by default, deeper": (call("monai.networks.nets.MILModel", num_classes=1), "downloads weights"),
    "pretrained by default in an expression": (
        {"x": "$monai.networks.nets.EfficientNetBN('efficientnet-b0')"},
        "downloads weights",
    ),
    "pretrained by position": ({"x": "$monai.networks.nets.resnet18(True)"}, "downloads weights"),
    "pretrained by reference": ({"p": True, **call("monai.networks.nets.resnet18", pretrained="@p")}, "downloads"),
    "pretrained by a function": (call("monai.networks.nets.resnet.get_pretrained_resnet_medicalnet"), "downloads"),
    "a class behind another": (call("monai.losses.perceptual.MedicalNetPerceptualSimilarity"), "downloads and runs"),
    "weights of a metric": (call("ignite.metrics.FID"), "downloads weights"),
    "a module by its name": (
        call("monai.data.nvimgcodec_pydicom_plugin.register_as_decoder_plugin", module_path="evil"),
        "imported by its name",
    ),
    "key twice by a separator": ({"a": {"b": 1}, "a::b": 2}, "a::b: the key stands there twice"),
    "key twice by an old separator": ({"a": {"b": 1}, "a#b": 2}, "a::b: the key stands there twice"),
    "key twice by a plus": ({"a": 1, "+a": 2}, "a: the key stands there twice"),
    "a loop without end": ({"x": "$[a.append(1) for a in [[1]] for b in a]"}, "changes what it goes through"),
    "a long loop": ({"x": "$list(range(10 ** 12))"}, "a power larger"),
    "a longer loop": ({"x": "$sum(range(99999999999))"}, "a number larger"),
    "loops within loops": ({"x": "$[1 for a in range(9999) for b in range(9999)]"}, "go on too long"),
    "many loops": ({"x": "$[[[[1 for d in [1]] for c in [1]] for b in [1]] for a in [1]]"}, "4 loops"),
    "a function that calls itself": ({"x": "$(lambda f: f(f))(lambda f: f(f) + f(f))"}, "known only when it runs"),
    "a large sequence": ({"x": "$[0] * 9999999 * 9999999"}, "repeated too often|product"),
    "a large text": ({"x": "$'a' * @n * @n"}, "repeated too often"),
    "a wide text": ({"x": "$f'{1:999999999}'"}, "a format of any width"),
    "a wide text of old": ({"x": "$'%999999999d' % 1"}, "a format of any width"),
    "a shift": ({"x": "$1 << 63"}, "a power larger"),
    "a large array": ({"x": "$torch.zeros(99999, 99999, 9)"}, "sizes whose product"),
    "a large network": (call("torch.nn.Linear", in_features=999_999, out_features=999_999), "sizes whose product"),
    "a large number": ({"x": 10**15}, "is larger than"),
    "not a number": ({"x": float("inf")}, "is not a number"),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles"))


def findings(tiny, tmp_path, entries):
    """Check a bundle with these entries beside those of its ``inference.json``."""
    root = tmp_path / "guest"
    shutil.copytree(tiny, root)
    path = root / "configs" / "inference.json"
    config = json.loads(path.read_text())
    entries = {**entries, "imports": [*config["imports"], "$import glob"]}
    path.write_text(json.dumps({**config, **entries}))
    return [str(finding) for finding in check_bundle(root)]


@pytest.mark.parametrize("name", EVASIONS)
def test_evasions_are_found(tiny, tmp_path, name):
    entries, reason = EVASIONS[name]
    found = findings(tiny, tmp_path, entries)
    assert any(re.search(reason, line) for line in found), found


HARMLESS = {
    "folders of the bundle": {
        "models": "$@bundle_root + '/models'",
        "a": {"_target_": "CheckpointSaver", "save_dict": {}, "save_dir": "@models"},
        "b": {"_target_": "CheckpointLoader", "load_dict": {}, "load_path": "$@models + '/model.pt'"},
        "c": {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_postfix": "restored"},
        "d": {"_target_": "LogfileHandler", "output_dir": "logs"},
        "e": {"_target_": "SaveImage"},
    },
    "data of the user": {"x": "$sorted(glob.glob(@dataset_dir + '/images/*.nii.gz'))"},
    "no weights from elsewhere": {"x": {"_target_": "monai.networks.nets.resnet18", "pretrained": False}},
    "left out where off is the default": {"x": {"_target_": "monai.networks.nets.resnet18", "spatial_dims": 2}},
    "numbers": {"seed": 4_000_000_000, "epochs": 100_000, "x": "$[i ** 2 for i in range(100) if i % 2]"},
    "formats": {"x": '$f"{@strength:.3f} {1:03d}"', "y": "$'%03d' % 7"},
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_bundles_do_passes(tiny, tmp_path, name):
    assert findings(tiny, tmp_path, HARMLESS[name]) == []


@pytest.mark.slow
def test_every_sink_of_monai_is_known():
    """Independent of our list: what the sources of MONAI's handlers and transforms open, make or load."""
    import monai.handlers
    import monai.transforms

    opening = re.compile(r"\bopen\(|makedirs|mkdir\(|torch\.load\(|SummaryWriter\(log_dir|np\.save")
    seen = set()
    for module in (monai.handlers, monai.transforms):
        for name in (name for name in dir(module) if name[:1].isupper()):
            kind = vars(module)[name]
            if isinstance(kind, type) and kind.__module__.startswith("monai.") and opening.search(_source(kind)):
                assert path_parameters(f"{module.__name__}.{name}"), name
                seen.add(name)
    assert {"SaveImage", "CheckpointLoader"} <= seen


def _source(kind):
    return _sources(sys.modules[kind.__module__].__file__).get(kind.__qualname__, "")


@cache
def _sources(path):
    """The sources of all classes of a file; ``inspect.getsource`` reads the whole file for each."""
    text = Path(path).read_text()
    lines = text.splitlines()
    classes = (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef))
    return {node.name: "\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in classes}


def test_defaults_are_read_from_the_packages_themselves():
    assert downloads_by_default("monai.networks.nets.EfficientNetBN") == ("pretrained",)
    assert downloads_by_default("monai.networks.nets.resnet18") == ()
    assert path_parameters("torch.nn.Linear") == ()
    assert not Path("CANARY").exists()
