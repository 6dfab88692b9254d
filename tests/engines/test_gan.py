"""DeblurGAN's adversarial training: the losses by hand, what both networks are shown, and going on after a kill."""

from copy import deepcopy

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.engines import GanTrainer
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from medrestore_monai.engines import RestorationGanTrainer, TrainingState
from medrestore_monai.losses import RestorationLoss, WassersteinDiscriminatorLoss, WassersteinGeneratorLoss


class Slope(nn.Module):
    """Scores an image by its sum."""

    def __init__(self, slope=0.5):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x):
        return self.slope * x.flatten(1).sum(1, keepdim=True)


def test_losses_by_hand():
    discriminator = Slope()
    clean, restored = torch.full((2, 1, 4, 4), 0.75), torch.full((2, 1, 4, 4), 0.5, requires_grad=True)
    loss = WassersteinDiscriminatorLoss(discriminator, penalty=10)(restored, clean)
    # scores 0.5 * 16 * 0.5 = 4 and 0.5 * 16 * 0.75 = 6, gradients of length 0.5 * 4 = 2
    assert_close(loss, torch.tensor(4 - 6 + 10 * (2 - 1) ** 2.0))
    loss.backward()
    assert restored.grad is None  # the discriminator's step leaves the generator alone
    assert_close(discriminator.slope.grad, torch.tensor(8 - 12 + 10 * 2 * (2 - 1) * 4.0))

    loss = WassersteinGeneratorLoss(discriminator, RestorationLoss(l1=100), weight=0.25)(restored, clean)
    assert_close(loss, torch.tensor(100 * 0.25 - 0.25 * 4))
    loss.backward()
    # each of 32 pixels is too dark, and raises the mean score of two images by 0.5 / 2
    assert_close(restored.grad, torch.full((2, 1, 4, 4), -100 / 32 - 0.25 * 0.5 / 2))


@pytest.mark.parametrize("size", [(24, 24), (31, 45)])
def test_penalty_looks_between_restored_and_clean(size):
    class Square(nn.Module):  # the gradient of x^2 is 2 x
        def forward(self, x):
            seen.append(x.detach())
            return x.square().flatten(1).sum(1, keepdim=True)

    seen = []
    clean, restored = torch.ones(3, 2, *size).double(), torch.zeros(3, 2, *size).double()
    loss = WassersteinDiscriminatorLoss(Square(), penalty=1)(restored, clean)
    between = seen[-1]
    shares = between[:, 0, 0, 0]
    assert len(set(shares.tolist())) == 3  # one for each image
    assert 0 < shares.min() < shares.max() < 1
    assert_close(between, shares[:, None, None, None].expand_as(between))
    pixels = 2 * size[0] * size[1]
    assert_close(loss, (2 * shares * pixels**0.5 - 1).square().mean() - pixels)


def test_losses_refuse_negative_weights():
    with pytest.raises(ValueError, match="penalty must not be negative, got -1"):
        WassersteinDiscriminatorLoss(Slope(), penalty=-1)
    with pytest.raises(ValueError, match="weight must not be negative, got -1"):
        WassersteinGeneratorLoss(Slope(), nn.L1Loss(), weight=-1)


def adam(network):
    return {"_target_": "torch.optim.Adam", "params": f"$@{network}.parameters()", "lr": 0.01}


def average(name):
    transform = f"$monai.handlers.from_engine(['{name}'], first=True)"
    return {"_target_": "ignite.metrics.Average", "output_transform": transform}


CONFIG = {
    "imports": ["$import monai"],
    "network": {
        "_target_": "medrestore_monai.networks.DeblurGANGenerator",
        **{"in_channels": 1, "out_channels": 1, "channels": 4, "blocks": 1},
    },
    "discriminator": {
        "_target_": "medrestore_monai.networks.DeblurGANDiscriminator",
        **{"in_channels": 1, "channels": 4},
    },
    "optimizer": adam("network"),
    "d_optimizer": adam("discriminator"),
    "trainer": {
        "_target_": "medrestore_monai.engines.RestorationGanTrainer",
        "device": "cpu",
        "max_epochs": 1,
        "train_data_loader": "@loader",
        "g_network": "@network",
        "g_optimizer": "@optimizer",
        "g_loss_function": {
            "_target_": "medrestore_monai.losses.WassersteinGeneratorLoss",
            "discriminator": "@discriminator",
            "content": {"_target_": "medrestore_monai.losses.RestorationLoss", "l1": 100},
        },
        "d_network": "@discriminator",
        "d_optimizer": "@d_optimizer",
        "d_loss_function": {
            "_target_": "medrestore_monai.losses.WassersteinDiscriminatorLoss",
            "discriminator": "@discriminator",
        },
        "d_train_steps": 2,
        "key_train_metric": {"loss": average("loss")},
        "additional_metrics": {"d_loss": average("d_loss")},
    },
}


def batches(images=4):
    draw = torch.Generator().manual_seed(3)
    clean = torch.rand(images, 1, 24, 32, generator=draw)
    blurred = nn.functional.avg_pool2d(clean, 3, stride=1, padding=1)
    pairs = [{"image": image, "label": label} for image, label in zip(blurred, clean, strict=True)]
    return DataLoader(pairs, batch_size=2)


