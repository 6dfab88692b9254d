"""Which bundle ``medrestore restore`` takes if none is named: the safe default of a modality, where there is one."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medrestore_monai.files import UsageError
from medrestore_monai.notes import note

if TYPE_CHECKING:
    from medrestore_monai.bundles import Bundle
    from medrestore_monai.studies import Study

#: One bundle restores all usual images of these modalities; of MR and pictures, it depends on how they were taken.
SAFE = {"CT": "ct_denoise_restore_rwkv", "PT": "pet_synthesis_restore_rwkv"}
#: Of DICOM series that some bundle restores.
READABLE = ("CT", "MR", "PT")
EXAMPLES = {**SAFE, "MR": "mri_superresolution_restore_rwkv", "RGB": "rgb_deblur_mlff_unet"}
_UNKNOWN = "?"


def choose_bundle(source: Path, output: Path, modality: str | None, studies: "Sequence[Study]") -> str:
    """Return the name of the bundle to restore a source with, and note it.

    Args:
        source: as the user gave it.
        output: as the user gave it.
        modality: of images that have no DICOM header, if the user named it.
        studies: what is in the source, listed for :data:`READABLE`.

    Raises:
        UsageError: there is no such modality, or the user must choose; the message has the candidates and an example.
    """
    from medrestore_monai.bundles import DEFAULT_BUNDLE
    from medrestore_monai.bundles.shared_settings import MODALITY

    try:
        named = _UNKNOWN if modality is None else str(MODALITY.check(modality))
    except ValueError as error:
        raise UsageError(str(error)) from None
    found = {_modality_of(study, named) for study in studies if not (study.unfit or study.problem)}
    if not found:
        return DEFAULT_BUNDLE  # nothing can be restored: it says why
    if len(found) == 1 and found <= SAFE.keys():
        (only,) = found
        note(f"no bundle is named: {only} is restored with {SAFE[only]}.")
        return SAFE[only]
    raise UsageError(_question(source, output, sorted(found)))


def _modality_of(study: "Study", named: str) -> str:
    from medrestore_monai.data import is_picture

    if study.series_uid:
        return study.modality
    return "RGB" if named == _UNKNOWN and is_picture(study.path) else named


def _question(source: Path, output: Path, found: Sequence[str]) -> str:
    """Say why the user has to choose, from what, and how."""
    from medrestore_monai.bundles import list_bundles

    if len(found) > 1 and _UNKNOWN not in found:
        return _question_of_several(source, output, found, list_bundles())
    if _UNKNOWN in found:
        which = f"{source} does not state its" if len(found) == 1 else f"files of {source} do not state their"
        reason = f"{which} modality: give `modality=CT` or `modality=PT`, or name a bundle"
    else:
        reason = f"there is no default bundle for {' and '.join(map(_word, found))}: name one"
    wanted = READABLE if _UNKNOWN in found else found
    candidates = {one: sorted(_candidates(list_bundles(), one)) for one in wanted}
    offered = "; ".join(
        f"for {_word(one)} {', '.join(name for *_, name in names)}" for one, names in candidates.items()
    )
    example = EXAMPLES[next(one for one in ("MR", *wanted) if one in wanted)]
    return f"{reason}, {offered}. Example: medrestore restore {source} -o {output} --bundle {example}"


def _question_of_several(source: Path, output: Path, found: Sequence[str], bundles: "Sequence[Bundle]") -> str:
    """Ask for one bundle of all modalities that are there, or for folders of one each."""
    reason = f"{source} holds {' and '.join(map(_word, found))}, which no one bundle restores by default: restore"
    common = [one.name for one in sorted(bundles, key=lambda one: len(one.modalities)) if {*found} <= {*one.modalities}]
    if not common:
        return f"{reason} each from a folder of its own; `--dry-run --bundle NAME` lists what is there"
    example = f"medrestore restore {source} -o {output} --bundle {common[0]}"
    return f"{reason} each from a folder of its own, or all with {' or '.join(common)}. Example: {example}"


def _word(modality: str) -> str:
    return "pictures" if modality == "RGB" else modality


def _candidates(bundles: "Sequence[Bundle]", modality: str) -> list[tuple[int, int, str]]:
    """Bundles that restore a modality, with how far down their list it is and how many there are: the nearest first."""
    return [
        (bundle.modalities.index(modality), len(bundle.modalities), bundle.name)
        for bundle in bundles
        if modality in bundle.modalities
    ]
