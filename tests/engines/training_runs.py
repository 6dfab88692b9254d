"""Trainings of a tiny bundle, as ``python -m monai.bundle run training`` runs them, without importing MONAI each time.

A server has imported it and forks a process for each run, so that one can be killed like any other.
"""

import csv
import json
import multiprocessing
import os
import socket

import nibabel as nib
import numpy as np
import torch
from phantoms import ct_volume

_context = multiprocessing.get_context("forkserver")
_PACKAGES = ["monai.bundle", "medrestore_monai.engines", "medrestore_monai.data", "medrestore_monai.networks"]
_context.set_forkserver_preload([*_PACKAGES, "torch._dynamo", "torch.utils.tensorboard"])

QUICK = {"epoch_length": None, "batch_size": 2, "patch_size": [32, 32], "num_workers": 0, "held_back": 0.34}


def write_patients(root, count, slices=2, size=64):
    """Save one file of a few slices for each patient; no two are alike."""
    for patient in range(count):
        (root / f"p{patient}").mkdir(parents=True)
        volume = ct_volume(slices, size) + 5 * patient
        image = nib.Nifti1Image(volume.astype(np.int16), np.diag([-0.75, -0.75, 2.5, 1.0]))
        nib.save(image, root / f"p{patient}" / "ct.nii.gz")
    return root


def start(bundle, data, output, ranks=1, **options):
    """Start a training, its processes' messages in ``output``.log; several go through ``multi_gpu_train.json``."""
    configs = ["train.json", *(["multi_gpu_train.json"] if ranks > 1 else [])]
    files = [str(bundle / "configs" / name) for name in configs]
    options = {"dataset_dir": str(data), "output_dir": str(output), **QUICK, **options}
    port = free_port()
    started = []
    for rank in range(ranks):
        variables = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": ranks,
            "RANK": rank,
            "LOCAL_RANK": rank,
        }
        arguments = (files, options, variables if ranks > 1 else {}, f"{output}-{rank}.log")
        started.append(_context.Process(target=_train, args=arguments))
        started[-1].start()
    return started


def finish(processes, seconds=500):
    """Wait for processes and return their exit codes; those that hang are killed."""
    for process in processes:
        process.join(seconds)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def train(bundle, data, output, ranks=1, **options):
    """Run a training to its end."""
    codes = finish(start(bundle, data, output, ranks, **options))
    assert codes == [0] * ranks, [path.read_text()[-3000:] for path in output.parent.glob(f"{output.name}-*.log")]
    return output


def _train(files, options, variables, log):
    import monai.bundle

    os.environ.update({name: str(value) for name, value in variables.items()})
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers
    monai.bundle.run(run_id="training", config_file=files, **options)


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def saved(output):
    return torch.load(output / "state.pt", weights_only=True)


def rows(output):
    """The table, without times."""
    with (output / "history.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def best(output):
    """The best weights and what stands beside them."""
    return torch.load(output / "model.pt", weights_only=True), json.loads((output / "model.json").read_text())


def assert_same_training(got, expected):
    """Equal to the bit: networks, optimizers, all else of the state, tables, and best weights."""
    states = [saved(got), saved(expected)]
    for state in states:
        for row in state["history"]["rows"]:
            row.pop("seconds")
    assert differences(*states) == []
    assert rows(got) == rows(expected)
    assert differences(best(got), best(expected)) == []


def differences(got, expected, place="state"):
    """Return the places where two nested states are not equal to the bit."""
    if isinstance(expected, torch.Tensor):
        return [] if torch.equal(got, expected) else [place]
    if isinstance(expected, dict | list | tuple):
        keys = list(expected) if isinstance(expected, dict) else range(len(expected))
        if len(got) != len(expected) or (isinstance(expected, dict) and got.keys() != expected.keys()):
            return [place]
        return [found for key in keys for found in differences(got[key], expected[key], f"{place}.{key}")]
    return [] if got == expected else [place]