def parsed(loader=None, max_epochs=1, dropout=0.5):
    torch.manual_seed(0)
    parser = ConfigParser(deepcopy(CONFIG))
    parser["trainer::max_epochs"], parser["network::dropout"] = max_epochs, dropout
    parser["loader"] = batches() if loader is None else loader
    parser.get_parsed_content("trainer")  # the weights are drawn here
    return parser


def weights(parser):
    return [value.clone() for name in ("network", "discriminator") for value in item(parser, name).values()]


def item(parser, name):
    return parser.get_parsed_content(name).state_dict()


@pytest.mark.slow
def test_two_iterations_train_both_networks():
    parser = parsed()
    before = {name: {k: v.clone() for k, v in item(parser, name).items()} for name in ("network", "discriminator")}
    trainer = parser.get_parsed_content("trainer")
    assert isinstance(trainer, GanTrainer)
    trainer.run()
    assert trainer.state.iteration == 2
    for network, old in before.items():
        for name, value in item(parser, network).items():
            # a number added to all scores is lost in their difference
            assert torch.equal(value, old[name]) == (name == "patches.final_conv.conv.bias"), name
    steps = [next(iter(item(parser, name)["state"].values()))["step"] for name in ("optimizer", "d_optimizer")]
    assert steps == [2, 4]
    assert all(torch.isfinite(torch.tensor(trainer.state.metrics[name])) for name in ("loss", "d_loss"))


@pytest.mark.slow
def test_one_iteration_is_what_the_formulas_say():
    parser = parsed(batches(2), dropout=0.0)
    trainer = parser.get_parsed_content("trainer")
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda _: torch.manual_seed(5))
    trainer.run()

    again = parsed(batches(2), dropout=0.0)  # with the same weights
    g, d = again.get_parsed_content("network"), again.get_parsed_content("discriminator")
    batch = next(iter(batches(2)))
    torch.manual_seed(5)
    optimizer, losses = torch.optim.Adam(d.parameters(), lr=0.01), []
    fake, clean = g(batch["image"]).detach(), batch["label"]
    for _ in range(2):
        share = torch.rand(2, 1, 1, 1)
        between = (share * clean + (1 - share) * fake).requires_grad_(True)
        (slope,) = torch.autograd.grad(d(between).mean((1, 2, 3)).sum(), between, create_graph=True)
        loss = d(fake).mean() - d(clean).mean() + 10 * (slope.square().sum((1, 2, 3)).sqrt() - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    fake = g(batch["image"])
    loss = 100 * (fake - clean).abs().mean() - d(fake).mean()
    assert trainer.state.metrics["d_loss"] == pytest.approx(sum(losses), rel=1e-4)
    assert trainer.state.metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)


def test_generator_is_shown_the_blurred_image():
    seen = []
    parser = parsed()
    network = parser.get_parsed_content("network")
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    parser.get_parsed_content("trainer").run()
    blurred = [batch["image"] for batch in batches()]
    assert len(seen) == 4  # for the discriminator's steps and for its own, in two iterations
    for got, want in zip(seen, [blurred[0], blurred[0], blurred[1], blurred[1]], strict=True):
        assert torch.equal(got, want)


def test_output_is_as_of_a_supervised_trainer():
    parser = parsed()
    trainer = parser.get_parsed_content("trainer")
    trainer.run()
    output = trainer.state.output
    assert len(output) == 2  # decollated
    assert output[0]["loss"] == output[0]["g_loss"]
    assert torch.equal(output[1]["reals"], list(batches())[1]["label"][1])
    assert torch.equal(output[1]["latents"], list(batches())[1]["image"][1])
    assert trainer.optimizer is parser.get_parsed_content("optimizer")


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_bit(tmp_path):
    def train(path, epochs):
        parser = parsed(max_epochs=epochs)
        names = ("network", "discriminator", "optimizer", "d_optimizer")
        trainer = parser.get_parsed_content("trainer")
        TrainingState(path, {name: parser.get_parsed_content(name) for name in names}).attach(trainer)
        trainer.run()
        return parser, trainer

    whole, _ = train(tmp_path / "whole.pt", 3)
    train(tmp_path / "killed.pt", 1)
    resumed, trainer = train(tmp_path / "killed.pt", 3)
    assert trainer.state.iteration == 6
    for got, want in zip(weights(resumed), weights(whole), strict=True):
        assert torch.equal(got, want)
    for name, steps in (("optimizer", 6), ("d_optimizer", 12)):
        states = zip(item(resumed, name)["state"].values(), item(whole, name)["state"].values(), strict=True)
        for got, want in states:
            assert got["step"] == want["step"] == steps
            assert torch.equal(got["exp_avg"], want["exp_avg"])
            assert torch.equal(got["exp_avg_sq"], want["exp_avg_sq"])


def test_wrong_use_is_refused(monkeypatch):
    loader = DataLoader([{"image": torch.rand(1, 24, 24)}], batch_size=1)
    with pytest.raises(ValueError, match="each batch must have degraded images, 'image', and clean ones, 'label'"):
        parsed(loader).get_parsed_content("trainer").run()
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match="adversarial training runs in one process only"):
        RestorationGanTrainer(g_optimizer=None, g_loss_function=None)
