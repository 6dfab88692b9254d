"""Volumes in the page: the copies, and the viewer in a real browser, with WebGL and without."""

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from browser import BROWSER, NO_WEBGL, SOFTWARE_WEBGL, open_page
from noise_fields import correlated_noise
from phantoms import body_phantom

import medrestore_monai.audit
from medrestore_monai.audit import Volume, audit
from medrestore_monai.audit.display_volume import is_volume, make_volume_display
from medrestore_monai.audit.interval import Calibration
from medrestore_monai.audit.page import render_page

SPACING = (1.2, 1.2, 2.5)
NONE = np.zeros((0, 0, 0))
# columns run to the feet and rows to the back, slices to the left: sagittal, and a little oblique
SAGITTAL = np.array([[0.0, 0, -2.5, 20], [0.06, -1.2, 0, 30], [-1.2, -0.06, 0, 40], [0, 0, 0, 1]])


def opened(text):
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def test_copies_are_nifti_of_8_bit_in_the_window_on_the_grid_of_the_image():
    values = np.random.default_rng(0).uniform(-300, 300, (40, 30, 4)).astype(np.float32)
    volume = Volume(values, "CT", SPACING, affine=SAGITTAL)
    z = np.linspace(-12, 12, values.size, dtype=np.float32).reshape(values.shape)
    shown = make_volume_display(volume, volume, z, np.abs(values))
    assert set(shown.copies) == {"source", "restored", "change", "interval"}
    source = opened(shown.copies["source"])
    assert source.get_data_dtype() == np.uint8
    assert np.abs(source.get_fdata() - np.clip(values, -160, 240)).max() <= 400 / 255 / 2 + 1e-4
    assert np.abs(opened(shown.copies["change"]).get_fdata() - np.clip(z, -10, 10)).max() <= 20 / 255 / 2 + 1e-4
    interval = opened(shown.copies["interval"]).get_fdata()
    assert np.abs(interval - np.abs(values)).max() <= 300 / 255 / 2 + 1e-4
    for text in shown.copies.values():
        assert np.allclose(opened(text).affine, SAGITTAL, atol=1e-5)
    assert (shown.note, shown.numbers) == ("", [0, 1, 2, 3])


@pytest.mark.slow
def test_smaller_copies_lie_at_the_same_place():
    ramp = np.broadcast_to(np.arange(512.0)[:, None, None] / 2, (512, 512, 4)).astype(np.float32)
    volume = Volume(ramp + np.random.default_rng(0).normal(0, 1, ramp.shape), "CT", SPACING, affine=SAGITTAL)
    shown = make_volume_display(volume, volume, NONE, budget=400_000)
    copy = opened(shown.copies["source"])
    assert "figures come from all data" in shown.note
    step = 512 // copy.shape[0]
    assert step > 1
    here = copy.affine @ [3, 2, 1, 1]
    there = np.linalg.inv(SAGITTAL) @ here
    assert there[:2] == pytest.approx([3 * step + (step - 1) / 2, 2 * step + (step - 1) / 2], abs=1e-4)
    assert there[2] == pytest.approx(shown.numbers[1], abs=1e-4)
    assert copy.get_fdata()[3, 2, 1] == pytest.approx(there[0] / 2, abs=2.5)


@pytest.mark.parametrize(
    ("modality", "slices", "length", "expected"),
    [
        ("CT", 2, "mm", True),
        ("MR", 2, "mm", True),
        ("CT", 1, "mm", False),
        ("GRAY", 3, "mm", False),
        ("RGB", 3, "px", False),
        ("PT", 9, "px", False),
    ],
)
def test_pictures_and_single_slices_are_no_volumes(modality, slices, length, expected):
    assert is_volume(Volume(np.zeros((8, 8, slices)), modality, length=length)) == expected


@pytest.mark.slow
def test_the_copies_of_40_slices_of_512_pixels_stay_under_15_mb():
    rng = np.random.default_rng(0)  # white noise over the whole window is the worst case
    volume = Volume(rng.uniform(-160, 240, (512, 512, 40)).astype(np.float32), "CT", SPACING)
    z = rng.normal(0, 5, volume.array.shape).astype(np.float32)
    shown = make_volume_display(volume, volume, z, np.abs(z))
    assert sum(map(len, shown.copies.values())) < 13.3e6
    assert "keep this file small" in shown.note


