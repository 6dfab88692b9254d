"""What MONAI's and Ignite's handlers leave open: training that can be killed at any moment, repeated, and followed."""

from medrestore_monai.engines.best import BestWeights, EarlyStop
from medrestore_monai.engines.fine_tuning import Anchor, ClipGradients, TimeLimit, trained_parameters
from medrestore_monai.engines.gan import RestorationGanTrainer
from medrestore_monai.engines.history import TrainingHistory
from medrestore_monai.engines.loader import EpochSampler, SeededLoader, derived_seed
from medrestore_monai.engines.progress import ProgressBar
from medrestore_monai.engines.state import TrainingState, write_atomically

__all__ = [
    "Anchor",
    "BestWeights",
    "ClipGradients",
    "EarlyStop",
    "EpochSampler",
    "ProgressBar",
    "RestorationGanTrainer",
    "SeededLoader",
    "TimeLimit",
    "TrainingHistory",
    "TrainingState",
    "derived_seed",
    "trained_parameters",
    "write_atomically",
]
