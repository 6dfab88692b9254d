"""Medical image restoration as MONAI bundles.

A picture flows one way: read, degrade (training), network, infer, write, report.

- ``intensity``: what a voxel value means; to the range [0, 1] and back without loss.
- ``dicom``, ``images``: read a series or an image file and check it; write the same kind on the same grid.
- ``data``: which images there are, how one is read, and where a result is written; ``files``: whole or not at all.
- ``transforms``: the degradations, as MONAI transforms.
- ``ops``, ``networks``: tensor operators PyTorch lacks, and the networks built from them.
- ``inferers``, ``losses``, ``metrics``, ``engines``: what MONAI and Ignite lack.
- ``bundles``: find, check and package bundles, and load their weights.
- ``restorer``, ``degrader``: run a bundle, or a degradation, on images; ``studies``: on many studies.
- ``evaluate``, ``report``: score, and show the scores.
- ``cli``: the ``medrestore`` command; ``label_app``: MONAI Label.

Importing this package imports nothing heavy, compiles nothing and prints nothing.
For research only: not a medical device.
"""

__version__ = "0.1.0"
