"""Medical image restoration as MONAI bundles.

A picture flows one way: read, degrade (training), network, infer, write, report.

- ``intensity``: what a voxel value means; to the range [0, 1] and back without loss.
- ``dicom``, ``images``: read a series or an image file and check it; write the same kind on the same grid.
- ``transforms``: the degradations, as MONAI transforms.
- ``ops``, ``networks``: tensor operators PyTorch lacks, and the networks built from them.
- ``inferers``, ``losses``, ``metrics``, ``engines``: what MONAI and Ignite lack.
- ``restore``, ``evaluate``, ``report``: run a bundle on images, score it, show it.
- ``bundles``, ``cli``: find and check bundles; the ``medrestore`` command.

Importing this package imports nothing heavy, compiles nothing and prints nothing.
For research only: not a medical device.
"""

__version__ = "0.1.0"
