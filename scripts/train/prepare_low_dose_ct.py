"""Turn the low-dose CT pairs of Mayo Clinic, DICOM as downloaded, into pairs of NIfTI volumes in HU.

    python scripts/train/prepare_low_dose_ct.py Training_Image_Data aapm_3mm --pattern "*3mm*" --validation 1 --test 1

Two collections are understood:

* 2016 NIH-AAPM-Mayo Clinic Low Dose CT Grand Challenge, https://www.aapm.org/grandchallenge/lowdosect/, with
  ``full_3mm`` and ``quarter_3mm`` folders. No licence is stated with the images; ask for their terms before weights
  trained on them are passed on. Restore-RWKV divides the 10 patients into 8, 1 and 1.
* LDCT-and-Projection-data of The Cancer Imaging Archive, https://doi.org/10.7937/9npb-2637, with ``Full dose images``
  and ``Low dose images``. Its page states the terms of use, and that the citation is required.

OUTPUT gets ``train``, ``validation`` and ``test``, each with ``LQ/<patient>/<series>.nii.gz`` and ``HQ/...``. To load

    "datalist": {"_target_": "medrestore_monai.data.paired_folders", "folder": "data/aapm_3mm", "part": "train"}

The DICOM folders also load as they are (``medrestore_monai.data.low_dose_ct``); NIfTI is read faster. Nothing is
downloaded.
"""

from collections.abc import Sequence

import numpy as np
import preparing

from medrestore_monai.data import low_dose_ct, paired_folders
from medrestore_monai.dicom import read_series


def main(arguments: Sequence[str] | None = None) -> None:
    parser = preparing.parser(__doc__, "folder with the patients' DICOM folders", split=True)
    parser.add_argument("--pattern", default="*", help="take full-dose folders whose place fits, such as '*3mm*'")
    parser.add_argument("--allow-gaps", action="store_true", help="take series with missing slices, as single slices")
    options = parser.parse_args(arguments)
    slices = low_dose_ct(options.source, "all", options.pattern, allow_gaps=options.allow_gaps)
    pairs = [item for item in slices if item["slice"] == 0]
    parts = preparing.split_of(options).parts_of(item["patient"] for item in pairs)
    with preparing.prepared(options.output, paired_folders) as output:
        for item in preparing.progress(pairs, "series"):
            name = "_".join(item["name"].replace(" ", "_").split("/")) + ".nii.gz"
            for key, side in (("image", "LQ"), ("label", "HQ")):
                series = read_series(item[key], modality="CT", allow_gaps=options.allow_gaps)
                target = output / parts[item["patient"]] / side / item["patient"] / name
                preparing.write_volume(target, np.rint(series.array).astype(np.int16), series.affine)


if __name__ == "__main__":
    preparing.run(main)
