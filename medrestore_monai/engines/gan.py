"""MONAI's training of two networks against each other, for a generator that restores images."""

from collections.abc import Callable
from typing import Any

import ignite.distributed as idist
import torch
from monai.engines import GanTrainer
from monai.engines.utils import IterationEvents, default_prepare_batch
from monai.utils import GanKeys
from monai.utils.enums import CommonKeys
from torch import Tensor


class RestorationGanTrainer(GanTrainer):
    """MONAI's ``GanTrainer``, whose generator is shown the degraded image in the place of random numbers.

    ``GanTrainer`` knows no degraded image, and shows its generator's loss no clean one. Nothing else is changed: for
    each batch, ``d_train_steps`` steps of the discriminator and then one of the generator. The output has the
    generator's loss as ``loss`` too and is decollated, so that handlers made for ``SupervisedTrainer`` fit.

    Both networks, both optimizers and their schedulers belong into the objects of
    :class:`~medrestore_monai.engines.TrainingState`.

    Args:
        g_optimizer: of the generator; its learning rate is the one that is recorded.
        g_loss_function: of restored and clean images, such as
            :class:`~medrestore_monai.losses.WassersteinGeneratorLoss`.
        options: as of ``GanTrainer``; ``d_loss_function`` is given the restored and the clean images too, such as
            :class:`~medrestore_monai.losses.WassersteinDiscriminatorLoss`.

    Raises:
        RuntimeError: several processes train together; their discriminators would differ.
    """

    def __init__(
        self, *, g_optimizer: torch.optim.Optimizer, g_loss_function: Callable[[Tensor, Tensor], Tensor], **options: Any
    ) -> None:
        if idist.get_world_size() > 1:
            raise RuntimeError("adversarial training runs in one process only.")
        super().__init__(
            g_optimizer=g_optimizer,
            g_loss_function=self._generator_loss,
            d_prepare_batch=self._prepare,
            g_prepare_batch=self._degraded,
            g_update_latents=False,
            **options,
        )
        self.optimizer = g_optimizer  # where TrainingHistory looks for the learning rate
        self._loss = g_loss_function
        self._pair: tuple[Tensor, Tensor]

    def _iteration(self, engine: Any, batchdata: Any) -> Any:
        engine.state.output = super()._iteration(engine, batchdata)
        engine.state.output[CommonKeys.LOSS] = engine.state.output[GanKeys.GLOSS]
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _prepare(self, batchdata: Any, device: Any, non_blocking: bool, **options: Any) -> Tensor:
        """Keep the batch's degraded and clean images for the other two, and return the clean ones."""
        degraded, clean = default_prepare_batch(batchdata, device, non_blocking, **options)
        if clean is None:
            raise ValueError("each batch must have degraded images, 'image', and clean ones, 'label'.")
        self._pair = (degraded, clean)
        return clean

    def _degraded(self, **_: Any) -> Tensor:
        return self._pair[0]

    def _generator_loss(self, restored: Tensor) -> Tensor:
        return self._loss(restored, self._pair[1])
