"""Training that is killed at any moment goes on, keeps its best weights, and never loses a file."""

import json

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from medrestore_monai import engines
from medrestore_monai.engines import BestWeights, TrainingState, write_atomically


class Training:
    """A network of one number, which every iteration adds one to; the score of an epoch is given."""

    def __init__(self, folder, scores, max_epochs, resume=True, network=None):
        self.network = network or nn.Linear(1, 1, bias=False)
        if network is None:
            nn.init.zeros_(self.network.weight)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.5)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, gamma=0.5)
        self.best = BestWeights(self.network, folder / "model.pt", "PSNR")
        objects = {"network": self.network, "optimizer": self.optimizer, "scheduler": self.scheduler, "best": self.best}
        self.evaluator = Engine(lambda *_: None)
        self.trainer = Engine(self.step)
        self.trainer.state.max_epochs = max_epochs
        self.trainer.state.epoch_length = 2
        self.epochs = []
        self.scores = scores
        self.best.attach(self.evaluator)
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self.validate)
        TrainingState(folder / "state.pt", objects, resume).attach(self.trainer)

    def step(self, engine, batch):
        with torch.no_grad():
            self.network.weight += 1
        self.optimizer.step()

    def validate(self, engine):
        self.scheduler.step()
        self.epochs.append(engine.state.epoch)
        self.evaluator.state.metrics = {"PSNR": self.scores[engine.state.epoch - 1]}
        self.evaluator.fire_event(Events.COMPLETED)

    def run(self):
        self.trainer.run([0, 0], max_epochs=self.trainer.state.max_epochs)
        return self


def kept(folder):
    """The weight of the best network, and the score beside it."""
    weight = torch.load(folder / "model.pt", weights_only=True)["weight"].item()
    return weight, json.loads((folder / "model.json").read_text())["PSNR"]


def test_a_resumed_training_is_as_one_that_never_stopped(tmp_path):
    scores = [20.0, 30.0, 25.0, 28.0]
    whole = Training(tmp_path / "whole", scores, 4).run()
    for stop in (1, 3, 4):
        resumed = Training(tmp_path / "parts", scores, stop).run()
    assert whole.epochs == [1, 2, 3, 4]
    assert resumed.epochs == [4]
    assert resumed.network.weight.item() == whole.network.weight.item() == 8
    assert resumed.scheduler.get_last_lr() == whole.scheduler.get_last_lr() == [0.5**5]
    assert resumed.best.score == 30
    assert kept(tmp_path / "parts") == kept(tmp_path / "whole") == (4, 30)


def test_the_best_weights_outlive_a_resume_and_a_nan(tmp_path):
    Training(tmp_path, [float("nan"), 30.0], 2).run()
    assert kept(tmp_path) == (4, 30)
    Training(tmp_path, [0.0, 0.0, 29.0, float("nan")], 4).run()
    assert kept(tmp_path) == (4, 30)
    Training(tmp_path, [0.0, 0.0, 0.0, 0.0, 31.0], 5).run()
    assert kept(tmp_path) == (10, 31)


def test_a_finished_training_is_not_run_again(tmp_path):
    Training(tmp_path, [1.0, 2.0], 2).run()
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(ValueError, match="has done 2 epochs; set max_epochs to more"):
        Training(tmp_path, [1.0, 2.0], 2)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_a_training_that_may_not_be_resumed_is_not_lost(tmp_path):
    Training(tmp_path, [1.0], 1).run()
    with pytest.raises(FileExistsError, match="holds a training run"):
        Training(tmp_path, [1.0, 2.0], 2, resume=False)


def test_the_state_of_another_training_is_refused(tmp_path):
    Training(tmp_path, [1.0], 1).run()
    with pytest.raises(ValueError, match="no state of this training"):
        Training(tmp_path, [1.0, 2.0], 2, network=nn.Linear(3, 4))
    (tmp_path / "state.pt").write_bytes(b"cut short")
    with pytest.raises(ValueError, match="no state of this training"):
        Training(tmp_path, [1.0, 2.0], 2)


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_is_cut_short_keeps_the_old_file(tmp_path, monkeypatch, stop):
    path = tmp_path / "new" / "state.pt"
    write_atomically({"epoch": 1}, path)

    def cut_short(state, file):
        file.write(b"half of it")
        raise stop

    monkeypatch.setattr(engines.torch, "save", cut_short)
    with pytest.raises(type(stop)):
        write_atomically({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [file.name for file in path.parent.iterdir()] == ["state.pt"]


def test_only_the_first_of_several_processes_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(engines.idist, "get_rank", lambda: 1)
    write_atomically({"epoch": 1}, tmp_path / "state.pt")
    assert list(tmp_path.iterdir()) == []
