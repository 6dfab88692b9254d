"""What a training run has done so far: a table, curves and pictures."""

import csv
import io
import logging
import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from medrestore_monai.files import atomic_file

logger = logging.getLogger(__name__)


class TrainingHistory:
    """Write losses and scores of every epoch to ``history.csv`` and TensorBoard, and pictures to the latter.

    Attach it before :class:`~medrestore_monai.engines.TrainingState` and make it one of its objects: the rows are part
    of the state, so that a resumed run continues the table and no epoch stands there twice. TensorBoard is left out,
    with a warning, where it is not installed. Of several processes, only the first one writes.

    MONAI's ``TensorBoardImageHandler`` scales each image by its own range and shows the last one only; here degraded,
    restored and clean stand side by side, in the range of the clean one.

    Args:
        output_dir: folder for ``history.csv`` and the folder ``tensorboard``.
        pictures: how many validation images are shown, spread over all of them.
    """

    def __init__(self, output_dir: str | os.PathLike[str], pictures: int = 3) -> None:
        self.folder = Path(output_dir)
        self.pictures = pictures
        self.rows: list[dict[str, float]] = []
        self._row: dict[str, float] = {}
        self._scores: dict[str, float] = {}
        self._began = 0.0
        self._board: Any = None

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the rows of an earlier run."""
        self.rows = list(state["rows"])

    def attach(self, trainer: Engine, evaluator: Engine) -> None:
        """Follow a trainer and the evaluator that its epochs run; each row has the scalars among their metrics."""
        trainer.add_event_handler(Events.EPOCH_STARTED, self._begin)
        evaluator.add_event_handler(Events.COMPLETED, self._take_scores)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._record)
        if idist.get_rank() > 0:
            return
        if find_spec("tensorboard") is None:
            logger.warning("no curves and pictures are written: the package tensorboard is not installed.")
            return
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._show)
        trainer.add_event_handler(Events.COMPLETED, self._close)

    def _begin(self, trainer: Engine) -> None:
        self._began = time.monotonic()
        self._scores = {}
        self._row = {"epoch": trainer.state.epoch}
        optimizer = getattr(trainer, "optimizer", None)
        if optimizer is not None:
            self._row["learning_rate"] = float(optimizer.param_groups[0]["lr"])

    def _take_scores(self, evaluator: Engine) -> None:
        self._scores = _scalars(evaluator.state.metrics)

    def _record(self, trainer: Engine) -> None:
        seconds = round(time.monotonic() - self._began, 3)
        row = {**self._row, **_scalars(trainer.state.metrics), **self._scores, "seconds": seconds}
        self.rows.append(row)
        if idist.get_rank() > 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.folder / "history.csv", single_writer=True) as file:
            file.write(_as_csv(self.rows).encode())
        if find_spec("tensorboard") is not None:
            board = self._open(trainer.state.epoch)
            for name, value in row.items():
                if name != "epoch":
                    board.add_scalar(name, value, trainer.state.epoch)
            board.flush()

    def _show(self, evaluator: Engine) -> None:
        length = evaluator.state.epoch_length
        places = sorted({1 + number * length // self.pictures for number in range(self.pictures)})
        if evaluator.state.iteration in places:
            picture = side_by_side(evaluator.state.output)
            name = f"degraded, restored, clean/{places.index(evaluator.state.iteration) + 1}"
            self._open(evaluator.state.epoch).add_image(name, picture, evaluator.state.epoch)

    def _open(self, epoch: int) -> Any:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            # hides what a run that was killed has written of this epoch
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=epoch)
        return self._board

    def _close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None


def side_by_side(output: Any) -> Tensor:
    """Put the first degraded, restored and clean image of an evaluator's output side by side, in the clean one's range.

    Args:
        output: as of MONAI's ``SupervisedEvaluator``: dictionaries with ``image``, ``pred`` and ``label`` of shape
            ``(C, X, Y[, Z])``, or one with batches of them; an image may hold neighboring slices as channels.

    Returns:
        A picture in [0, 1], shape ``(1 or 3, Y, 3 * X)``: of images with other than three channels, the middle channel;
        of volumes, the middle slice.
    """
    images = [output[0][key] if isinstance(output, list) else output[key][0] for key in ("image", "pred", "label")]
    images = [torch.as_tensor(image).detach().float().cpu() for image in images]
    images = [image[..., image.shape[-1] // 2] if image.ndim == 4 else image for image in images]
    color = len(images[2]) == 3
    images = [image if color else image[len(image) // 2][None] for image in images]
    low, high = images[2].min(), images[2].max()
    scaled = [(image - low) / (high - low).clamp(min=1e-12) for image in images]
    return torch.cat(scaled, dim=1).mT.clamp(0, 1)


def _scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    found = {name: torch.as_tensor(value) for name, value in metrics.items() if isinstance(value, int | float | Tensor)}
    return {name: float(value) for name, value in found.items() if value.numel() == 1}


def _as_csv(rows: list[dict[str, float]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "seconds"))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, "seconds"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
