"""Training that is killed at any moment goes on, keeps its best weights, and never loses a file."""

import json
import random
import signal
import time
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from medrestore_monai.engines import BestWeights, EarlyStop, TrainingState, state, write_atomically


class Training:
    """A network of one number, which every iteration adds one to; the score of an epoch is given."""

    def __init__(self, folder, scores, max_epochs, resume=True, network=None, patience=100):
        self.network = network or nn.Linear(1, 1, bias=False)
        if network is None:
            nn.init.zeros_(self.network.weight)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.5)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, gamma=0.5)
        self.best = BestWeights(self.network, folder / "model.pt", "PSNR")
        self.evaluator = Engine(lambda *_: None)
        self.trainer = Engine(self.step)
        self.trainer.scaler = torch.amp.GradScaler("cpu", growth_interval=2)
        self.trainer.state.max_epochs = max_epochs
        self.trainer.state.epoch_length = 2
        self.stop = EarlyStop(patience, lambda engine: engine.state.metrics["PSNR"], self.trainer)
        objects = {"network": self.network, "optimizer": self.optimizer, "scheduler": self.scheduler}
        objects |= {"best": self.best, "early_stop": self.stop}
        self.epochs, self.drawn = [], []
        self.scores = scores
        self.best.attach(self.evaluator)
        self.stop.attach(self.evaluator)
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self.validate)
        TrainingState(folder / "state.pt", objects, resume).attach(self.trainer)

    def step(self, engine, batch):
        self.drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.network.weight += 1
        self.trainer.scaler.scale(self.network.weight.sum()).backward()
        self.trainer.scaler.step(self.optimizer)
        self.trainer.scaler.update()

    def validate(self, engine):
        self.scheduler.step()
        self.epochs.append(engine.state.epoch)
        self.evaluator.state.metrics = {"PSNR": self.scores[engine.state.epoch - 1]}
        self.evaluator.fire_event(Events.EPOCH_COMPLETED)
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
        random.seed(stop)
        np.random.seed(stop)
        torch.manual_seed(stop)
        resumed = Training(tmp_path / "parts", scores, stop).run()
    assert whole.epochs == [1, 2, 3, 4]
    assert resumed.epochs == [4]
    assert resumed.drawn == whole.drawn[-2:]
    assert len(set(whole.drawn)) == 8
    assert resumed.network.weight.item() == whole.network.weight.item()
    assert resumed.scheduler.get_last_lr() == whole.scheduler.get_last_lr() == [0.5**5]
    assert resumed.trainer.scaler.get_scale() == whole.trainer.scaler.get_scale() == 2.0**20
    assert resumed.best.score == 30
    assert kept(tmp_path / "parts") == kept(tmp_path / "whole")


def test_the_best_weights_outlive_a_resume_and_a_nan(tmp_path):
    Training(tmp_path, [float("nan"), 30.0], 2).run()
    best = kept(tmp_path)
    assert best[1] == 30
    Training(tmp_path, [0.0, 0.0, 29.0, float("nan")], 4).run()
    assert kept(tmp_path) == best
    Training(tmp_path, [0.0, 0.0, 0.0, 0.0, 31.0], 5).run()
    assert kept(tmp_path)[1] == 31


def test_weights_that_are_newer_than_the_state_are_not_replaced_by_worse_ones(tmp_path):
    Training(tmp_path, [20.0], 1).run()
    state = (tmp_path / "state.pt").read_bytes()
    Training(tmp_path, [20.0, 30.0], 2).run()
    best = kept(tmp_path)
    (tmp_path / "state.pt").write_bytes(state)  # as if killed before the second epoch's was saved
    Training(tmp_path, [20.0, 29.9], 2).run()  # the same epoch again, on a device that rounds differently
    assert kept(tmp_path) == best == (best[0], 30)


def test_a_score_without_its_weights_does_not_count(tmp_path):
    Training(tmp_path, [20.0], 1).run()
    note = {"PSNR": 30.0, "sha256": "of weights that were never written"}
    (tmp_path / "model.json").write_text(json.dumps(note))  # as if killed between both files
    Training(tmp_path, [20.0, 29.0], 2).run()
    assert kept(tmp_path)[1] == 29


def test_early_stopping_goes_on_counting(tmp_path):
    scores = [30.0, 29.0, 28.0, 27.0, 26.0, 25.0]
    whole = Training(tmp_path / "whole", scores, 6, patience=3).run()
    for stop in (2, 3):
        Training(tmp_path / "parts", scores, stop, patience=3).run()
    resumed = Training(tmp_path / "parts", scores, 6, patience=3).run()
    assert whole.epochs[-1] == resumed.epochs[-1] == 4


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


def test_processes_that_find_different_states_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("ignite.distributed.all_gather", lambda epoch: [epoch, 7.0])
    with pytest.raises(ValueError, match=r"every process must find the same .*state\.pt; .* epochs \[0, 7\]"):
        Training(tmp_path, [1.0], 1)


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_is_cut_short_keeps_the_old_file(tmp_path, monkeypatch, stop):
    path = tmp_path / "new" / "state.pt"
    write_atomically({"epoch": 1}, path)

    def cut_short(state, file):
        file.write(b"half of it")
        raise stop

    monkeypatch.setattr(state.torch, "save", cut_short)
    with pytest.raises(type(stop)):
        write_atomically({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [file.name for file in path.parent.iterdir()] == ["state.pt"]


def _save_again_and_again(path):
    number = 0
    while True:
        number += 1
        write_atomically({"number": number, "values": torch.full((1_000_000,), float(number))}, path)


@pytest.mark.slow
def test_a_process_killed_while_it_saves_leaves_a_whole_file(tmp_path):
    path, cut = tmp_path / "state.pt", 0
    draw = random.Random(0)
    for _ in range(10):
        process = get_context("fork").Process(target=_save_again_and_again, args=(path,))
        process.start()
        while not path.exists():
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        cut += path.with_name(".state.pt.part").exists()
        state = torch.load(path, weights_only=True)
        assert torch.equal(state["values"], torch.full((1_000_000,), float(state["number"])))
    assert cut > 0  # some were killed in the middle of it


def test_only_the_first_of_several_processes_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    Training(tmp_path, [1.0], 1).run()
    assert list(tmp_path.iterdir()) == []


def spoiled(training):
    """Let each step leave weights that are not finite."""
    step = training.step

    def spoil(engine, batch):
        step(engine, batch)
        with torch.no_grad():
            training.network.weight.fill_(float("nan"))

    training.trainer._process_function = spoil
    return training


def test_weights_that_are_not_finite_end_the_run_and_are_not_saved(tmp_path):
    Training(tmp_path, [1.0, 2.0, 3.0], max_epochs=1).run()
    saved = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(ValueError, match=r"no longer finite at step 4; .* holds the last good epoch. .* learning_rate"):
        spoiled(Training(tmp_path, [1.0, 2.0, 3.0], max_epochs=3)).run()
    assert (tmp_path / "state.pt").read_bytes() == saved


def test_weights_that_are_not_finite_end_a_long_epoch_soon(tmp_path):
    training = spoiled(Training(tmp_path, [1.0], max_epochs=1))
    training.trainer.state.epoch_length = 100
    with pytest.raises(ValueError, match="no longer finite at step 20; no epoch was finished"):
        training.trainer.run([0] * 100, max_epochs=1)
    assert not (tmp_path / "state.pt").exists()