def test_the_viewer_is_the_file_that_is_recorded():
    folder = Path(medrestore_monai.audit.__file__).parent / "niivue"
    content = (folder / "niivue.umd.js").read_bytes()
    record = (folder / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(content).hexdigest() in record
    assert f"{len(content):,} bytes" in record
    assert b'"0.69.0"' in content
    assert "BSD 2-Clause" in (folder / "LICENSES.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def done():
    clean = np.repeat(body_phantom((150, 141))[..., None], 6, axis=2)
    clean[30:110] += 20 * np.arange(6)  # no two slices are alike
    noise, _, _ = correlated_noise(clean.shape, SPACING[0], 0.4, 15.0, seed=1)
    source, restored = clean + noise * (clean > -900), clean + 0.4 * noise * (clean > -900)
    restored[60:68, 50:58, 1] += 150
    pair = (Volume(source, "CT", SPACING, affine=SAGITTAL), Volume(restored, "CT", SPACING, affine=SAGITTAL))
    found = audit(*pair, bundle="ct_denoise_restore_rwkv")
    calibration = Calibration(0.9, 10, "label", "images", {}, np.ones(1), "", {})
    half = np.abs(noise).astype(np.float32)
    return replace(found, interval=replace(found.interval, calibration=calibration, half_width=half))


def described(audit, place):
    """Return the values that the page should show at a voxel, as numbers."""
    at = [one.array[place] for one in (audit.source, audit.restored)]
    low, high = np.clip(at, -160, 240)
    return {
        "source": low,
        "restored": high,
        "difference": high - low,
        "change": np.clip(audit.faithfulness.z[place], -10, 10),
    }


def shown(dom):
    texts = {name: re.search(rf'id="{name}-value">([^<]*)<', dom)[1] for name in (*VIEWS, "interval")}
    return {name: float(re.sub(r"^(\D*?)(-?[\d.]+)$", r"\2", text)) for name, text in texts.items()}


VIEWS = ("source", "restored", "difference", "change")
LEVELS = """
const gray = {};
for (const [name, viewer] of Object.entries(view.viewers)) {
  viewer.drawScene();
  const { gl } = viewer, all = new Uint8Array(4 * gl.drawingBufferWidth * gl.drawingBufferHeight);
  gl.readPixels(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight, gl.RGBA, gl.UNSIGNED_BYTE, all);
  gray[name] = new Set(all.filter((_, i) => i % 4 === 0)).size;
}
root.dataset.levels = Object.values(gray).join(" ");
"""
NO_BROWSER = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")


@pytest.mark.slow
@NO_BROWSER
def test_the_viewer_draws_all_five_views_without_an_error_or_a_request(done, tmp_path):
    found, dom = open_page(render_page(done), tmp_path, SOFTWARE_WEBGL, LEVELS)
    assert found["viewer"] == "niivue"
    assert (found["drawn"], found["errors"], found["violations"], found["resources"]) == ("5", "0", "0", "0")
    levels = [int(one) for one in found["levels"].split()]
    assert len(levels) == 5
    assert min(levels) > 20
    assert re.search(r'id="number">2<', dom)  # opens at the strongest flag
    flag = done.faithfulness.flags[0]
    expected = described(done, (flag.x, flag.y, flag.slice))
    for name in VIEWS:
        assert shown(dom)[name] == pytest.approx(expected[name], abs=8), name


@pytest.mark.slow
@NO_BROWSER
def test_the_views_go_to_one_place_together(done, tmp_path):
    """A place that is set in one view, in voxels of NiiVue, is that of all, and of the values."""
    go = """
const leader = view.viewers.difference;
const mm = data.toMm.map((row) => row[0] * 93 + row[1] * 41 + row[2] * 4 + row[3]);
leader.scene.crosshairPos = leader.mm2frac(mm, 0, true);
leader.createOnLocationChange();
const voxel = (viewer) => {
  const mm = viewer.frac2mm(viewer.scene.crosshairPos, 0, true);
  return data.toVoxel.slice(0, 3).map((row) => row[0] * mm[0] + row[1] * mm[1] + row[2] * mm[2] + row[3]);
};
root.dataset.places = JSON.stringify(Object.values(view.viewers).map(voxel)).replaceAll('"', "");
root.dataset.planes = Object.values(view.viewers).map((viewer) => viewer.opts.sliceType).join("");
"""
    found, dom = open_page(render_page(done), tmp_path, SOFTWARE_WEBGL, go)
    places = np.array(json.loads(found["places"]))
    assert places.shape == (5, 3)
    assert np.abs(places - [93, 41, 4]).max() < 0.01
    assert found["planes"] == "22222"  # sagittal slices
    expected = described(done, (93, 41, 4))
    for name in ("source", "restored", "difference"):
        assert shown(dom)[name] == pytest.approx(expected[name], abs=3.5), name
    assert re.search(r'id="number">5<', dom)


@pytest.mark.slow
@NO_BROWSER
def test_without_webgl_plain_canvases_show_the_same_volumes(done, tmp_path):
    point = """
await show({ slice: 4 });
const box = document.getElementById("source").getBoundingClientRect();
const at = { clientX: box.left + box.width * (93.5 / 150), clientY: box.top + box.height * (41.5 / 141) };
document.getElementById("source").dispatchEvent(new PointerEvent("pointermove", at));
const colors = (canvas) => new Set(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data).size;
root.dataset.levels = panels().map(colors).join(" ");
"""
    found, dom = open_page(render_page(done), tmp_path, NO_WEBGL, point)
    assert found["viewer"] == "plain"
    assert (found["drawn"], found["errors"], found["violations"], found["resources"]) == ("5", "0", "0", "0")
    assert min(int(one) for one in found["levels"].split()) > 20
    expected = described(done, (93, 41, 4))
    for name in ("source", "restored", "difference"):
        assert shown(dom)[name] == pytest.approx(expected[name], abs=3.5), name


@pytest.mark.slow
@NO_BROWSER
def test_a_viewer_that_fails_gives_way_to_plain_canvases(done, tmp_path):
    page = render_page(done).replace("document.head.append(script);", "")
    found, _ = open_page(page, tmp_path, SOFTWARE_WEBGL)
    assert (found["viewer"], found["drawn"], found["errors"]) == ("plain", "5", "0")
