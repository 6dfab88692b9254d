"""The real CT series that ships, and what ``medrestore demo`` does with it; its source and license are in README.md."""

from medrestore_monai.demo.run import ARCHIVE, run_demo

__all__ = ["ARCHIVE", "run_demo"]
