"""Lay FDG PET volumes in SUV out as training, validation and test folders, one sub-folder a patient.

    python scripts/prepare_pet_training_data.py SOURCE OUTPUT [--ct CT]

SOURCE holds:

* ``sts_pet_crops``: ``STS_001/PET.nii.gz``, ... in SUV, crops around soft-tissue sarcomas (TCIA Soft-tissue-Sarcoma, as
  in the IBSI's data sets, CC BY 3.0, doi 10.7937/K9/TCIA.2015.7GO2GSKS). Patients train or validate.
* ``pet_fdg_headneck``: one folder of DICOM in Bq/ml a patient (TCIA QIN-HEADNECK, CC BY 3.0 to our knowledge, doi
  10.7937/K9/TCIA.2015.K0F5CGLI). These patients, of another scanner and whole-body, test; they are turned into SUV by
  body weight.

The crops are some 20 cm wide and know neither air nor the noise in the middle of a body. With ``--ct``, a folder as
``prepare_ct_training_data.py`` makes it, PET slices drawn upon these CT slices (``pet_from_ct.py``) train as well.

To load:

    "datalist": {"_target_": "medrestore_monai.layouts.training_slices", "folder": OUTPUT, "part": "train"}

Nothing is downloaded.
"""

from collections.abc import Sequence
from pathlib import Path

import preparing
from pet_from_ct import pet_from_ct

from medrestore_monai.dicom import read_series, suv_factor
from medrestore_monai.layouts import PatientSplit, training_slices


def main(arguments: Sequence[str] | None = None) -> None:
    parser = preparing.parser(__doc__, "folder with the collections' folders")
    parser.add_argument("--validation", type=float, default=0.15, help="of the patients (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    parser.add_argument("--ct", type=Path, help="folder of CT slices to draw PET slices upon")
    parser.add_argument("--drawings", type=int, default=8, help="of each CT slice (default: %(default)s)")
    options = parser.parse_args(arguments)
    crops = sorted((options.source / "sts_pet_crops").glob("*/PET.nii.gz"))
    if not crops:
        raise ValueError(f"{options.source / 'sts_pet_crops'} holds no volumes STS_.../PET.nii.gz.")
    folders = sorted(path for path in (options.source / "pet_fdg_headneck").glob("*") if path.is_dir())
    split = PatientSplit(validation=options.validation, seed=options.seed)
    parts = split.parts_of(path.parent.name for path in crops)
    with preparing.prepared(options.output, training_slices) as output:
        for path in preparing.progress(crops, "crops"):
            patient = path.parent.name
            preparing.put(path, output / parts[patient] / patient / path.name)
        for folder in preparing.progress(folders, "whole-body scans"):
            series = read_series(folder, modality="PT")
            suv = series.array * suv_factor(series.datasets)
            preparing.write_volume(output / "test" / folder.name / "PET.nii.gz", suv, series.affine)
        if options.ct is not None:
            preparing.draw_upon_ct(options.ct, output / "train", pet_from_ct, options.drawings, options.seed)


if __name__ == "__main__":
    preparing.run(main)
