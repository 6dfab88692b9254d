"""Restore-RWKV-routing (Yang et al., arXiv 2407.11087, section 5.4): one network for several tasks and modalities."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medrestore_monai.networks.restore_rwkv.network import LEVELS, RestoreRWKV
from medrestore_monai.networks.routing import ChannelRouting, RoutingPrompt, SpatialRouting


class RestoreRWKVRouting(RestoreRWKV):
    """Restore-RWKV with the task-adaptive routing of AMIR; what the task is, is read from the degraded image.

    Pixels choose their experts at the beginning of the three encoder levels; channels are scaled and shifted at the
    beginning of the latent and of each decoder level. The defaults have 24.90 million parameters; the paper has 24.85
    and does not say how many channels are left. The light one, ``dim=16, num_blocks=(1, 2, 2, 2),
    num_refinement_blocks=1, prompt_channels=64, prompt_width=16``, has 1.38 million.

    In training, ``forward`` returns the restored images and the balance loss, a scalar that a loss takes, see
    :class:`~medrestore_monai.losses.BalancedLoss`; in evaluation, the images alone.

    Args:
        in_channels: see :class:`RestoreRWKV`, as the next six.
        out_channels: see there.
        dim: see there.
        num_blocks: see there.
        num_refinement_blocks: see there.
        recurrences: see there.
        use_checkpoint: see there.
        prompt_channels: length of the prompt.
        prompt_entries: entries of the dictionary that prompts are mixed from.
        prompt_width: channels of the first of the convolutions that weigh the entries.
        experts: experts of each encoder level.
        chosen: how many of them a pixel takes.
        context: see :class:`RestoreRWKV`; the prompt is read from the middle slice alone.
        bias: see :class:`RestoreRWKV`.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        dim: int = 44,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        recurrences: int = 2,
        use_checkpoint: bool = False,
        prompt_channels: int = 256,
        prompt_entries: int = 16,
        prompt_width: int = 32,
        experts: int = 4,
        chosen: int = 2,
        context: int = 0,
        bias: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            dim,
            num_blocks,
            num_refinement_blocks,
            recurrences,
            use_checkpoint,
            context=context,
            bias=bias,
        )
        self.prompt = RoutingPrompt(in_channels, prompt_channels, prompt_entries, prompt_width)
        self.spatial_routing = nn.ModuleList(
            SpatialRouting(dim * 2**level, prompt_channels, experts, chosen) for level in range(LEVELS - 1)
        )
        # of the decoder levels, the finest first, and of the latent
        widths = [2 * dim, 2 * dim, 4 * dim, 8 * dim]
        self.channel_routing = nn.ModuleList(ChannelRouting(width, prompt_channels) for width in widths)

    # training asks for the balance loss too
    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
        """Restore a batch.

        Args:
            x: degraded images scaled to [0, 1], see :meth:`RestoreRWKV.forward`.

        Returns:
            Restored images, see there; in training, they and the balance loss, see
            :func:`~medrestore_monai.networks.routing.balance_loss`, summed over the levels.

        Raises:
            ValueError: the input is not such a batch.
        """
        prompts: list[Tensor] = []
        balances: list[Tensor] = []

        def enter(features: Tensor, level: int, decoding: bool) -> Tensor:
            if not prompts:  # the input has been checked by now
                prompts.append(self.prompt(self.middle(x).to(self.embed.weight.dtype)))
            if decoding or level == LEVELS - 1:
                return self.channel_routing[level](features, prompts[0])
            features, balance = self.spatial_routing[level](features, prompts[0])
            balances.append(balance)
            return features

        restored = self._restore(x, enter)
        return (restored, torch.stack(balances).sum()) if self.training else restored

    def exportable(self) -> nn.Module:
        """Return the network in the form for exporters, see :meth:`RestoreRWKV.exportable`."""
        from medrestore_monai.networks.restore_rwkv.routing_planes import RestoreRWKVRoutingPlanes
        from medrestore_monai.ops import re_wkv_onnx

        re_wkv_onnx.register()
        return RestoreRWKVRoutingPlanes(self).eval()
