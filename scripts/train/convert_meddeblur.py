"""Turn a checkpoint of the authors' code of MedDeblur into weights of this package.

    python scripts/train/convert_meddeblur.py MedDeblur_checkpoint.pth model.pt

They are weights of ``MedDeblur(attention="published", residual=False)``; with ``configs/base.json`` of the bundle
``multimodal_deblur_meddeblur`` over its ``inference.json``, the bundle runs them:

    medrestore evaluate --model published=multimodal_deblur_meddeblur,base.json,model.pt --data DIR ...

Nothing is downloaded. What the authors' terms allow you to do with their weights is yours to check.
"""

import argparse
import sys
from pathlib import Path

import torch

from medrestore_monai.files import atomic_file
from medrestore_monai.networks import MedDeblur
from medrestore_monai.networks.meddeblur_checkpoint import from_published


def convert(source: Path, target: Path) -> None:
    """Convert the checkpoint ``source`` and write ``target``.

    Raises:
        ValueError: it is no such checkpoint, or of another size.
    """
    try:
        state = from_published(torch.load(source, map_location="cpu", weights_only=True))
        MedDeblur(attention="published", residual=False).load_state_dict(state)
    except (RuntimeError, AttributeError) as error:
        raise ValueError(f"{source} is no checkpoint of the authors' MedDeblur: {error}") from error
    with atomic_file(target) as file:
        torch.save(state, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the authors' checkpoint")
    parser.add_argument("target", type=Path, help="the file of weights to write")
    options = parser.parse_args()
    try:
        convert(options.source, options.target)
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
