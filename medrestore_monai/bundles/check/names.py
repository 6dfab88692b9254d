"""The names that a bundle's configurations may call: a list of what is allowed, never of what is not.

A name must stand in the list, and what it means in the installed MONAI, PyTorch, Ignite or NumPy must be defined
there too: ``monai.transforms.io.array.os.system`` begins well but is not part of MONAI.
"""

import enum
import importlib
import inspect
from functools import cache
from typing import Any

from medrestore_monai.bundles.moved import reason_moved

# every public class and function below these modules
FAMILIES = (
    *(f"monai.{part}" for part in ("transforms", "networks", "losses", "metrics", "inferers", "handlers", "engines")),
    *(f"monai.{part}" for part in ("optimizers", "data", "visualize", "utils.enums")),
    *(f"monai.apps.{part}" for part in ("detection", "pathology", "generation", "deepedit", "deepgrow", "nuclick")),
    *(f"monai.apps.{part}" for part in ("reconstruction", "vista3d")),
    *("torch.nn", "torch.optim", "ignite.metrics"),
    *(f"medrestore_monai.{part}" for part in ("data", "dicom", "engines", "images", "inferers", "intensity")),
    *(f"medrestore_monai.{part}" for part in ("losses", "metrics", "networks", "transforms", "audit.limit")),
)

_NUMPY = (
    "abs allclose any all arange argmax argmin argsort array asarray ascontiguousarray bool_ broadcast_to ceil clip "
    "concatenate cos deg2rad diff dot e exp expand_dims eye float16 float32 float64 floor full inf int16 int32 int64 "
    "int8 isfinite isnan linspace log log10 log2 max maximum mean median min minimum moveaxis nan ndarray newaxis "
    "ones ones_like percentile pi prod quantile rad2deg ravel repeat reshape round sign sin sqrt squeeze stack std "
    "sum tan tile transpose uint16 uint32 uint64 uint8 unique var where zeros zeros_like"
)
_TORCH = (
    "Generator Size Tensor abs amax amin arange argmax argmin argsort as_tensor bfloat16 bool cat channels_last "
    "channels_last_3d clamp cos device double empty exp eye float float16 float32 float64 flip full half inf int int16 "
    "int32 int64 int8 is_tensor isfinite linspace log long max maximum mean median min minimum nan no_grad ones "
    "ones_like permute pi randn rand round sigmoid sin softmax sqrt squeeze stack std sum tanh tensor uint8 unique "
    "unsqueeze var where zeros zeros_like"
)
_DISTRIBUTED = (
    "barrier destroy_process_group get_node_local_rank get_rank get_world_size init_process_group is_available "
    "is_initialized"
)
_SAMPLERS = "ConcatDataset DataLoader Dataset RandomSampler SequentialSampler Subset WeightedRandomSampler"
_OURS = "bundle_root load_network load_weights name_with_copy require_inference start_from verify_weights"
_ADAPT = "probed.EstimatedError probed.ProbedNoised recorrupted.MeasuredNoised recorrupted.RandRecorruptd"

NAMES = frozenset(
    (
        *(f"numpy.{name}" for name in _NUMPY.split()),
        *(f"torch.{name}" for name in _TORCH.split()),
        *(f"torch.distributed.{name}" for name in _DISTRIBUTED.split()),
        *(f"torch.utils.data.{name}" for name in _SAMPLERS.split()),
        *(f"torch.cuda.{name}" for name in ("device_count", "is_available", "is_bf16_supported", "set_device")),
        *(f"medrestore_monai.bundles.{name}" for name in _OURS.split()),
        *(f"medrestore_monai.adapt.{name}" for name in _ADAPT.split()),
        *(f"math.{name}" for name in ("ceil", "cos", "e", "exp", "floor", "inf", "log", "log2", "nan", "pi", "prod")),
        *(f"math.{name}" for name in ("sin", "sqrt", "tan")),
        *("torch.utils.data.distributed.DistributedSampler", "torch.amp.GradScaler"),
        *("ignite.engine.Events", "ignite.handlers.EMAHandler", "ignite.handlers.EarlyStopping"),
        "ignite.handlers.TerminateOnNan",
        *("monai.utils.set_determinism", "monai.utils.first", "monai.utils.ensure_tuple"),
        *("monai.config.print_config", "glob.glob"),
        *("monai.data.load_decathlon_datalist", "monai.data.decathlon_datalist.load_decathlon_datalist"),
    )
)

