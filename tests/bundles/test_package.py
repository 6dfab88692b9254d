"""The zoo form runs where nothing of ours is installed, keeps the zoo's rules, and is the same bytes every time."""

import ast
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from forked_python import ForkedPython
from miniatures import write_clean, write_recipe_data, write_volumes
from monai.bundle import ConfigParser
from phantoms import ct_volume
from tiny_bundle import NAME, edit_json, make_tiny_bundle
from typer.testing import CliRunner

import medrestore_monai
from medrestore_monai.bundles import find_bundle, list_bundles, load_network
from medrestore_monai.bundles.check import check_bundle
from medrestore_monai.bundles.package import REQUIREMENTS, package_bundle, write_zip
from medrestore_monai.bundles.weights import get_weights
from medrestore_monai.cli import app
from medrestore_monai.restorer import restore

# runs commands one after another as "python -m monai.bundle" would, in one process: importing takes its time
DRIVER = """
import importlib.util, json, runpy, sys, warnings
warnings.simplefilter("ignore")
sys.path.remove("")
assert importlib.util.find_spec("medrestore_monai") is None, "medrestore_monai is not hidden"
sys.path.insert(0, "")
for command in json.loads(sys.argv[1]):
    sys.argv = ["monai.bundle", *command]
    runpy.run_module("monai.bundle", run_name="__main__")
import medrestore_monai
print("source:", medrestore_monai.__file__)
from medrestore_monai.ops.biwkv import cpu as biwkv_cpu
print("kernel:", biwkv_cpu.is_available())
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    root = make_tiny_bundle(tmp_path_factory.mktemp("bundles"))
    (root / "docs" / "README.md").write_text(
        "# Tiny bundle\n\nIn short.\n\n## Model\n\nIts shape.\n\n## Use\n\nThe old way.\n\n## Training\n\nThe recipe.\n"
        "\n## Results\n\n### In dB\n\nMany.\n\n## Limits\n\nSome.\n\n## Further\n\nMore.\n"
    )
    return find_bundle(root)


@pytest.fixture(scope="module")
def packaged(bundle, tmp_path_factory):
    return package_bundle(bundle, tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A Python with the installed packages without ours, by links: no path file and no finder is followed."""
    folder = tmp_path_factory.mktemp("site")
    for place in sys.path:
        if place.endswith(("site-packages", "dist-packages")):
            for entry in Path(place).iterdir():
                if "medrestore" not in entry.name and entry.suffix != ".pth" and not (folder / entry.name).exists():
                    (folder / entry.name).symlink_to(entry)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MEDRESTORE"))}
    python = ForkedPython(["-S"], {**environment, "PYTHONPATH": str(folder)})
    yield python
    python.close()


