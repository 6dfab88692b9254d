"""A time limit that plans, an anchor, gains alone, clipped gradients."""

import time
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine
from monai.engines import SupervisedTrainer
from monai.optimizers import WarmupCosineSchedule
from torch import nn

from medrestore_monai.engines import Anchor, ClipGradients, TimeLimit, fine_tuning, trained_parameters
from medrestore_monai.engines.fine_tuning import moved
from medrestore_monai.networks import RestoreRWKV

BATCH = {"image": torch.rand(4, 1, 3, 3), "label": torch.zeros(4, 1, 3, 3)}


def test_gains_are_the_parameters_of_one_dimension():
    network = RestoreRWKV(in_channels=1, out_channels=1, dim=16, num_blocks=[1, 2, 2, 2], num_refinement_blocks=1)
    chosen = trained_parameters(network, "gains")
    assert sum(one.numel() for one in chosen) == 4424  # norms, gamma1, gamma2 and alpha
    names = {name.split(".")[-1] for name, one in network.named_parameters() if one.requires_grad}
    assert names == {"weight", "bias", "gamma1", "gamma2", "alpha"}
    assert len(trained_parameters(network, "all")) == len(list(network.parameters()))
    with pytest.raises(ValueError, match="all or gains"):
        trained_parameters(network, "some")
    with pytest.raises(ValueError, match="no parameters of one dimension"):
        trained_parameters(nn.Conv2d(1, 1, 3, bias=False), "gains")


def test_an_anchor_keeps_the_marked_items_as_they_were():
    network = nn.Conv2d(1, 1, 3, padding=1)
    anchor = Anchor(network)
    with pytest.raises(RuntimeError, match="attached"):
        anchor({**BATCH, "anchor": torch.ones(4, dtype=torch.bool)})
    anchor.attach(Engine(lambda engine, batch: None))
    first = network(BATCH["image"]).detach()
    with torch.no_grad():
        network.weight.add_(1)
    marked = torch.tensor([True, False, True, False])
    _, target = anchor({**BATCH, "anchor": marked})
    torch.testing.assert_close(target[marked], first[marked])
    assert torch.equal(target[~marked], BATCH["label"][~marked])
    assert not BATCH["label"].any()
    assert torch.equal(anchor(BATCH)[1], BATCH["label"])


@pytest.mark.parametrize(("limit", "clipped"), [(0.01, True), (1e6, False)])
def test_gradients_are_clipped_before_the_step(limit, clipped):
    network = nn.Conv2d(1, 1, 3, padding=1)
    before = [one.detach().clone() for one in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[{**BATCH, "label": BATCH["label"] + 100}],
        network=network,
        optimizer=optimizer,
        loss_function=nn.MSELoss(),
        train_handlers=[ClipGradients(limit)],
    )
    trainer.run()
    steps = [(a.detach() - b).square().sum() for a, b in zip(network.parameters(), before, strict=True)]
    assert (float(sum(steps).sqrt()) < 1.001 * 0.01) == clipped


def trainer_of(seconds):
    def step(engine, batch):
        time.sleep(seconds)
        return batch

    return Engine(step)


def schedule(steps=1500):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    return WarmupCosineSchedule(optimizer, warmup_steps=3, t_total=steps)


def test_the_plan_fits_the_time_and_is_kept():
    limit = TimeLimit(schedule(), minutes=0.6 / 60, share=0.5)
    trainer = trainer_of(0.002)
    limit.attach(trainer)
    trainer.run(range(5), max_epochs=10_000, epoch_length=5)
    assert limit.planned % 5 == 0
    assert limit.scheduler.t_total == limit.planned
    assert 0 < trainer.state.iteration <= limit.planned
    resumed = TimeLimit(schedule(), minutes=10)
    resumed.load_state_dict(limit.state_dict())
    again = trainer_of(0)
    again.state.epoch_length = 5
    resumed.attach(again)
    assert again.state.max_epochs == limit.planned // 5
    assert resumed.scheduler.t_total == limit.planned
    assert resumed.used > 0


@pytest.mark.parametrize(("epochs", "skipped"), [(0, 2), (1, 2), (3, 2), (1, 0)])
def test_a_run_that_is_resumed_without_a_plan_makes_one(monkeypatch, epochs, skipped):
    """Every step takes a second, also those of the run before."""
    clock = [1000.0]
    monkeypatch.setattr(fine_tuning, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def step(engine, batch):
        clock[0] += 1

    limit = TimeLimit(SimpleNamespace(t_total=0), minutes=200 / 60, skipped=skipped)
    limit.load_state_dict({"planned": None, "used": 5.0 * epochs})
    trainer = Engine(step)
    trainer.load_state_dict({"epoch": epochs, "max_epochs": 1000, "epoch_length": 5})
    limit.attach(trainer)
    trainer.run(range(5))
    done = 5 * epochs + skipped + 8  # when the plan is made; 0.8 of what is left then may be steps
    assert limit.planned == limit.scheduler.t_total == int(done + 0.8 * (200 - done)) // 5 * 5
    assert trainer.state.iteration == limit.planned
    assert not limit.over


def test_a_training_ends_when_the_time_is_over():
    limit = TimeLimit(schedule(), minutes=0.05 / 60)
    trainer = trainer_of(0.02)
    limit.attach(trainer)
    trainer.run(range(100), max_epochs=3)
    assert limit.over
    assert trainer.state.iteration < 100
    with pytest.raises(ValueError, match="minutes must be above 0"):
        TimeLimit(schedule(), minutes=0)


def test_weights_on_the_way():
    first = {"w": torch.zeros(2), "n": torch.tensor(3)}
    last = {"w": torch.tensor([4.0, 8.0]), "n": torch.tensor(9)}
    assert moved(first, last, 0.25)["w"].tolist() == [1, 2]
    assert moved(first, last, 1)["w"].tolist() == [4, 8]
    assert moved(first, last, 0.5)["n"] == 9
