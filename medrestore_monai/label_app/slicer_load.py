"""For 3D Slicer: restore a volume on the server and load the result as a scalar volume, not as a label map.

Slicer's own MONAI Label module offers segmentation models only and reads every result as a segmentation. In Slicer's
Python console::

    exec(open("/path/to/slicer_load.py").read())
    restore_in_slicer("http://127.0.0.1:8000", "ct_denoise_restore_rwkv")                      # the volume shown
    restore_in_slicer("http://127.0.0.1:8000", "ct_denoise_restore_rwkv", image_id="case00")   # an image of the server

or ``Slicer --python-script slicer_load.py SERVER BUNDLE IMAGE_ID``. Needs nothing but Python's own library; outside
Slicer, :func:`request_restored` and ``python slicer_load.py SERVER BUNDLE IMAGE_ID`` fetch the file. For research, not
a medical device.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import uuid
from typing import Any


def list_models(server: str) -> dict[str, Any]:
    """Return the descriptions and options of the server's bundles, by name.

    Raises:
        RuntimeError: the server cannot be reached or refuses, with its reason.
    """
    body, _ = _ask(urllib.request.Request(f"{server.rstrip('/')}/info/"))
    return {name: task for name, task in json.loads(body)["models"].items() if task["type"] == "others"}


def request_restored(
    server: str,
    bundle: str,
    folder: str,
    image_id: str = "",
    file: str = "",
    timeout: float = 3600,
    **options: Any,
) -> str:
    """Let the server restore one image and save what it returns.

    Args:
        server: such as ``http://127.0.0.1:8000``.
        bundle: name of the model.
        folder: where to save.
        image_id: an image of the server's store; with DICOMweb a SeriesInstanceUID.
        file: a local image file to send instead.
        timeout: in seconds.
        options: of the task, such as ``strength=0.5``, ``result_dtype="int16"`` or ``write_back=True``.

    Returns:
        The path of the saved file.

    Raises:
        RuntimeError: the server cannot be reached or refuses, with its reason.
    """
    query = urllib.parse.urlencode({"image": image_id, "output": "image"})
    url = f"{server.rstrip('/')}/infer/{urllib.parse.quote(bundle)}?{query}"
    kind, data = _form({"params": json.dumps(options)}, file)
    request = urllib.request.Request(url, data=data, headers={"Content-Type": kind}, method="POST")
    body, name = _ask(request, timeout)
    ending = next((end for end in (".nii.gz", ".nii", ".png", ".jpg", ".tif") if name.endswith(end)), ".nii.gz")
    path = os.path.join(folder, f"{bundle}-{uuid.uuid4().hex[:8]}{ending}")
    with open(path, "wb") as result:
        result.write(body)
    return path


def restore_in_slicer(server: str, bundle: str, image_id: str = "", node: Any = None, **options: Any) -> Any:
    """Restore a volume of the scene, or an image of the server, and show the result beside it.

    Args:
        server: see :func:`request_restored`.
        bundle: see :func:`request_restored`.
        image_id: see :func:`request_restored`; without it, a volume of the scene is sent.
        node: that volume; by default the one in the background of the red view.
        options: see :func:`request_restored`.

    Returns:
        The new scalar volume node.
    """
    import slicer

    with tempfile.TemporaryDirectory() as folder:
        file, name = "", image_id
        if not image_id:
            if node is None:
                views = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
                node = slicer.mrmlScene.GetNodeByID(views.GetBackgroundVolumeID() or "")
            if node is None:
                raise RuntimeError("there is no volume in the red view: load one, or give image_id.")
            file, name = os.path.join(folder, "volume.nii.gz"), node.GetName()
            slicer.util.saveNode(node, file)
        path = request_restored(server, bundle, folder, image_id, file, **options)
        properties = {"name": f"{name} restored ({bundle})", "labelmap": False, "singleFile": True}
        restored = slicer.util.loadVolume(path, properties)
    slicer.util.setSliceViewerLayers(background=restored)
    return restored


def _ask(request: urllib.request.Request, timeout: float = 60) -> tuple[bytes, str]:
    """Return the body and the file name of an answer."""
    # the server is named by the user; no proxy stands before one on this machine
    local = urllib.parse.urlsplit(request.full_url).hostname in ("127.0.0.1", "localhost", "::1")
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
    try:
        with opener.open(request, timeout=timeout) as answer:
            return answer.read(), answer.headers.get_filename("") or ""
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            text = json.loads(text)["detail"]
        raise RuntimeError(f"the server refused ({error.code}): {text}") from error
    except OSError as error:
        raise RuntimeError(f"the server {request.full_url.split('?')[0]} does not answer: {error}") from error


def _form(fields: dict[str, str], file: str) -> tuple[str, bytes]:
    """Encode a form (RFC 7578); the file goes under a name that shows nothing but its kind."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    if file:
        ending = ".nii.gz" if file.lower().endswith(".nii.gz") else os.path.splitext(file)[1].lower()
        head = f'Content-Disposition: form-data; name="file"; filename="image{ending}"'
        with open(file, "rb") as image:
            content = image.read()
        parts.append(f"--{boundary}\r\n{head}\r\nContent-Type: application/octet-stream\r\n\r\n".encode())
        parts += [content, b"\r\n"]
    return f"multipart/form-data; boundary={boundary}", b"".join([*parts, f"--{boundary}--\r\n".encode()])


if __name__ == "__main__" and len(sys.argv) == 4:
    if "slicer" in sys.modules:
        restore_in_slicer(sys.argv[1], sys.argv[2], image_id=sys.argv[3])
    else:
        sys.stdout.write(request_restored(sys.argv[1], sys.argv[2], os.getcwd(), sys.argv[3]) + "\n")