def run_there(python, folder, *commands, fresh=False):
    """Run commands of MONAI in ``folder`` with a Python that knows nothing of this installation."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    result = (python.run_fresh if fresh else python.run)(DRIVER, words, folder=folder)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "phantom.nii.gz"
    nib.save(nib.Nifti1Image(ct_volume(2, (33, 26)), np.diag([0.7, 0.7, 3, 1])), path)
    return path


@pytest.mark.slow
def test_it_runs_from_its_folder_without_our_package(bundle, packaged, elsewhere, phantom, tmp_path):
    folder, _ = packaged
    schema = os.environ.get("MEDRESTORE_SHARED")
    files = ["--config_file", "configs/inference.json", "--meta_file", "configs/metadata.json"]
    shape = "--_meta_#network_data_format#inputs#image#spatial_shape"
    commands = [
        ["run", "inference", *files[:2], "--dataset_dir", phantom, "--output_dir", tmp_path / "out"],
        ["verify_net_in_out", "network_def", *files],
        ["verify_net_in_out", "network_def", *files, shape, "[41,70]"],
    ]
    if schema:
        (tmp_path / "eval").mkdir()
        shutil.copy(next(Path(schema, "schema").glob("meta_schema_*.json")), tmp_path / "eval" / "schema.json")
        commands.append(["verify_metadata", *files[2:], "--filepath", tmp_path / "eval" / "schema.json"])
    output = run_there(elsewhere, folder, *commands, fresh=True)
    assert f"source: {folder}" in output
    assert "kernel: False" in output  # pure PyTorch
    assert output.count("data shape of network is verified") == 2
    assert output.count("metadata is verified") == bool(schema)

    expected = tmp_path / "expected.nii.gz"
    restore(phantom, expected, bundle, device="cpu")
    got, want = (nib.load(path).get_fdata() for path in (tmp_path / "out" / "phantom.nii.gz", expected))
    np.testing.assert_allclose(got, want, atol=0.01)  # HU; the compiled kernel sums in another order
    assert not np.array_equal(got, nib.load(phantom).get_fdata())


@pytest.mark.slow
def test_a_network_with_neighbors_runs_from_its_folder_too(elsewhere, tmp_path):
    bundle = find_bundle(make_tiny_bundle(tmp_path / "bundles", context=2))
    folder, _ = package_bundle(bundle, tmp_path / "zoo")
    volume = tmp_path / "volume.nii.gz"
    nib.save(nib.Nifti1Image(ct_volume(5, (27, 24)), np.diag([0.7, 0.7, 3, 1])), volume)
    files = ["--config_file", "configs/inference.json", "--meta_file", "configs/metadata.json"]
    run = ["run", "inference", *files[:2], "--dataset_dir", volume]
    shown = run_there(
        elsewhere,
        folder,
        ["verify_net_in_out", "network_def", *files],
        [*run, "--output_dir", tmp_path / "out", "--slab", "2"],
    )
    assert shown.count("data shape of network is verified") == 1
    expected = {}
    for context in (0, 2):
        restore(volume, tmp_path / f"{context}.nii", bundle.root, device="cpu", context=context)
        expected[context] = nib.load(tmp_path / f"{context}.nii").get_fdata()
    got = nib.load(tmp_path / "out" / "volume.nii.gz").get_fdata()
    np.testing.assert_allclose(got, expected[2], atol=0.01)  # HU; the compiled kernel sums in another order
    assert np.abs(got - expected[0]).max() > 0.1


@pytest.mark.slow
def test_it_runs_from_another_folder_under_another_name(packaged, elsewhere, phantom, tmp_path):
    folder = tmp_path / "renamed"
    shutil.copytree(packaged[0], folder)
    config = ["--config_file", folder / "configs" / "inference.json", "--dataset_dir", phantom, "--output_dir"]
    (tmp_path / "work").mkdir()
    output = run_there(
        elsewhere,
        tmp_path / "work",
        ["run", "inference", *config, tmp_path / "a"],
        ["run", "inference", *config, tmp_path / "b", "--bundle_root", folder],
    )
    assert f"source: {folder}" in output
    first, second = (nib.load(tmp_path / name / "phantom.nii.gz").get_fdata() for name in "ab")
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_two_packagings_are_the_same_bytes(bundle, packaged, tmp_path, monkeypatch):
    folder, archive = packaged
    copy = tmp_path / "bundles" / NAME
    shutil.copytree(bundle.root, copy)
    for path in copy.rglob("*"):
        os.utime(path, (1e9, 1e9))
    (copy / "docs" / "README.md").chmod(0o600)
    _, again = package_bundle(find_bundle(copy), tmp_path / "zoo")
    assert again.name == f"{NAME}_v{bundle.metadata['version']}.zip"
    assert again.read_bytes() == archive.read_bytes()
    with zipfile.ZipFile(archive) as zipped:
        names = zipped.namelist()
        assert names == sorted(names)
        assert {name.partition("/")[0] for name in names} == {NAME}
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        files = {name for name in files if "__pycache__" not in name}
        assert {name.partition("/")[2] for name in names} >= files - {"eval"}
        assert {(entry.date_time, entry.external_attr >> 16) for entry in zipped.infolist()} == {
            ((1980, 1, 1, 0, 0, 0), 0o100644)
        }
    assert check_bundle(archive) == []


def test_a_changed_file_changes_the_zip(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("1")
    first, second = io.BytesIO(), io.BytesIO()
    write_zip(tmp_path / "a", first, "a")
    (tmp_path / "a" / "x.txt").write_text("2")
    write_zip(tmp_path / "a", second, "a")
    assert first.getvalue() != second.getvalue()


def test_it_holds_the_source_and_nothing_else(packaged):
    folder, _ = packaged
    source = Path(medrestore_monai.__file__).parent
    for path in [*source.rglob("*.py"), *source.rglob("csrc/*")]:
        assert (folder / "medrestore_monai" / path.relative_to(source)).read_bytes() == path.read_bytes()
    kinds = {path.suffix for path in (folder / "medrestore_monai").rglob("*") if path.is_file()}
    assert kinds <= {".py", ".pyc", ".c", ".h"}
    assert {path.name for path in folder.iterdir()} <= {
        "LICENSE",
        "configs",
        "docs",
        "models",
        "medrestore_monai",
        "eval",
    }


@pytest.mark.slow
def test_the_kernel_can_be_built_in_it(packaged, elsewhere, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(packaged[0], folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-S", "medrestore_monai/ops/biwkv/build.py"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    subprocess.run(command, cwd=folder, env={**environment, "CFLAGS": "-O0"}, check=True)
    assert [finding.file for finding in check_bundle(folder)] == ["medrestore_monai/ops/biwkv/_biwkv.so"]
    assert "kernel: True" in run_there(elsewhere, folder)


@pytest.mark.slow
def test_all_that_the_source_imports_is_required():
    names = {"pytorch-ignite": "ignite", "scikit-image": "skimage", "pillow": "PIL"}
    known = {names.get(name, name) for name in REQUIREMENTS} | {"torch", "monai", "numpy", "medrestore_monai"}
    known |= {"scipy", "jinja2", "markupsafe"}  # of scikit-image, torch and jinja2
    for path in Path(medrestore_monai.__file__).parent.rglob("*.py"):
        # the command itself, and what MONAI Label's own environment runs
        if path.parent.name in ("cli", "label_app"):
            continue
        for node in ast.parse(path.read_text()).body:  # what is imported within functions is optional
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                top = module.partition(".")[0]
                about_it = "triton" in path.stem or path.stem == "cluster"  # the file of an optional package
                assert about_it or top in known or top in sys.stdlib_module_names, f"{path}: {top}"


def test_the_card_has_the_sections_of_the_zoo(packaged):
    lines = (packaged[0] / "docs" / "README.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("## ")] == [
        "## **Model Description**",
        "## **Data**",
        "## **Performance**",
        "## **Additional Usage Steps**",
        "## **System Configuration**",
        "## **Limitations**",
        "## **References**",
    ]
    assert lines[0] == "# Tiny bundle"
    text = "\n".join(lines)
    assert "The old way." not in text
    assert all(part in text for part in ("Its shape.", "The recipe.", "### In dB", "Some.", "More.", "In short."))
    assert "pure PyTorch" in text
    assert "Not a medical device" in text


@pytest.mark.parametrize("each", list_bundles(), ids=lambda each: each.name)
def test_each_bundle_requires_versions_that_the_python_of_the_zoo_can_have(each):
    pins = {}
    for line in (
        (Path(__file__).resolve().parents[2] / "scripts" / "setup" / "constraints.txt").read_text().splitlines()
    ):
        pin, _, marker = line.partition(";")
        if "==" in pin and ">=" not in marker:  # Python 3.10
            name, _, version = pin.partition("==")
            pins[name] = version
    required = {**each.metadata["required_packages_version"], "numpy": each.metadata["numpy_version"]}
    required |= {"torch": each.metadata["pytorch_version"], "monai": each.metadata["monai_version"]}
    assert required == {name: pins[name] for name in required}


@pytest.mark.slow
@pytest.mark.parametrize("each", list_bundles(), ids=lambda each: each.name)
def test_the_card_of_a_package_fits_the_package(each, tmp_path):
    folder, _ = package_bundle(each, tmp_path)
    card = (folder / "docs" / "README.md").read_text()
    channels = each.metadata["network_data_format"]["inputs"]["image"]["num_channels"]
    assert set(re.findall(r'--input_shape "\[2,(\d),', card)) <= {str(channels)}
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", card) if "://" not in link]
    assert [link for link in links if not (folder / "docs" / link).exists()] == []


def write_data(bundle, folder):
    """What the recipe of a bundle takes, as small as it may be, and a folder of one modality to evaluate on."""
    if "RGB" in bundle.modalities:
        folder.mkdir()
        return write_recipe_data(bundle.name, folder), write_clean(folder.parent / "pictures")
    parts = [folder / modality if len(bundle.modalities) > 1 else folder for modality in bundle.modalities]
    for part, modality in zip(parts, bundle.modalities, strict=True):
        write_volumes(part, modality)
    return folder, parts[0]


def config(folder, name):
    parser = ConfigParser()
    parser.read_config(folder / "configs" / f"{name}.json")
    return parser


@pytest.mark.slow
@pytest.mark.parametrize("each", list_bundles(), ids=lambda each: each.name)
def test_each_bundle_evaluates_exports_and_trains_without_our_package(each, elsewhere, tmp_path):
    folder, _ = package_bundle(each, tmp_path / "zoo")
    data, images = write_data(each, tmp_path / "data")
    report, exported, trained = tmp_path / "report", tmp_path / "traced.ts", tmp_path / "trained"
    channels = each.metadata["network_data_format"]["inputs"]["image"]["num_channels"]
    evaluation = ["--config_file", "['configs/inference.json','configs/evaluate.json']"]
    evaluation += ["--dataset_dir", images, "--output_dir", report]
    if images.parent == data:  # one of several modalities
        evaluation += ["--modality", images.name]
    export = ["--ckpt_file", "models/model.pt", "--meta_file", "configs/metadata.json", "--use_trace", "True"]
    export += ["--config_file", "configs/inference.json", "--input_shape", f"[2,{channels},32,40]"]
    # of data too large to keep in memory
    training = ["--config_file", "configs/train.json", "--dataset_dir", data, "--output_dir", trained]
    training += ["--max_epochs", "1", "--epoch_length", "1", "--val_interval", "1", "--num_workers", "0"]
    training += ["--batch_size", "1", "--cache_rate", "0"]
    if "patch_size" in config(folder, "train"):
        training += ["--patch_size", "[28,28]"]
    output = run_there(
        elsewhere,
        folder,
        ["run", "evaluating", *evaluation],
        ["ckpt_export", "network_export", "--filepath", exported, *export],
        ["run", "training", *training],
    )
    assert f"source: {folder}" in output
    assert "kernel: False" in output  # pure PyTorch
    assert any(report.rglob("*.csv"))
    importlib.import_module("medrestore_monai.ops.re_wkv_planes")  # the traced file calls its operator
    image = torch.rand(1, channels, 40, 24)
    network = load_network(config(folder, "inference").get_parsed_content("network_def"), each.weights, each.root)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(exported)(image), network(image), atol=1e-4, rtol=0)
    history = (trained / "history.csv").read_text().splitlines()
    assert len(history) == 2
    assert history[0].startswith("epoch,learning_rate,loss,PSNR")
    state = torch.load(trained / "model.pt", weights_only=True)
    config(folder, "train").get_parsed_content("network_def").load_state_dict(state)


@pytest.mark.slow
def test_weights_elsewhere_are_listed_and_found_again(bundle, tmp_path):
    url = bundle.weights.as_uri()
    with pytest.raises(ValueError, match="an address outside"):  # of one machine only
        package_bundle(bundle, tmp_path, weights_url=url)
    folder, _ = package_bundle(bundle, tmp_path, weights_url="https://example.org/model.pt")
    assert not (folder / "models" / "model.pt").exists()
    path = folder / "large_files.yml"
    path.write_text(path.read_text().replace("https://example.org/model.pt", url))
    (fetched,) = get_weights(find_bundle(folder), allow_file=True)
    assert fetched.read_bytes() == bundle.weights.read_bytes()


def broken(tmp_path, change):
    root = make_tiny_bundle(tmp_path / "bundles")
    change(root)
    return root


def metadata(change):
    return lambda root: edit_json(root / "configs" / "metadata.json", change)


BROKEN = {
    "large": (lambda root: (root / "docs" / "big.png").write_bytes(bytes(26 * 2**20)), "big.png has more than 25 MiB"),
    "license": (lambda root: (root / "LICENSE").unlink(), "lacks LICENSE"),
    "weights": (lambda root: (root / "models" / "model.pt").unlink(), r"model\.pt is missing and not listed"),
    "changelog": (metadata(lambda m: m.update(version="9.0.0")), "has no entry for version 9.0.0"),
    "packages": (metadata(lambda m: m["required_packages_version"].pop("rich")), "lacks rich"),
    "hostile": (
        lambda root: edit_json(root / "configs" / "inference.json", lambda c: c.update(x="$eval('1')")),
        "does not pass its check: configs/inference.json:x: the name eval",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_a_rule_is_refused_and_leaves_nothing(tmp_path, name):
    change, message = BROKEN[name]
    root = broken(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        package_bundle(find_bundle(root), tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists() or not list((tmp_path / "zoo").iterdir())


@pytest.mark.slow
def test_the_command_packages_and_does_not_replace_unasked(bundle, tmp_path):
    def run(*args):
        return CliRunner().invoke(app, ["bundles", "package", str(bundle.root), "-o", str(tmp_path / "zoo"), *args])

    assert run().exit_code == 0
    assert run().exit_code == 2
    assert run("--overwrite").exit_code == 0
    inside = CliRunner().invoke(app, ["bundles", "package", str(bundle.root), "-o", str(bundle.root / "zoo")])
    assert inside.exit_code == 3
    assert "is the bundle itself or within it" in inside.stderr


@pytest.mark.slow
def test_what_is_no_package_is_never_replaced(bundle, tmp_path):
    mine = tmp_path / "zoo" / bundle.name
    for place in ("runs/thesis.txt", "configs/metadata.json"):
        (mine / place).parent.mkdir(parents=True, exist_ok=True)
        (mine / place).write_text("mine")
    with pytest.raises(FileExistsError, match="is no earlier package alone, and stays"):
        package_bundle(bundle, tmp_path / "zoo", overwrite=True)
    package_bundle(bundle, tmp_path / "other")
    (tmp_path / "other" / bundle.name / "runs").mkdir()
    with pytest.raises(FileExistsError, match="and stays"):
        package_bundle(bundle, tmp_path / "other", overwrite=True)
    assert (mine / "runs" / "thesis.txt").read_text() == "mine"
    assert [path.name for path in (tmp_path / "zoo").iterdir()] == [bundle.name]
