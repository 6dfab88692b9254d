"""Degraded images alone, of known truth: a training that helps is adopted, and one that harms is not.

The network is one filter of 5x5 pixels, so that seconds of training lead somewhere: it takes away second differences
along both axes, and the training changes how much of them. That cannot move a mean.
"""

import json
import logging
import math

import numpy as np
import pytest
import torch
from noisy_site import PIXEL, make_open_bundle, noisy_person, save
from scipy.ndimage import gaussian_filter
from tiny_bundle import edit_json
from typer.testing import CliRunner

from medrestore_monai import Restorer
from medrestore_monai.adapt import adapt, recorrupted, run
from medrestore_monai.bundles import sha256
from medrestore_monai.cli import app
from medrestore_monai.networks import RestoreRWKV

pytestmark = pytest.mark.slow
logger = logging.getLogger(__name__)

STD = 80.0  # HU, so that edges matter little
TRAINS = 4  # the person who trains, and needs four slices; one is enough to tune and to judge
STRANGER = 20  # a person who is not in the data
STEPS = 40
SHAPE = {"dim": 8, "num_blocks": [0, 0, 0, 0], "num_refinement_blocks": 0}
WHOLE = {"patch_size": [160, 160], "batch_size": 1}  # whole slices, as the filter sees zeros beyond a patch


def soft_body(person, size=(161, 150)):
    """A slice of fat around soft tissue without sharp edges, which no filter can tell from noise; ``(X, Y)``, HU."""
    rng = np.random.default_rng(person)
    x, y = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
    radius = np.hypot(x / rng.uniform(0.85, 0.95), y / rng.uniform(0.75, 0.9))
    vessels = np.zeros(size)
    for _ in range(4):
        at = rng.uniform(-0.5, 0.5, 2)
        vessels[np.hypot(x - at[0], y - at[1]) < 0.06] = rng.uniform(60, 150)
    outline = gaussian_filter(np.where(radius < 1, -90.0, -1000.0), 2)
    return outline + gaussian_filter(np.where(radius < 0.85, 140.0, 0.0), 3) + gaussian_filter(vessels, 1)


def noisy_and_clean(person):
    return noisy_person(person, 4 if person == TRAINS else 1, STD, body=soft_body)


def in_one_direction(folder):
    """A bundle that smooths by ``[1, 2, 1] / 4`` along x alone: noise along y passes."""
    bundle = make_open_bundle(folder)
    for name in ("train", "inference", "evaluate"):
        edit_json(bundle / "configs" / f"{name}.json", _set_shape)
    edit_json(bundle / "configs" / "train.json", lambda content: content.update(WHOLE))
    edit_json(bundle / "configs" / "adapt.json", _hurry)
    edit_json(bundle / "configs" / "adapt_none.json", lambda content: content.update(learning_rate=0.04))
    network = RestoreRWKV(**SHAPE)
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
        second_difference = torch.tensor([0.25, -0.5, 0.25])
        network.embed.weight[0, 0, :, 1] = second_difference
        network.embed.weight[1, 0, 1, :] = second_difference
        network.output.weight[0, SHAPE["dim"], 1, 1] = 1  # the first channel behind those of the smaller sizes
    weights = bundle / "models" / "model.pt"
    torch.save(network.state_dict(), weights)
    edit_json(bundle / "configs" / "metadata.json", lambda metadata: metadata.update(weights_sha256=sha256(weights)))
    return bundle


def _set_shape(content):
    if "network_def" in content:
        content["network_def"].update(SHAPE)


def _hurry(content):
    content.update(epoch_length=STEPS // 2, val_interval=1)
    content["scheduler"]["warmup_steps"] = 1
    content["average"]["momentum"] = 0.5


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("site")
    for person in range(7):
        save(root / "data" / f"p{person}" / "ct.nii.gz", noisy_and_clean(person)[0])
    return in_one_direction(root / "bundles"), root / "data"


@pytest.fixture(autouse=True)
def only_the_output_trains(monkeypatch):
    monkeypatch.setattr("medrestore_monai.engines.trained_parameters", lambda network, which: [network.output.weight])


def truth(restore):
    """Minus the mean square error in dB, in fat and soft tissue of the stranger."""
    noisy, clean = noisy_and_clean(STRANGER)
    inside = (clean > -150) & (clean < 250)
    return -10 * math.log10(float(((restore(noisy) - clean)[inside] ** 2).mean()))


def restoring(bundle):
    restorer = Restorer(bundle, device="cpu")
    return lambda volume: restorer(volume, spacing=(PIXEL, PIXEL, 3.0))


def test_what_helps_in_truth_is_adopted(place, tmp_path):
    bundle, data = place
    done = adapt(data, tmp_path / "mine", bundle, targets="none", steps=STEPS)
    assert done.adopted, done.decision.line
    assert done.decision.gain > 0.05
    gained = truth(restoring(done.output)) - truth(restoring(bundle))
    logger.info("estimated %+.2f dB, true %+.2f dB: %s", done.decision.gain, gained, done.decision.line)
    assert gained > 0.2


def test_what_harms_in_truth_is_not_adopted(place, tmp_path, monkeypatch):
    """Noise of less than a third of its level is drawn, so that the network learns to leave the rest where it is."""
    bundle, data = place
    measured, judged, states = recorrupted.measure_noise, run.score_without_targets, []

    def kept_aside(request, division, weights, kept):
        states.append(torch.load(weights, weights_only=True))
        return judged(request, division, weights, kept)

    monkeypatch.setattr(recorrupted, "measure_noise", lambda *given: measured(*given).scaled(0.3))
    monkeypatch.setattr(run, "score_without_targets", kept_aside)
    arguments = [data, "-o", tmp_path / "mine", "--from", bundle, "--targets", "none", "--steps", STEPS]
    result = CliRunner().invoke(app, ["adapt", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert "keep the shipped weights" in " ".join(result.output.split())
    assert [path.name for path in tmp_path.iterdir()] == ["mine_report"]
    verdict = json.loads((tmp_path / "mine_report" / "report.json").read_text())["verdict"]
    assert not verdict["adopt"]
    assert "share of the noise kept" in verdict["line"]

    network = RestoreRWKV(**SHAPE)
    network.load_state_dict(states[0])

    def refused(volume):
        scaled = torch.from_numpy(volume[..., 0] + 1024)[None, None] / 4096
        with torch.no_grad():
            return network(scaled)[0, 0].numpy()[..., None] * 4096 - 1024

    gained = truth(refused) - truth(restoring(bundle))
    logger.info("true %+.2f dB: %s", gained, verdict["line"])
    assert gained < -0.5
