"""Does a configuration have the shape of one that is known, with other plain values in it?

A graph that is known calls what it calls; another size of the network, strength or tile does not change that. So a
bundle that was retrained or adapted passes, and one that calls anything else, or in another order, does not.
"""

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from medrestore_monai.bundles.check.configs import Repeated
from medrestore_monai.bundles.check.names import resolve_targets
from medrestore_monai.bundles.check.paths import path_problem
from medrestore_monai.bundles.settings import RUN

Problem = tuple[str, str]  # the key with ``::`` between its parts, and the reason

NETWORK = "network_def"
_CODE = ("$", "@", "%")  # how MONAI marks an expression, a reference and a macro
_DEVICE = re.compile(r"cpu|cuda(:\d+)?|mps")
_KEY = re.compile(r"(?!_)[\w .-]{1,100}")
_REPLACED = "dataset_dir"  # every command sets it to the data of the user
_LONGEST_TEXT, _LONGEST_LIST, _DEEPEST = 2000, 1000, 12
_LARGEST = 2**32
_MOST = 1000  # problems of one configuration
_MOST_OF = {"num_workers": 64, "self_ensemble": 8, "batch_size": 4096, "slice_batch_size": 4096}
_LARGEST_IN_NETWORK, _MOST_BLOCKS = 4096, 64
_LARGEST_SQUARES = 2**21  # channels squared, times blocks: weights of some GiB
_NETWORKS = ("medrestore_monai.networks.", "monai.networks.nets.")


def shape_problems(given: Any, known: Sequence[Mapping[str, Any]], networks: Sequence[Any]) -> list[Problem]:
    """Say how a configuration differs from each of those that are known, in more than plain values.

    Args:
        given: what :func:`~medrestore_monai.bundles.check.configs.read` returned.
        known: configurations of the same role.
        networks: every ``network_def`` that is known; one of them may take the place of another.

    Returns:
        The problems with the most similar one of ``known``; none if it has the shape of that one.
    """
    if not isinstance(given, dict):
        return [("", "is not a mapping")]
    found = [list(islice(_Comparison(networks).compare("", given, one), _MOST)) for one in known]
    nearest = min(found, key=len, default=[("", "no configuration is known to compare it with")])
    return [*nearest, *size_problems(given)]


def network_problems(given: Any, networks: Sequence[Any]) -> list[Problem]:
    """Say the same of a ``network_def`` alone."""
    found = [list(islice(_Comparison(networks).compare(NETWORK, given, one), _MOST)) for one in networks]
    return min(found, key=len, default=[(NETWORK, "no network is known to compare it with")])


def size_problems(given: Mapping[str, Any]) -> list[Problem]:
    """Say whether the sizes in a ``network_def`` together make a network that no machine holds.

    Args:
        given: a configuration or an overlay, with sizes in ``network_def`` and in keys such as ``network_def::dim``.
    """
    entries = {name.replace("#", "::"): value for name, value in given.items()}
    sizes: list[int] = []
    blocks: list[int] = []
    for name, value in entries.items():
        if name.split("::")[0] == NETWORK:
            for key, number in _whole_numbers(name, value):
                (blocks if key.startswith("num_") else sizes).append(abs(number))
    # an overlay may be laid over a network of any depth
    depth = sum(blocks) or (1 if NETWORK in entries else _MOST_BLOCKS)
    largest = max(sizes, default=0)
    if largest**2 * depth <= _LARGEST_SQUARES:
        return []
    return [(NETWORK, f"sizes up to {largest} in {depth} blocks, a network larger than most machines hold")]