# within the families, but they download, unpickle, write where they like, or build objects from further text
REFUSED = {
    "PerceptualLoss": "downloads and runs code of another repository",
    "PersistentDataset": "loads pickles of a cache folder",
    "CacheNTransDataset": "loads pickles of a cache folder",
    "LMDBDataset": "loads pickles of a cache folder",
    "GDSDataset": "loads pickles of a cache folder",
    "NumpyReader": "loads NumPy files with pickles in them",
    "MLFlowHandler": "sends to a server that the bundle names",
    "ClearMLHandler": "sends to a server",
    "ClearMLStatsHandler": "sends to a server",
    "ClearMLImageHandler": "sends to a server",
    "TrtHandler": "writes and loads engines",
    "TorchVisionFCModel": "downloads weights",
    "TorchVision": "takes any name of torchvision",
    "TorchIO": "takes any name of TorchIO",
    "RandTorchVision": "takes any name of torchvision",
    "RandTorchIO": "takes any name of TorchIO",
    "FlexUNetEncoderRegister": "looks a class up by a text",
    "TrtCompiler": "writes and loads engines",
    "CameraDataset": "opens a camera",
    "MedicalNetPerceptualSimilarity": "downloads and runs code of another repository",
    "RadImageNetPerceptualSimilarity": "downloads and runs code of another repository",
    "CellSamWrapper": "downloads weights",
    "Transchex": "downloads weights",
    "MultiModal": "downloads weights",
    "BertPreTrainedModel": "downloads weights",
    "get_pretrained_resnet_medicalnet": "downloads weights",
    "FID": "downloads weights",
    "InceptionScore": "downloads weights",
    "filter_swinunetr": "loads weights",
    "register_as_decoder_plugin": "has a module imported by its name",
    "register_writer": "changes what MONAI writes with",
    "LearningRateFinder": "loads pickles",
    "StateCacher": "loads pickles",
    "TRTEngine": "loads engines",
    "TRTWrapper": "loads engines",
    "utils_create_transform_ims": "downloads, and writes where it likes",
    "create_dataset": "writes data sets",
    "CuCIM": "takes any name of cuCIM",
    "RandCuCIM": "takes any name of cuCIM",
}
# parameters whose text MONAI looks up as the name of anything that Python can import
LOCATED = frozenset(("reader", "writer", "merger_cls"))
_READERS = ("itkreader", "nibabelreader", "nrrdreader", "nvimgcodecpydicomreader", "pilreader", "pydicomreader")
_LOADERS = (
    "load",
    "save",
    "write",
    "download",
    "pickle",
    "eval",
    "exec",
    "compile",
    "trt",
    "convert_to",
    "copy_model_state",
)

MODULES = frozenset(
    (
        *("monai", "torch", "numpy", "ignite", "math", "glob", "medrestore_monai"),
        *("torch.distributed", "torch.cuda", "torch.utils", "torch.utils.data", "torch.utils.data.distributed"),
        *("monai.utils", "monai.config", "monai.apps", "ignite.engine", "ignite.handlers", "medrestore_monai.bundles"),
        "medrestore_monai.audit",
        *FAMILIES,
    )
)


def _in_family(dotted: str) -> bool:
    return any(dotted.startswith(f"{family}.") for family in FAMILIES)


def is_module(dotted: str) -> bool:
    """Return whether a module may be imported: one of the list, or public and below a family."""
    return dotted in MODULES or (_in_family(dotted) and all(_public(part) for part in dotted.split(".")))


