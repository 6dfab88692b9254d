"""A bundle's card with the sections that the model zoo asks for, made of the card and ``metadata.json``."""

import re

from medrestore_monai.bundles.find import Bundle

# of our cards to the zoo's template; "Use" is about the installed package and is written anew
_PLACES = {
    "Model": "Model Description",
    "Data": "Data",
    "Training": "Data",
    "Results": "Performance",
    "Performance": "Performance",
    "Limits": "Limitations",
    "Limitations": "Limitations",
}
_LEFT_OUT = ("Use", "Export")
_ORDER = ("Model Description", "Data", "Performance", "Additional Usage Steps", "System Configuration", "Limitations")

_USAGE = """\
In this folder, or from any other with the folder on Python's path (`PYTHONPATH`):

    python -m monai.bundle run inference --config_file configs/inference.json --dataset_dir INPUT --output_dir OUTPUT
    python -m monai.bundle run evaluating --config_file "['configs/inference.json','configs/evaluate.json']" \\
      --dataset_dir CLEAN_IMAGES
    python -m monai.bundle run training --config_file configs/train.json --dataset_dir CLEAN_IMAGES

INPUT is a DICOM file or folder, NIfTI, PNG, TIFF, or a folder of these; what is written is of the same kind. The folder
`medrestore_monai` is the source that the configurations name; nothing of it has to be installed. `bundle_root` is found
by itself and can be given: `--bundle_root FOLDER`.

#### **Checks of the zoo**
`verify_metadata` and `verify_net_in_out --net_id network_def` pass. This bundle does not support TorchScript
by `torch.jit.script`: `{name}` belongs to `exclude_verify_torchscript_list` in the zoo's `ci/bundle_custom_data.py`.
"""
_EXPORT = """\
Both exports take the network in its exportable form, `network_export`, and TorchScript by tracing:

    files="--ckpt_file models/model.pt --config_file configs/inference.json --meta_file configs/metadata.json"
    axes="{{'image':{{0:'batch',2:'height',3:'width'}}}}"
    python -m monai.bundle ckpt_export --net_id network_export --filepath models/model.ts $files \\
      --use_trace True --input_shape "[2,{channels},41,70]"
    python -m monai.bundle onnx_export --net_id network_export --filepath models/model.onnx $files \\
      --input_shape "[2,{channels},41,70]" \\
      --converter_kwargs "{{'input_names':['image'],'output_names':['pred'],'dynamic_axes':$axes}}"

Before a traced network of the RWKV family is loaded, `import medrestore_monai.ops.re_wkv_planes` must have made its
operator known; the ONNX file needs nothing but a runtime.
"""
_SYSTEM = """\
Python, PyTorch {pytorch_version}, MONAI {monai_version} and NumPy {numpy_version}, with {packages}; CPU or CUDA.
This form of the bundle carries no compiled code: on a CPU its Bi-WKV operator is pure PyTorch, with the same result but
several times slower than the C kernel, whose source it carries. Where there is a C compiler, this builds the kernel in
the folder, and it is used from then on:

    python medrestore_monai/ops/biwkv/build.py

On CUDA the operator is Triton, which comes with PyTorch.
"""


def zoo_card(bundle: Bundle) -> str:
    """Return ``docs/README.md`` in the order and with the headings of the zoo's template.

    Args:
        bundle: its ``docs/README.md`` has one title, then sections headed by ``##``.
    """
    metadata = bundle.metadata
    title, intro, sections = _split((bundle.root / "docs" / "README.md").read_text(encoding="utf-8"))
    placed: dict[str, list[str]] = {name: [] for name in _ORDER}
    placed["Model Description"].append(intro or str(metadata.get("description", "")))
    placed["Data"].append(f"{metadata.get('data_source', '')}\n\nLicenses: [data_license.txt](data_license.txt).")
    placed["Additional Usage Steps"].append(_USAGE.format(name=bundle.name))
    if "network_export" in bundle.config("inference").read_text(encoding="utf-8"):
        channels = metadata["network_data_format"]["inputs"]["image"]["num_channels"]
        placed["Additional Usage Steps"].append(f"#### **Export**\n{_EXPORT.format(channels=channels)}")
    placed["System Configuration"].append(_system(bundle))
    placed["Limitations"].append(str(metadata.get("intended_use", "")))
    for name, text in sections:
        if name not in _LEFT_OUT:
            place = _PLACES.get(name)
            heading = "" if place in (name, "Model Description", "Performance", "Limitations") else f"#### **{name}**\n"
            placed[place or "Additional Usage Steps"].append(heading + text)
    placed["Data"].append(
        f"#### **Preprocessing**\nInput: {metadata.get('image_classes', 'see metadata.json')}. "
        f"Output: {metadata.get('pred_classes', 'see metadata.json')}."
    )
    body = [f"# {title}", f"### **Authors**\n{metadata.get('authors', '')}", f"### **Tags**\n{_tags(bundle)}"]
    body += [f"## **{name}**\n" + "\n\n".join(part for part in placed[name] if part) for name in _ORDER]
    references = "\n".join(f"- {reference}" for reference in metadata.get("references", []))
    body.append(f"## **References**\n{references}")
    text = "\n\n".join(part.strip() for part in body) + "\n"
    return re.sub(r"\[([^\]]+)\]\(\.\./\.\./[^)]*\)", r"\1", text)  # what links to other bundles leads nowhere


def _split(card: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Return title, introduction, and heading and text of each section."""
    title = ""
    intro: list[str] = []
    sections: list[tuple[str, list[str]]] = []
    fenced = False
    for line in card.splitlines():
        fenced ^= line.startswith("```")
        if line.startswith("# ") and not title and not fenced:
            title = line[2:].strip()
        elif line.startswith("## ") and not fenced:
            sections.append((line[3:].strip(), [""]))
        else:
            (sections[-1][1] if sections else intro).append(line)
    return title, "\n".join(intro).strip(), [(name, "\n".join(lines).strip()) for name, lines in sections]


def _tags(bundle: Bundle) -> str:
    names = [{"PT": "PET", "MR": "MRI"}.get(modality, modality) for modality in bundle.evaluated]
    return ", ".join(("Restoration", *names, str(bundle.metadata["task"])))


def _system(bundle: Bundle) -> str:
    packages = ", ".join(f"{k} {v}" for k, v in bundle.metadata.get("required_packages_version", {}).items())
    versions = {key: bundle.metadata.get(key, "") for key in ("pytorch_version", "monai_version", "numpy_version")}
    return _SYSTEM.format(packages=packages, **versions)
