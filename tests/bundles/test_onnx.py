"""Exported to ONNX and run by onnxruntime, a network and a bundle give what they give in PyTorch."""

import json

import numpy as np
import pytest
import torch
from forked_python import MONAI_BUNDLE, forked_python
from phantoms import ct_series, ct_volume
from tiny_bundle import NAME, TINY, make_tiny_bundle
from typer.testing import CliRunner

from medrestore_monai.bundles import check_backend, load_network
from medrestore_monai.bundles import onnx as onnx_network
from medrestore_monai.bundles.onnx import OnnxNetwork, cached_onnx, export_onnx
from medrestore_monai.cli import app
from medrestore_monai.dicom import read_series
from medrestore_monai.networks import MedDeblur, RestoreRWKV, RestoreRWKVRouting
from medrestore_monai.restorer import restore

pytestmark = pytest.mark.slow

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def network(bundle):
    return load_network(RestoreRWKV(**TINY), bundle / "models" / "model.pt", str(bundle))


@pytest.fixture(scope="module")
def cache(tmp_path_factory, bundle):
    """The folder of exported files; ``medrestore export`` writes the only one, which takes some seconds."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDRESTORE_CACHE", str(folder))
        load_network(RestoreRWKV(**TINY), bundle / "models" / "model.pt", str(bundle), backend="onnx")
    (path,) = folder.iterdir()  # nothing else is left
    return path


@pytest.fixture(scope="module")
def exported(cache):
    """The exported network; onnxruntime takes most of a second to open it."""
    return OnnxNetwork(cache)


SIZES = [(2, 1, 16, 24), (1, 1, 41, 70), (1, 1, 17, 93), (3, 1, 3, 9), (1, 1, 1, 1), (1, 1, 1, 40), (1, 1, 40, 2)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_onnxruntime_computes_what_the_network_computes(exported, network, size):
    x = torch.rand(size)
    with torch.no_grad():
        expected = network(x)
    difference = (exported(x) - expected).abs().max()
    assert difference <= 5e-6 * (expected - x).abs().max()


def test_the_file_names_its_axes_and_holds_no_paths(cache):
    import onnx

    model = onnx.load(cache)
    onnx.checker.check_model(model, full_check=True)
    assert {item.version for item in model.opset_import if not item.domain} == {20}
    for value, name in ((model.graph.input[0], "image"), (model.graph.output[0], "pred")):
        axes = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert (value.name, axes) == (name, ["batch", 1, "height", "width"])
    assert not any(node.domain for node in model.graph.node)
    assert b"site-packages" not in cache.read_bytes()


def test_an_exported_file_is_used_again(cache, network, bundle, monkeypatch):
    monkeypatch.setenv("MEDRESTORE_CACHE", str(cache.parent))
    digest = json.loads((bundle / "configs" / "metadata.json").read_text())["weights_sha256"]
    stamp = cache.stat().st_mtime_ns
    assert cached_onnx(network, digest) == cache
    assert cache.stat().st_mtime_ns == stamp
    assert digest[:32] in cache.name


def test_a_series_is_restored_to_the_same_hu_and_the_header_names_the_backend(tmp_path, bundle, cache, monkeypatch):
    monkeypatch.setenv("MEDRESTORE_CACHE", str(cache.parent))
    volume = ct_volume(2, (40, 36))
    ct_series(tmp_path / "ct", volume=volume, signed=True, bits_stored=16)
    restore(tmp_path / "ct", tmp_path / "torch", bundle, device="cpu")
    arguments = ["restore", str(tmp_path / "ct"), "-o", str(tmp_path / "onnx"), "--backend", "onnx"]
    result = CliRunner().invoke(app, [*arguments, "--bundle", str(bundle)])
    assert result.exit_code == 0, result.output
    ours, theirs = read_series(tmp_path / "onnx"), read_series(tmp_path / "torch")
    assert np.abs(ours.array - volume).mean() > 5  # the network does something
    np.testing.assert_allclose(ours.array, theirs.array, rtol=0, atol=1)  # whole HU, rounded one way or the other
    assert (ours.array != theirs.array).mean() < 0.01
    for backend in ("onnx", "torch"):
        recorded = f'"backend": "{backend}"'.encode()
        assert all(recorded in path.read_bytes() for path in (tmp_path / backend).iterdir())


def test_export_writes_what_the_cache_holds(tmp_path, bundle, cache, monkeypatch):
    monkeypatch.setattr(onnx_network, "export_onnx", lambda network, path, notes: calls.append(notes))
    calls = []
    output = tmp_path / "model.onnx"
    result = CliRunner().invoke(app, ["export", "--bundle", str(bundle), "-o", str(output)])
    assert result.exit_code == 0, result.output
    assert calls[0]["bundle"] == NAME
    output.write_text("kept")
    result = CliRunner().invoke(app, ["export", "--bundle", str(bundle), "-o", str(output)])
    assert (result.exit_code, output.read_text()) == (2, "kept")
    mine = tmp_path / "mine.pt"
    mine.write_bytes((bundle / "models" / "model.pt").read_bytes())
    before = mine.read_bytes()
    named = tmp_path / "weights.onnx"
    named.write_bytes(before)
    for target, more, message in (
        (named, ["--weights", str(named)], "is the weight file"),
        (mine, ["--weights", str(mine)], "must end with .onnx"),
        (bundle / "models" / "model.pt", [], "must end with .onnx"),
    ):
        arguments = ["export", "--bundle", str(bundle), "-o", str(target), "--overwrite", *more]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert message in result.output
        assert target.read_bytes() == before
    mine.write_bytes(before[:100])
    arguments = ["export", "--bundle", str(bundle), "-o", str(tmp_path / "b.onnx"), "--weights", str(mine)]
    assert CliRunner().invoke(app, arguments).exit_code == 3
    mine.unlink()
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_a_network_without_a_form_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Linear does not offer an exportable form"):
        export_onnx(torch.nn.Linear(1, 1), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(RuntimeError, match=r"onnxruntime cannot load .*a\.onnx"):
        OnnxNetwork(tmp_path / "a.onnx")


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"precision": "bfloat16"}], ids=str)
def test_the_backend_says_what_it_does_not_do(options):
    with pytest.raises(ValueError, match="the backend onnx runs on the device cpu in float32"):
        check_backend("onnx", **options)
    with pytest.raises(ValueError, match="backend must be one of torch, onnx, got 'tvm'"):
        check_backend("tvm", **options)


def test_missing_packages_are_named_and_nothing_is_written(tmp_path, bundle, monkeypatch):
    monkeypatch.setattr(onnx_network, "find_spec", lambda name: None if name == "onnxruntime" else name)
    np.save(tmp_path / "a.npy", ct_volume(1, (16, 16)))
    arguments = ["restore", str(tmp_path / "a.npy"), "-o", str(tmp_path / "b.npy"), "--backend", "onnx"]
    result = CliRunner().invoke(app, [*arguments, "--bundle", str(bundle)])
    assert result.exit_code == 2
    assert 'needs onnxruntime, not installed here: pip install "medrestore-monai[onnx]"' in " ".join(
        result.output.split()
    )
    assert not (tmp_path / "b.npy").exists()


MONAI_EXPORT = [
    "--ckpt_file",
    "models/model.pt",
    "--config_file",
    "configs/inference.json",
    "--net_id",
    "network_export",
]


def test_monai_exports_torchscript_that_takes_other_sizes(tmp_path, bundle, network):
    output = tmp_path / "model.ts"
    options = ["--filepath", str(output), "--use_trace", "True", "--input_shape", "[2,1,41,70]"]
    done = forked_python().run(MONAI_BUNDLE, "ckpt_export", *MONAI_EXPORT, *options, folder=bundle)
    assert done.returncode == 0, done.stderr
    loaded = torch.jit.load(output)
    x = torch.rand(1, 1, 17, 30)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), network(x), rtol=0, atol=1e-5)


def test_networks_of_other_settings_have_files_of_their_own(tmp_path, monkeypatch):
    """MedDeblur has the same weights for any number of scales, and the routing for any number of experts chosen."""
    monkeypatch.setenv("MEDRESTORE_CACHE", str(tmp_path))
    monkeypatch.setattr(onnx_network, "export_onnx", lambda network, path, notes: path.write_bytes(b"exported"))
    shape = {"channels": (16, 16, 16)}
    networks = [MedDeblur(1, 1, **shape, scales=scales) for scales in (2, 3)]
    networks += [RestoreRWKVRouting(**TINY, chosen=chosen) for chosen in (1, 2)]
    networks = [network.eval() for network in networks]
    assert networks[0].state_dict().keys() == networks[1].state_dict().keys()
    assert len({cached_onnx(network, "ab" * 32) for network in networks}) == 4
    again = MedDeblur(1, 1, **shape, scales=2).eval()
    assert cached_onnx(again, "ab" * 32) == cached_onnx(networks[0], "ab" * 32)
    assert len(list(tmp_path.iterdir())) == 4