def _whole_numbers(key: str, value: Any) -> Iterator[tuple[str, int]]:
    """Yield whole numbers, and the name that each belongs to."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield key.rpartition("::")[2], value
    elif isinstance(value, dict):
        for name, child in value.items():
            yield from _whole_numbers(name.replace("#", "::"), child)
    elif isinstance(value, list):
        for child in value:
            yield from _whole_numbers(key, child)


def plain_problems(key: str, value: Any, depth: int = 0, paths: bool = True) -> Iterator[Problem]:
    """Say why a value is not plain, or too large to be one.

    Args:
        key: where it stands, parts separated by ``::``.
        value: of a configuration.
        depth: how deep below the first value it stands.
        paths: also refuse texts that lead out of the bundle.
    """
    last = key.rpartition("::")[2]
    if depth > _DEEPEST:
        yield key, "nested too deeply"
    elif isinstance(value, str):
        yield from _text_problems(key, value, paths and last != _REPLACED)
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int | float):
        yield from _number_problems(key, value)
    elif len(value) > _LONGEST_LIST:
        yield key, f"{len(value)} entries, more than {_LONGEST_LIST}"
    elif isinstance(value, dict):
        for name, child in value.items():
            inner = f"{key}::{name}" if key else name
            if name in getattr(value, "names", ()):
                yield inner, "the key stands there twice"
            if paths and not _KEY.fullmatch(name):
                yield inner, "is not the name of a plain value"
            elif name.startswith("_"):
                yield inner, "builds an object"
            yield from plain_problems(inner, child, depth + 1, paths)
    else:
        for index, child in enumerate(value):
            yield from plain_problems(f"{key}::{index}", child, depth + 1, paths)


def _text_problems(key: str, value: str, paths: bool) -> Iterator[Problem]:
    if value.lstrip().startswith(_CODE):
        yield key, f"code: {' '.join(value.split())[:100]}"
    elif len(value) > _LONGEST_TEXT and paths:
        yield key, f"a text of {len(value)} characters"
    elif paths:
        reason = path_problem(value)
        if reason:
            yield key, reason


def _number_problems(key: str, value: float) -> Iterator[Problem]:
    parts = key.split("::")
    named = [part for part in parts if not part.isdigit()]
    most: float = _MOST_OF.get(named[-1] if named else "", _LARGEST)
    if NETWORK in parts and isinstance(value, int):
        most = _MOST_BLOCKS if named[-1].startswith("num_") else _LARGEST_IN_NETWORK
    if not math.isfinite(value) or abs(value) > most:
        yield key, f"{value} is larger than {most:.0f}" if math.isfinite(value) else f"{value} is not a number"


class _Comparison:
    """Walks through a configuration and a known one side by side."""

    def __init__(self, networks: Sequence[Any]) -> None:
        self.networks = networks

    def compare(self, key: str, given: Any, known: Any) -> Iterator[Problem]:
        for name in getattr(given, "names", ()) if isinstance(given, Repeated) else ():
            yield _join(key, name), "the key stands there twice"
        if _is_plain(known):
            if given != known:
                yield from plain_problems(key, given)
        elif isinstance(known, str):
            if given != known:
                yield from self._instead_of_code(key, given, known)
        elif isinstance(known, list):
            if not isinstance(given, list) or len(given) != len(known):
                yield key, f"is not a list of {len(known)} entries as in the bundles of this package"
                return
            for index, pair in enumerate(zip(given, known, strict=True)):
                yield from self.compare(_join(key, str(index)), *pair)
        elif key == NETWORK and self.networks:
            # one network may take the place of another
            alternatives = [list(self._mappings(key, given, one)) for one in (known, *self.networks)]
            yield from min(alternatives, key=len)
        else:
            yield from self._mappings(key, given, known)

    def _instead_of_code(self, key: str, given: Any, known: str) -> Iterator[Problem]:
        # a reference hands a value of the user on, such as the output; an expression makes one
        may_be_plain = known.startswith("$") or NETWORK in key.split("::")
        is_free = may_be_plain and (given is None or isinstance(given, bool | int | float))
        if is_free or (isinstance(given, str) and _DEVICE.fullmatch(given) and known.startswith("$torch.device(")):
            yield from plain_problems(key, given)
        else:
            yield key, f"is {_shown(given)}, not {known[:100]}"

    def _mappings(self, key: str, given: Any, known: Mapping[str, Any]) -> Iterator[Problem]:
        target = known.get("_target_")
        if not isinstance(given, dict):
            yield key, f"is {_shown(given)}, not {'a call of ' + str(target) if target else 'a mapping'}"
            return
        if given.get("_target_") != target:
            yield _join(key, "_target_"), f"calls {_shown(given.get('_target_'))}, not {target or 'nothing'}"
            return
        if len({name.replace("#", "::") for name in given}) < len(given):
            yield key, "a key stands there twice, with '#' and with '::'"
        given, known = ({name.replace("#", "::"): value for name, value in one.items()} for one in (given, known))
        for name, value in known.items():
            if name not in given and not _is_plain(value):
                yield _join(key, name), "is missing"
        for name, value in given.items():
            if name in known:
                yield from self.compare(_join(key, name), value, known[name])
            elif self._may_add(key, name, target):
                yield from plain_problems(_join(key, name), value)
            else:
                yield _join(key, name), "does not stand in the bundles of this package"

    def _may_add(self, key: str, name: str, target: Any) -> bool:
        """Return whether a plain value may stand where the known configuration has none."""
        if target is None:
            # at the top, MONAI splits a name at "::"
            parts = name.split("::") if not key else [name]
            deeper = len(parts) == 1 or parts[0] == NETWORK
            return deeper and all(_KEY.fullmatch(part) for part in parts) and parts[0] not in RUN
        if NETWORK not in key.split("::") or not str(target).startswith(_NETWORKS):
            return False
        found = [inspect.signature(one).parameters.get(name) for one in resolve_targets(target)]
        return all(one is not None and one.kind is not inspect.Parameter.VAR_KEYWORD for one in found)


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return not value.lstrip().startswith(_CODE)
    if isinstance(value, dict):
        return not any(name.startswith("_") for name in value) and all(map(_is_plain, value.values()))
    return not isinstance(value, list) or all(map(_is_plain, value))


def _join(key: str, name: str) -> str:
    return f"{key}::{name}" if key else name


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"a call of {str(value['_target_'])[:100]}" if "_target_" in value else "a mapping"
    return "a list" if isinstance(value, list) else " ".join(str(value).split())[:100]
