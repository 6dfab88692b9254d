import warnings

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from medrestore_monai import inferers
from medrestore_monai.inferers import AutocastInferer, SliceWiseInferer, tile_spans, tiling_error
from medrestore_monai.intensity import INTENSITY_RANGES, scale_from_unit, scale_to_unit


def conv_net(channels=1):
    """Two 3x3 convolutions with zero padding: receptive field of radius 2."""
    return nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, channels, 3, padding=1)).eval()


class StridedNet(nn.Module):
    """Two pixel-unshuffles and skips; pads the far sides by reflection to a multiple of 4. Radius under 16."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.middle = nn.Conv2d(64, 64, 3, padding=1)
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        rows, cols = x.shape[-2:]
        y = self.first(F.pad(x, (0, -cols % 4, 0, -rows % 4), mode="reflect"))
        y = y + F.pixel_shuffle(self.middle(F.pixel_unshuffle(y, 4)).relu(), 4)
        return self.last(y)[..., :rows, :cols]


class Recorder(nn.Module):
    """Remembers what it was called with."""

    def __init__(self, answer=lambda x: x):
        super().__init__()
        self.answer, self.shapes, self.extras = answer, [], []

    def forward(self, x, *args, **kwargs):
        self.shapes.append(tuple(x.shape))
        self.extras.append((args, kwargs))
        return self.answer(x)


@pytest.mark.parametrize("size", [(64, 64), (61, 47), (129, 33), (7, 90), (40, 40)])
@pytest.mark.parametrize("halo", [2, 5])
def test_tiles_equal_whole_slice_for_a_local_network(size, halo):
    net, image = conv_net(), torch.rand(2, 1, *size)
    with torch.inference_mode():
        whole = SliceWiseInferer()(image, net)
        tiled = SliceWiseInferer(tile=(24, 40), halo=halo)(image, net)
        assert_close(whole, net(image))
    assert_close(tiled, whole, rtol=0, atol=1e-6)


def test_tiles_differ_when_the_halo_is_too_small():
    net, image = conv_net(), torch.rand(1, 1, 64, 64)
    error, mean = tiling_error(SliceWiseInferer(tile=24, halo=1), image, net)
    assert error > 1e-3
    assert 0 < mean < error
    assert tiling_error(SliceWiseInferer(tile=24, halo=2), image, net)[0] < 1e-6


@pytest.mark.parametrize("size", [(64, 64), (61, 83), (102, 35), (33, 200), (18, 19)])
def test_tiles_equal_whole_slice_for_a_strided_network(size):
    net, image = StridedNet().eval(), torch.rand(1, 1, *size)
    with torch.inference_mode():
        tiled = SliceWiseInferer(tile=40, halo=14, alignment=4)(image, net)
        assert_close(tiled, net(image), rtol=0, atol=1e-6)


def test_strided_network_needs_the_alignment():
    net, image = StridedNet().eval(), torch.rand(1, 1, 99, 99)
    assert tiling_error(SliceWiseInferer(tile=39, halo=14), image, net)[0] > 1e-3


@pytest.mark.parametrize("size", [1, 5, 31, 32, 33, 63, 64, 100, 257])
@pytest.mark.parametrize(("tile", "halo", "alignment"), [(32, 8, 8), (32, 0, 1), (32, 15, 1), (16, 4, 4)])
def test_spans_cover_each_pixel_once_with_their_halo(size, tile, halo, alignment):
    spans = tile_spans(size, tile, halo, alignment)
    covered = np.concatenate([np.arange(s.first, s.last) for s in spans])
    assert covered.tolist() == list(range(size))
    for s in spans:
        assert s.stop - s.start <= tile
        assert s.start % alignment == 0
        assert s.stop == size or (s.stop % alignment == 0 and s.stop - s.last >= halo)
        assert s.start == 0 or s.first - s.start >= halo


@pytest.mark.parametrize("spatial_dim", [0, 1, 2])
@pytest.mark.parametrize("slice_batch_size", [1, 3, 16])
def test_volume_is_restored_slice_by_slice(spatial_dim, slice_batch_size):
    net, volume = conv_net(channels=2), torch.rand(2, 2, 13, 11, 7)
    with torch.inference_mode():
        output = SliceWiseInferer(slice_batch_size, spatial_dim=spatial_dim)(volume, net)
        for index in range(volume.shape[2 + spatial_dim]):
            expected = net(volume.select(2 + spatial_dim, index))
            assert_close(output.select(2 + spatial_dim, index), expected, rtol=0, atol=1e-6)


def test_network_never_sees_more_than_one_batch_of_slices():
    net = Recorder()
    output = SliceWiseInferer(slice_batch_size=4)(volume := torch.rand(2, 1, 8, 9, 10), net)
    assert net.shapes == [(4, 1, 8, 9), (4, 1, 8, 9), (2, 1, 8, 9)] * 2
    assert_close(output, volume, rtol=0, atol=0)


def test_extra_arguments_reach_the_network():
    net = Recorder()
    SliceWiseInferer(tile=8, halo=1)(torch.rand(1, 1, 12, 8, 2), net, "task", scale=2)
    assert net.extras == [(("task",), {"scale": 2})] * 4


@pytest.mark.parametrize("settings", [{}, {"clip_output": True, "strength": 0.7}, {"self_ensemble": 8}])
def test_values_outside_the_range_stay_exactly_what_they_are(settings):
    image = torch.tensor([[[[-0.513, 0.25], [1.0, 1.713]]]])
    seen = []
    output = SliceWiseInferer(**settings)(image, lambda x: seen.append(x) or x * 0.5)
    assert_close(seen[0], torch.tensor([[[[0.0, 0.25], [1.0, 1.0]]]]))
    inside = 1 - 0.5 * settings.get("strength", 1.0)
    expected = torch.tensor([[[[-0.513, 0.25 * inside], [inside, 1.713]]]])
    assert_close(output, expected)
    outside = (image < 0) | (image > 1)
    assert torch.equal(output[outside], image[outside])
    added = SliceWiseInferer(**settings, add_clipped=True)(image, lambda x: x * 0.5)
    mixed = torch.tensor([[[[-0.513, 0.25 * inside], [inside, 0.713 + inside]]]])
    assert_close(added, mixed)
    assert_close(SliceWiseInferer(clip_range=None)(image, lambda x: x * 0.5), image * 0.5)


def test_every_whole_hu_passes_an_identity_network_unchanged():
    ct = INTENSITY_RANGES["CT"]
    hu = torch.arange(-32768, 32768, dtype=torch.float32).reshape(1, 1, 256, 256)
    output = SliceWiseInferer()(scale_to_unit(hu, ct), lambda x: x)
    assert torch.equal(scale_from_unit(output, ct), hu)


def test_strength_mixes_input_and_output():
    net, image = conv_net(), torch.rand(1, 1, 9, 10, 3) * 3 - 1
    results = {s: SliceWiseInferer(strength=s)(image, net) for s in (0.0, 0.3, 1.0)}
    assert torch.equal(results[0.0], image)
    assert results[0.0].data_ptr() != image.data_ptr()
    assert_close(results[0.3], image + 0.3 * (results[1.0] - image))


def test_self_ensemble_is_the_mean_over_flips_and_turns():
    net, image = conv_net(), torch.rand(1, 1, 19, 26, 2)
    turned = []  # NumPy's flips and axes; each result goes back the way it came
    for axes in ((0, 1), (1, 0)):
        for flipped in ((), (0,), (1,), (0, 1)):
            given = np.flip(image[0, 0].numpy(), flipped).transpose(*axes, 2)
            with torch.no_grad():
                result = net(torch.from_numpy(given.copy()).movedim(-1, 0)[:, None])[:, 0].movedim(0, -1).numpy()
            turned.append(np.flip(result.transpose(*axes, 2), flipped))
    found = {count: SliceWiseInferer(self_ensemble=count)(image, net).detach()[0, 0] for count in (1, 2, 8)}
    np.testing.assert_allclose(found[1], turned[0], atol=1e-6)
    np.testing.assert_allclose(found[2], (turned[0] + turned[3]) / 2, atol=1e-6)
    np.testing.assert_allclose(found[8], np.mean(turned, 0), atol=1e-6)
    assert np.abs(found[8] - turned[0]).max() > 1e-3


@pytest.mark.parametrize(("count", "turns"), [(2, 2), (4, 1), (8, 3)])
def test_self_ensemble_gives_a_turned_image_the_turned_result(count, turns):
    net, image = StridedNet().eval(), torch.rand(1, 1, 52, 64)
    inferer = SliceWiseInferer(self_ensemble=count, tile=(40, 36), halo=16, alignment=4)
    with torch.no_grad():
        expected = torch.rot90(SliceWiseInferer(self_ensemble=count)(image, net), turns, (-2, -1))
        assert_close(torch.rot90(inferer(image, net), turns, (-2, -1)), expected, rtol=0, atol=1e-6)
        assert_close(inferer(torch.rot90(image, turns, (-2, -1)), net), expected, rtol=0, atol=1e-6)
        single = torch.rot90(SliceWiseInferer()(image, net), turns, (-2, -1))
        assert (SliceWiseInferer()(torch.rot90(image, turns, (-2, -1)), net) - single).abs().max() > 1e-4


def test_self_ensemble_runs_the_network_that_often():
    recorder = Recorder()
    image = torch.rand(1, 1, 6, 9, 2)
    assert_close(SliceWiseInferer(self_ensemble=8)(image, recorder), image)
    assert sorted(recorder.shapes) == [(1, 1, 6, 9)] * 8 + [(1, 1, 9, 6)] * 8


def test_meta_data_dtype_and_input_are_kept():
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.rand(1, 1, 8, 8, 3, dtype=torch.float64) * 2, affine=affine, meta={"note": "kept"})
    before = image.clone()
    output = SliceWiseInferer()(image, lambda x: (x * 0).bfloat16())
    assert isinstance(output, MetaTensor)
    assert output.dtype == torch.float64
    assert output.meta["note"] == "kept"
    assert_close(output.affine, affine)
    assert torch.equal(image, before)


def test_gradients_flow_when_asked():
    net = conv_net()
    SliceWiseInferer()(torch.rand(1, 1, 8, 8, 2), net).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_auto_takes_the_whole_slice_where_it_fits(monkeypatch):
    net = conv_net()
    monkeypatch.setattr("medrestore_monai.inferers.available_bytes", lambda device: 10**9)
    image = torch.rand(1, 1, 100, 90)
    with torch.inference_mode():
        assert_close(SliceWiseInferer(tile="auto")(image, net), net(image))


def test_auto_tiles_with_a_warning_where_memory_is_short(monkeypatch):
    net, image = conv_net(), torch.rand(1, 1, 200, 150, 2)
    seen = Recorder(net).eval()
    monkeypatch.setattr("medrestore_monai.inferers.available_bytes", lambda device: 4_000_000)
    inferer = SliceWiseInferer(slice_batch_size=2, tile="auto", halo=3, alignment=2, bytes_per_pixel=100)
    with torch.inference_mode(), pytest.warns(UserWarning, match="working in tiles of"):
        output = inferer(image, seen)
    assert max(n * x * y for n, _, x, y in seen.shapes) * 100 <= 4_000_000 * 0.8
    with torch.inference_mode():
        assert_close(output[..., 1], net(image[..., 1]), rtol=0, atol=1e-6)


def test_auto_lowers_the_batch_of_slices_before_it_tiles(monkeypatch):
    seen = Recorder().eval()
    monkeypatch.setattr("medrestore_monai.inferers.available_bytes", lambda device: 2_000_000)
    SliceWiseInferer(slice_batch_size=8, tile="auto", bytes_per_pixel=100)(torch.rand(1, 1, 64, 64, 8), seen)
    assert set(seen.shapes) <= {(3, 1, 64, 64), (2, 1, 64, 64)}


def test_auto_refuses_what_no_tile_fits(monkeypatch):
    monkeypatch.setattr("medrestore_monai.inferers.available_bytes", lambda device: 100_000)
    with pytest.raises(RuntimeError, match="too little even for tiles"):
        SliceWiseInferer(tile="auto", bytes_per_pixel=1000)(torch.rand(1, 1, 256, 256), Recorder().eval())


def test_progress_bar_is_shown_on_stderr(capsys):
    SliceWiseInferer(progress=True, tile=8, halo=1)(torch.rand(1, 1, 12, 8, 2), Recorder())
    captured = capsys.readouterr()
    assert "Restoring slices" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"slice_batch_size": 0}, "slice_batch_size"),
        ({"tile": 128}, "tile must be"),
        ({"tile": 30, "halo": 2, "alignment": 4}, "tile must be"),
        ({"tile": (64, 64, 64), "halo": 2}, "tile must be"),
        ({"tile": "big"}, "tile must be"),
        ({"halo": -1}, "halo"),
        ({"alignment": 0}, "alignment"),
        ({"clip_range": (1.0, 0.0)}, "clip_range"),
        ({"strength": 1.5}, "strength"),
        ({"self_ensemble": 3}, "self_ensemble"),
        ({"self_ensemble": 2.0}, "self_ensemble"),
        ({"spatial_dim": 3}, "spatial_dim"),
    ],
)
def test_bad_settings_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        SliceWiseInferer(**settings)


@pytest.mark.parametrize(
    ("image", "network", "error", "match"),
    [
        (torch.rand(1, 8, 8), lambda x: x, ValueError, "must have shape"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.int16), lambda x: x, TypeError, "floating point"),
        (torch.full((1, 1, 8, 8), torch.nan), lambda x: x, ValueError, "inputs .* NaN"),
        (torch.full((1, 1, 8, 8), torch.inf), lambda x: x, ValueError, "inputs .* NaN"),
        (torch.rand(1, 1, 8, 8), lambda x: x / 0, RuntimeError, "output has NaN"),
        (torch.rand(1, 1, 8, 8), lambda x: x[..., :4], ValueError, "keep the shape"),
        (torch.rand(1, 1, 8, 8), lambda x: [x], TypeError, "one tensor"),
    ],
)
def test_bad_input_and_output_are_refused(image, network, error, match):
    with pytest.raises(error, match=match):
        SliceWiseInferer()(image, network)


def test_error_of_tiling_needs_a_tile():
    with pytest.raises(ValueError, match="in pixels"):
        tiling_error(SliceWiseInferer(), torch.rand(1, 1, 8, 8), lambda x: x)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_volume_stays_on_the_cpu_while_the_network_is_on_the_gpu():
    net, volume = conv_net(), torch.rand(1, 1, 64, 64, 4)
    with torch.inference_mode():
        expected = SliceWiseInferer()(volume, net)
        output = SliceWiseInferer(tile="auto")(volume, net.cuda())
    assert output.device.type == "cpu"
    assert_close(output, expected, rtol=1e-3, atol=1e-3)  # TF32 convolutions


def test_the_error_of_tiles_is_reported_once():
    image = torch.rand(1, 1, 64, 64, 3)

    def whole_sight(x):
        return x - x.mean(dim=(2, 3), keepdim=True)

    inferer = SliceWiseInferer(tile=32, halo=8, report_tiling=True)
    with pytest.warns(UserWarning, match=r"by 0\.\d+% of the range on average, \d+\.\d+% at most"):
        inferer(image, whole_sight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inferer(image, whole_sight)


def test_slices_of_one_value_stay_as_they_are():
    volume = torch.rand(1, 2, 9, 7, 4)
    volume[0, 0, ..., 1], volume[0, 1, ..., 1] = -1.25, 0.5  # one value a channel
    volume[0, 0, ..., 2] = 0.5  # in one channel alone
    restored = SliceWiseInferer(slice_batch_size=3)(volume, lambda x: x + 0.25)
    assert torch.equal(restored[..., 1], volume[..., 1])
    assert_close(restored[..., [0, 2, 3]], volume[..., [0, 2, 3]] + 0.25)


@pytest.mark.parametrize("able", [False, True])
def test_a_training_in_bfloat16_follows_the_one_in_float32(monkeypatch, able):
    """Several steps, since a kept copy of the first step's weights would show later."""
    monkeypatch.setattr(inferers, "multiplies_bfloat16", lambda: able)
    image, label = torch.rand(2, 2, 1, 13, 11, generator=torch.Generator().manual_seed(0))
    losses, types = [], []
    for wrap in (lambda inferer: inferer, AutocastInferer):
        torch.manual_seed(0)
        network, run = conv_net().train(), wrap(SliceWiseInferer())
        network[0].register_forward_hook(lambda module, given, result: types.append(result.dtype))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
        for _ in range(3):
            optimizer.zero_grad()
            restored = run(image, network)
            assert restored.dtype == torch.float32
            assert not torch.is_autocast_enabled("cpu")
            loss = F.mse_loss(restored, label)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert set(types[:6]) == {torch.float32}
    assert set(types[6:]) == {torch.bfloat16 if able else torch.float32}
    assert losses[0] - losses[2] > 0.01
    np.testing.assert_allclose(losses[3:], losses[:3], rtol=0.03 if able else 1e-6)
