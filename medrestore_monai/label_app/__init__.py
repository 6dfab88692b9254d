"""The MONAI Label app: every bundle as an image-to-image task of ``monailabel start_server``.

``main.py`` is what MONAI Label loads, from this folder; ``tasks`` runs one bundle on one image, ``options`` checks what
a client may set, ``results`` writes what goes back, ``dicomweb`` fetches a series and stores the derived one;
``received``, ``stores`` and ``endpoints`` keep clients from files, writes and endpoints that they have no use for.
``slicer_load.py`` is a script for 3D Slicer and imports nothing of this package. Only ``main`` and ``tasks`` import
MONAI Label, which lives in an environment of its own (``scripts/setup/label_env.sh``).
"""