def _public(part: str) -> bool:
    return part.isidentifier() and not part.startswith("_")


def reason_against_target(target: str) -> str:
    """Say why a ``_target_`` is refused, or an empty text.

    Args:
        target: a name with dots, or that of a component of MONAI alone, as MONAI looks it up itself.
    """
    if "." in target:
        return reason_against(target)
    if not _public(target):
        return f"{target!r} is not a name"
    modules = _components().get_component_module_name(target)
    if modules is None:  # MONAI would go on to look among Python's built-in functions
        return f"{target} is not a component of MONAI"
    found = [reason_against(f"{module}.{target}") for module in ([modules] if isinstance(modules, str) else modules)]
    return next((reason for reason in found if reason), "")


def reason_against_located(name: object) -> str:
    """Say why a text for a parameter of ``LOCATED`` is refused, or an empty text."""
    if not isinstance(name, str):
        return ""
    if name.startswith(("$", "@", "%")):
        return f"{name[:80]!r} is known only when it runs; write the name itself"
    return "" if name.lower() in _READERS else reason_against_target(name)


@cache
def takes_names(dotted: str) -> bool:
    """Return whether a known class or function has a parameter of ``LOCATED``."""
    found = _resolve(dotted.split("."))
    try:
        return bool(LOCATED & set(inspect.signature(found).parameters))
    except (TypeError, ValueError):
        return False


def target_takes_names(target: str) -> bool:
    """Return the same for a ``_target_`` that is known."""
    modules = "" if "." in target else _components().get_component_module_name(target)
    if not modules:
        return takes_names(target)
    return any(takes_names(f"{module}.{target}") for module in ([modules] if isinstance(modules, str) else modules))


def resolve_targets(target: str) -> list[Any]:
    """Return what a ``_target_`` or a name with dots that is known stands for; several where a name alone does."""
    modules = "" if "." in target else _components().get_component_module_name(target)
    dotted = (
        [target] if not modules else [f"{one}.{target}" for one in ([modules] if isinstance(modules, str) else modules)]
    )
    return [found for found in (_resolve(name.split(".")) for name in dotted) if found is not None]


@cache
def _components() -> Any:
    from monai.bundle import ComponentLocator

    return ComponentLocator()


@cache
def reason_against(dotted: str) -> str:
    """Say why a name with dots is refused, or an empty text.

    Nothing but the installed packages of the list is imported to find out.

    Args:
        dotted: such as ``torch.nn.L1Loss``.
    """
    parts = dotted.split(".")
    if not all(_public(part) for part in parts):
        return f"{dotted} has a private part or is not a name"
    if dotted in NAMES:
        return ""
    if not _in_family(dotted):
        return reason_moved(dotted) or f"{dotted} is not among the known names"
    for part in parts[1:]:
        base = part.removesuffix("d").removesuffix("Dict").removesuffix("D")
        why = REFUSED.get(part) or REFUSED.get(base)
        if why:
            return f"{dotted} {why}"
    found = _resolve(parts)
    if found is None:
        return f"{dotted} does not exist in the packages installed here"
    if isinstance(found, enum.Enum):
        return ""
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        return f"{dotted} is neither a class nor a function"
    home = f"{found.__module__}.{found.__qualname__}"
    if not _in_family(home):
        return f"{dotted} stands for {home}, which is not among the known names"
    last = parts[-1]
    ours = home.startswith("medrestore_monai.")
    if inspect.isfunction(found) and not ours and any(word in last.lower() for word in _LOADERS):
        return f"{dotted} loads, saves or converts files"
    return ""


def _resolve(parts: list[str]) -> Any:
    """Return what a name stands for; only modules of the list are imported on the way."""
    found: Any = None
    for count in range(1, len(parts) + 1):
        dotted = ".".join(parts[:count])
        if is_module(dotted):
            try:
                found = importlib.import_module(dotted)
                continue
            except ImportError:
                pass
        found = getattr(found, parts[count - 1], None)
        if found is None:
            return None
    return found
