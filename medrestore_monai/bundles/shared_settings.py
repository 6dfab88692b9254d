"""The settings that all bundles have, or all bundles of a modality; see :mod:`medrestore_monai.bundles.settings`."""

from medrestore_monai.bundles.kinds import MODALITIES, Setting

__all__ = ["BACKENDS", "MODALITY", "PRECISIONS", "SHARED"]

PRECISIONS = ("float32", "bfloat16")
BACKENDS = ("torch", "onnx")

MODALITY = Setting("modality", "choice", "of an image that has no DICOM header", choices=MODALITIES)
#: What every bundle has, or every bundle of a modality.
SHARED: tuple[Setting, ...] = (
    Setting(
        "device",
        "text",
        "what runs the network",
        "opening",
        pattern=r"auto|cpu|cuda(:\d+)?|mps",
        form="auto, cpu, cuda, cuda:N or mps",
        recorded=False,
        served=True,
    ),
    Setting(
        "precision", "choice", "of the weights and of what is computed with them", "opening", PRECISIONS, served=True
    ),
    Setting("backend", "choice", "what runs the network: PyTorch, or onnxruntime on the CPU", "opening", BACKENDS),
    Setting("weights", "path", "a file of weights in place of the bundle's", "opening", recorded=False),
    Setting("amp", "bool", "autocast of MONAI's evaluator", "opening"),
    Setting("strength", "float", "0 keeps the input, 1 restores in full", range="[0, 1]"),
    Setting(
        "self_ensemble",
        "choice",
        "orientations of each slice that are restored and averaged; the network runs as many times",
        choices=(1, 2, 4, 8),
    ),
    MODALITY,
    Setting(
        "tile", "int", "side of tiles in pixels; auto: whole slices if they fit", choices=("auto",), range="[1, inf)"
    ),
    Setting("halo", "int", "pixels around a tile that the network sees", range="[0, inf)", served=False),
    Setting("slab", "int", "slices read at a time, 0 for all", range="[0, inf)", recorded=False, served=False),
    Setting(
        "slice_batch_size",
        "int",
        "slices that the network restores at a time",
        range="[1, inf)",
        recorded=False,
        served=False,
    ),
    Setting(
        "series_uid",
        "text",
        "SeriesInstanceUID, where a source holds several series",
        pattern=r"[0-9.]*",
        form="a SeriesInstanceUID, which has digits and dots only",
        recorded=False,
        served=False,
    ),
    Setting("allow_gaps", "bool", "take a series with missing slices", recorded=False, served=False),
    Setting(
        "stack",
        "int",
        "which stack of a DICOM series of several (echoes, phases, time points), from 1; 0 for all",
        range="[0, inf)",
        served=False,
    ),
    Setting("split_series", "bool", "make a series of each stack", served=False),
    Setting(
        "high_bits",
        "choice",
        "values beyond the bits that a DICOM header declares: auto refuses overflow, keep takes them, ignore does not",
        choices=("auto", "keep", "ignore"),
        served=False,
    ),
    Setting(
        "slice_axis",
        "int",
        "axis that the slices of a volume in a file lie across; by default as its header says",
        range="[0, 2]",
    ),
    Setting(
        "hu_offset",
        "float",
        "what is added to the numbers of a file to make them HU: -1024 for stored values, 0 if they are HU",
        modality="CT",
    ),
    Setting("suv_factor", "float", "SUV per unit of the image", range="(0, inf)", modality="PT", key="suv::factor"),
    Setting(
        "patient_weight", "float", "kg, in place of the header's", range="(0, 500]", modality="PT", key="suv::weight"
    ),
    Setting(
        "injected_dose",
        "float",
        "Bq at the time of injection, such as 370e6",
        range="[10000, inf)",
        modality="PT",
        key="suv::dose",
    ),
    Setting(
        "half_life",
        "float",
        "of the radionuclide in seconds, 6586.2 for F-18",
        range="(0, inf)",
        modality="PT",
        key="suv::half_life",
    ),
    Setting(
        "injection_time",
        "text",
        "on the scanner's clock; with its date for long half lives",
        pattern=r"(\d{4}(0[1-9]|1[0-2])([0-2]\d|3[01]))?([01]\d|2[0-3])[0-5]\d[0-5]\d",
        form="HHMMSS or YYYYMMDDHHMMSS",
        modality="PT",
        key="suv::injection_time",
    ),
    Setting(
        "part",
        "choice",
        "of the data set",
        "evaluation",
        ("all", "train", "validation", "calibration", "adaptation", "test"),
        recorded=False,
    ),
    Setting("held_back", "float", "part of the patients that validates", "evaluation", range="(0, 1)"),
    Setting("seed", "int", "of what is drawn", "evaluation", range="[0, inf)"),
)
