"""The page: self-contained, small, escaped, and drawn by a real browser where there is one."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from browser import BROWSER, open_page
from noise_fields import correlated_noise
from phantoms import body_phantom
from PIL import Image

from medrestore_monai.audit import Volume, audit
from medrestore_monai.audit.display import make_display
from medrestore_monai.audit.page import render_page
from medrestore_monai.audit.plots import Curve, Plot, ticks
from medrestore_monai.audit.scope import Feature, Scope

SPACING = (1.2, 1.2, 2.5)


@pytest.fixture(scope="module")
def done():
    clean = np.repeat(body_phantom((150, 141))[..., None], 3, axis=2)
    noise, _, _ = correlated_noise(clean.shape, SPACING[0], 0.4, 15.0, seed=1)
    source, restored = clean + noise * (clean > -900), clean + 0.4 * noise * (clean > -900)
    restored[60:68, 60:68, 1] += 150
    about = {"name": "<b>&scan", "derivation": "<script>alert(1)</script>"}
    pair = (Volume(source, "CT", SPACING, about=dict(about)), Volume(restored, "CT", SPACING, about=about))
    return audit(*pair, bundle="ct_denoise_restore_rwkv")


@pytest.mark.slow
def test_the_page_names_no_address_and_escapes_what_comes_from_outside(done):
    page = render_page(done)
    assert "://" not in page
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)|@import|url\(", page)
    assert "default-src 'none'" in page
    assert "<b>" not in page
    assert "alert(1)" in page
    assert "<script>alert" not in page


def test_the_page_shows_every_figure_its_unit_and_the_reasons(done):
    page = render_page(done)
    report = done.as_dict()
    for figure in [*report["noise"], *report["sharpness"], *report["bias"]]:
        assert figure["name"] in page
        assert (figure["not_measured"] or figure["unit"]) in page
    for word in (report["verdict"]["light"].capitalize(), report["provenance"]["weights_sha256"]):
        assert word in page
    assert page.count('<svg viewBox="0 0 460') >= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("distance", "p"), [(0.0, "100"), (1.49, "43"), (1.53, "14")], ids=["all of them", "three of seven", "one"]
)
def test_the_page_tells_a_score_from_its_limit_and_how_rare_it_is(done, distance, p):
    scope = Scope("in", [Feature("pixel size", "0.4 mm", "0.5 mm", "in", distance)], 1.49, [1.5, 1.49, 1, 0, 0, 0])
    page = render_page(replace(done, scope=scope))
    assert f"Combined score: {distance:g}, where more than 1.49 is out" in page
    assert f"Among 6 people like the training's, a score as large has a chance of {p} %." in page
    if distance:
        assert f"<td>{distance}</td>" in page
    rare = Scope("out", scope.features, 1.0, [0.0] * 40)
    assert ("chance of 2.4 %." in render_page(replace(done, scope=rare))) == (distance > 0)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
def test_a_browser_draws_all_four_views_of_a_picture_without_an_error_or_a_request(done, tmp_path):
    one = [Volume(image.array[..., 1], "CT", SPACING) for image in (done.source, done.restored)]
    colors = """
const levels = (canvas) => new Set(canvas.getContext("2d").getImageData(0, 0, 150, 141).data).size;
root.dataset.levels = panels().map(levels).join(" ");
"""
    page = render_page(audit(*one, bundle="ct_denoise_restore_rwkv"))
    assert 'id="niivue"' not in page
    found, dom = open_page(page, tmp_path, after=colors)
    assert found["viewer"] == "plain"
    assert (found["drawn"], found["errors"], found["violations"], found["resources"]) == ("4", "0", "0", "0")
    assert all(int(levels) > 20 for levels in found["levels"].split())
    assert re.search(r'id="number">1<', dom)


def decoded(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).T


def test_display_copies_are_8_bit_in_the_window_and_turned_for_the_eye():
    values = np.linspace(-300, 300, 40 * 30 * 2).reshape(40, 30, 2)
    volume = Volume(values, "CT", (1, 2, 3), affine=np.diag([-1.0, -2, 3, 1]))
    shown = make_display(volume, volume, np.zeros((0, 0, 0)))
    expected = np.rint(np.clip((values[..., 1] + 160) / 400, 0, 1) * 255)
    assert np.array_equal(decoded(shown.source[1]), expected)
    assert shown.window == (-160, 240)
    assert (shown.size, shown.note) == ((40, 60), "")
    turned = Volume(values, "CT", (1, 2, 3), affine=np.diag([1.0, 2, 3, 1]))
    assert np.array_equal(decoded(make_display(turned, turned, np.zeros((0, 0, 0))).source[1]), expected[::-1, ::-1])


@pytest.mark.slow
def test_a_page_of_40_slices_of_512_pixels_stays_under_15_mb():
    rng = np.random.default_rng(0)  # white noise over the whole window is the worst case
    volume = Volume(rng.uniform(-160, 240, (512, 512, 40)).astype(np.float32), "CT")
    shown = make_display(volume, volume, np.zeros((0, 0, 0)))
    size = sum(map(len, [*shown.source, *shown.restored]))
    assert size < 13.3e6
    assert "keep this file small" in shown.note


def test_a_plot_puts_the_curve_between_its_axes():
    plot = Plot("a < b", "x", "y", [Curve("one", np.array([0.0, 1.0]), np.array([0.0, 7.0]))])
    svg = plot.svg()
    assert "a &lt; b" in svg
    points = re.search(r'points="([^"]*)"', svg)[1].split()
    first, last = ([float(value) for value in point.split(",")] for point in points)
    assert first == [62, 226]
    assert last == [448, pytest.approx(226 - 196 * 7 / 8, abs=0.1)]
    assert plot.rows() == [["one", "0", "0"], ["one", "1", "7"]]


@pytest.mark.parametrize(("low", "high", "expected"), [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 7, [0, 2, 4, 6, 8])])
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)
    assert json.dumps(ticks(-3, 3)) == "[-4.0, -2.0, 0.0, 2.0, 4.0]"
