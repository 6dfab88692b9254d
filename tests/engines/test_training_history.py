"""The table has one row for each epoch, the curves and pictures show it, and a resumed run goes on with both."""

import csv
import logging

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medrestore_monai.engines import ProgressBar, TrainingHistory
from medrestore_monai.engines.history import side_by_side


def images(value):
    """A degraded, a restored and a clean image of 4 columns and 5 rows, the last from 0 to 200."""
    clean = torch.zeros(1, 4, 5)
    clean[0, 3, 0] = 200.0
    return {"image": clean + 300, "pred": clean + value, "label": clean}


def run(folder, epochs, history=None, validations=5):
    """Train for some epochs; returns the history to go on with."""
    evaluator = Engine(lambda engine, value: [images(value)])
    trainer = Engine(lambda engine, batch: {"loss": 1.0})
    trainer.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    followed = TrainingHistory(folder)
    if history is not None:
        followed.load_state_dict(history.state_dict())
        trainer.load_state_dict({"epoch": len(followed.rows), "epoch_length": 2, "max_epochs": epochs})

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine):
        engine.state.metrics = {"loss": torch.tensor(1 / engine.state.epoch), "map": np.zeros((2, 2))}
        if engine.state.epoch % 2 == 0:
            # as MONAI's evaluators count
            evaluator.state.epoch, evaluator.state.iteration = engine.state.epoch - 1, 0
            evaluator.state.max_epochs, evaluator.state.metrics = (
                engine.state.epoch,
                {"PSNR": 30.0 + engine.state.epoch},
            )
            evaluator.run([float(number) for number in range(validations)], max_epochs=engine.state.epoch)

    followed.attach(trainer, evaluator)
    trainer.run([0, 0], max_epochs=epochs)
    return followed


def table(folder):
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def board(folder):
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    return found.Reload()


def test_a_table_curves_and_pictures_go_on_without_a_second_row(tmp_path):
    first = run(tmp_path, 2)
    lost = TrainingHistory(tmp_path)
    lost.load_state_dict({"rows": first.rows})
    run(tmp_path, 3, history=lost)  # killed before its state was saved
    run(tmp_path, 4, history=first)
    rows = table(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["PSNR"] for row in rows] == ["", "32.0", "", "34.0"]
    assert [float(row["loss"]) for row in rows] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert {row["learning_rate"] for row in rows} == {"0.5"}
    assert list(rows[0]) == ["epoch", "learning_rate", "loss", "PSNR", "seconds"]

    shown = board(tmp_path)
    assert [event.step for event in shown.Scalars("loss")] == [1, 2, 3, 4]
    assert [(event.step, event.value) for event in shown.Scalars("PSNR")] == [(2, 32), (4, 34)]
    assert len(shown.Tags()["images"]) == 3
    for tag in shown.Tags()["images"]:
        assert [(event.step, event.width, event.height) for event in shown.Images(tag)] == [(2, 12, 5), (4, 12, 5)]


@pytest.mark.parametrize("validations", [1, 2])
def test_few_validation_images_are_shown_once_each(tmp_path, validations):
    run(tmp_path, 2, validations=validations)
    assert len(board(tmp_path).Tags()["images"]) == validations


def test_images_stand_side_by_side_in_the_range_of_the_clean_one():
    picture = side_by_side([images(value=50.0)])
    assert picture.shape == (1, 5, 12)
    degraded, restored, clean = picture[0].split(4, dim=1)
    assert (degraded == 1).all()
    assert restored[1, 0] == 0.25  # 50 of 200
    assert clean[0, 3] == 1  # column 3 of row 0
    assert clean.sum() == 1
    batch = {key: torch.rand(2, 3, 6, 4) for key in ("image", "pred", "label")}
    assert side_by_side(batch).shape == (3, 4, 18)
    volume = {key: torch.rand(2, 1, 6, 4, 5) for key in ("image", "pred", "label")}
    assert side_by_side(volume).shape == (1, 4, 18)
    slab = {"image": torch.arange(5.0)[None, :, None, None].expand(1, 5, 6, 4), "pred": torch.full((1, 1, 6, 4), 2.0)}
    slab["label"] = torch.linspace(0, 4, 24).reshape(1, 1, 6, 4)
    assert bool((side_by_side(slab)[0, :, :12] == 0.5).all())


def test_without_tensorboard_the_table_is_still_written(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("medrestore_monai.engines.history.find_spec", lambda name: None)
    run(tmp_path, 2)
    assert "tensorboard is not installed" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["history.csv"]


def test_only_the_first_of_several_processes_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    assert len(run(tmp_path, 2).rows) == 2
    assert list(tmp_path.iterdir()) == []


def follow(bar, epochs=3, length=4):
    engine = Engine(lambda engine, batch: {"loss": torch.tensor(0.5)})
    texts = []
    bar.attach(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: texts.append(bar.text(engine)))
    engine.run(range(length), max_epochs=epochs)
    return texts


def test_without_a_terminal_lines_are_logged_now_and_then(tmp_path, caplog, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr("medrestore_monai.engines.progress.time.monotonic", lambda: 5.0 * next(clock))
    with caplog.at_level(logging.INFO), (tmp_path / "out").open("w") as file:
        texts = follow(ProgressBar(every=30, console=Console(file=file)))
    lines = [record.message for record in caplog.records if record.name.endswith("progress")]
    assert 2 <= len(lines) < 12
    assert lines[0].startswith("training, epoch 1 of 3: ")
    assert "loss 0.5" in lines[0]
    assert (tmp_path / "out").read_text() == ""
    # 12 iterations in all: no time is left after the last, and 8 times that of one after the fourth
    assert texts[-1].startswith("4/4, ")
    assert ", 0:00:00 left" in texts[-1]


def test_a_terminal_shows_a_bar_that_is_gone_at_the_end_of_an_epoch(tmp_path):
    with (tmp_path / "out").open("w") as file:
        bar = ProgressBar(console=Console(file=file, force_terminal=True, width=100))
        follow(bar)
        assert bar._bar is None
    shown = (tmp_path / "out").read_text()
    assert "epoch 1 of 3" in shown
    assert "4/4" in shown
    assert shown.count("\x1b[?25h") == shown.count("\x1b[?25l") == 3  # the cursor is hidden and comes back
