"""What ``monailabel start_server --app`` loads: all bundles, on a folder of images or on a DICOMweb store, offline."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dicomweb_client.session_utils import create_session_from_user_pass
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX, DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.app import MONAILabelApp

from medrestore_monai import __version__
from medrestore_monai.images import KINDS
from medrestore_monai.label_app.dicomweb import fetch_series, list_series
from medrestore_monai.label_app.endpoints import close_endpoints, is_on, limits_of, serve_in_threads
from medrestore_monai.label_app.options import MODALITIES, offered_bundles
from medrestore_monai.label_app.received import is_received
from medrestore_monai.label_app.stores import GuardedStore
from medrestore_monai.label_app.tasks import BatchRestore, RestoreTask
from medrestore_monai.texts import one_line

logger = logging.getLogger(__name__)
# NumPy files are left out: no viewer of MONAI Label shows them
_ENDINGS = [ending for ending in KINDS if not ending.startswith((".np", ".hdr", ".img"))]  # what is one file


class FolderStore(GuardedStore, LocalDatastore):
    """The images of a folder."""


class SeriesStore(GuardedStore, DICOMWebDatastore):
    """The series of a DICOMweb store that our bundles can restore, without those they have made.

    The filter ``MONAI_LABEL_DICOMWEB_SEARCH_FILTER`` counts, but for its modality.
    """

    @property
    def client(self) -> Any:
        """The client of the store."""
        return self._client

    def list_images(self) -> list[str]:
        """Return the SeriesInstanceUIDs; asked anew each time, as series come and go."""
        return self.of_modalities(list(MODALITIES))

    def of_modalities(self, modalities: list[str]) -> list[str]:
        """Return those of some modalities."""
        filters = {name: value for name, value in self._search_filter.items() if name != "Modality"}
        return list_series(self._client, modalities, filters)


class MedRestoreApp(MONAILabelApp):
    """The server's side of every task; see the README beside this file.

    Args:
        app_dir: this folder, or a copy of it: MONAI Label makes ``logs`` and others in it.
        studies: a folder of images, or the URL of a DICOMweb store.
        conf: from ``--conf``; ``models`` names the bundles to offer, separated by commas. ``allow_writes``,
            ``allow_proxy`` and ``trust_bundle`` are off unless they are ``true``; ``largest_upload`` and
            ``largest_unpacked`` are in GiB.

    Raises:
        ValueError: there is no bundle with weights, or none of that name.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="medrestore-monai",
            description="Restores CT, MR and PET images. For research, not a medical device.",
            version=__version__,
        )

    def init_datastore(self) -> Any:
        """Return the store: images of the kinds we read, and zipped DICOM series, or a DICOMweb store."""
        store = super().init_datastore() if self.studies.startswith(("http://", "https://")) else self._folder_store()
        store.is_guarded = not is_on(self.conf, "allow_writes")
        return store

    def _folder_store(self) -> FolderStore:
        return FolderStore(
            self.studies,
            extensions=[f"*{ending}" for ending in (*_ENDINGS, ".zip")],
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def _init_dicomweb_datastore(self) -> SeriesStore:
        user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        client = DICOMwebClientX(
            url=self.studies,
            session=create_session_from_user_pass(user, password) if user and password else None,
            qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
            wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
            stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
        )
        cache = (settings.MONAI_LABEL_DICOMWEB_CACHE_PATH or "").strip()
        return SeriesStore(client, settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER, cache_path=cache or None)

    def init_infers(self) -> dict[str, RestoreTask]:
        """Return one task for every bundle whose weights are there."""
        store = self.datastore()
        client = store.client if isinstance(store, SeriesStore) else None
        bundles, refused = offered_bundles(is_on(self.conf, "trust_bundle"))
        for name, reason in refused.items():
            logger.warning("%s is not offered: %s", name, reason)
        tasks = {bundle.name: RestoreTask(bundle, client, limits_of(self.conf)) for bundle in bundles}
        ready = {name: task for name, task in tasks.items() if task.is_valid()}
        for name in sorted(set(tasks) - set(ready)):
            logger.warning("%s is not offered: its weights are missing (medrestore bundles weights get).", name)
        wanted = [name.strip() for name in self.conf.get("models", "").split(",") if name.strip()] or list(ready)
        missing = [name for name in wanted if name not in ready]
        if missing or not ready:
            raise ValueError(f"no bundle {', '.join(missing)} with weights; found: {', '.join(ready) or 'none'}.")
        return {name: ready[name] for name in wanted}

    def on_init_complete(self) -> None:
        """Close what is off, and serve slow requests in threads, as soon as the server starts."""
        super().on_init_complete()
        from monailabel.app import app
        from monailabel.endpoints import batch_infer, infer

        prefix, largest = settings.MONAI_LABEL_API_STR, limits_of(self.conf)[0]
        writes, proxy = is_on(self.conf, "allow_writes"), is_on(self.conf, "allow_proxy")
        serve_in_threads(app, f"{prefix}/infer/{{model}}", infer.api_run_inference, largest)
        serve_in_threads(app, f"{prefix}/batch/infer/{{model}}", batch_infer.api_run, largest)
        close_endpoints(app, prefix, writes, proxy)

    def init_batch_infer(self) -> BatchRestore:
        """Return what runs many images."""
        store = self.datastore()
        return BatchRestore(self._infers, store.of_modalities if isinstance(store, SeriesStore) else None)

    def infer(self, request: dict[str, Any], datastore: Any = None) -> Any:
        """Restore one image; see :meth:`RestoreTask.__call__`.

        Raises:
            HTTPException: with the reason as its detail: 404 for an unknown model or image, 400 for an image or option
                that cannot be used, 500 for what failed here or at the store.
        """
        store = datastore or self.datastore()
        image = str(request.get("image") or "")
        with _as_http_errors():
            if request.get("model") not in self._infers:
                raise HTTPException(404, f"there is no model {request.get('model')!r}, but: {', '.join(self._infers)}.")
            if is_received(image, self._sessions.store_path if self._sessions is not None else None):
                return super().infer({**request, "save_label": False}, store)
            if isinstance(store, SeriesStore):
                with tempfile.TemporaryDirectory(prefix="medrestore-label-") as folder:
                    fetch_series(store.client, image, Path(folder))
                    return super().infer({**request, "image": folder, "save_label": False}, store)
            # MONAI Label would also take any path of this machine for an image
            if os.path.exists(image) or not store.get_image_uri(image):
                raise HTTPException(404, f"there is no image {image!r}.")
            return super().infer(request if store.keeps_results else {**request, "save_label": False}, store)

    def batch_infer(self, request: dict[str, Any], datastore: Any = None) -> Any:
        """Restore many images; errors as in :meth:`infer`."""
        with _as_http_errors():
            return super().batch_infer(request, datastore)

    def _download_dcmqi_tools(self) -> None:
        """Fetch nothing: those tools make segmentations, and this server makes none."""


@contextmanager
def _as_http_errors() -> Iterator[None]:
    """Give the client the one sentence that says what is wrong; MONAI Label alone would say "internal error"."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(400, one_line(str(error))) from error
    except FileNotFoundError as error:
        raise HTTPException(404, one_line(str(error))) from error
    except (OSError, RuntimeError, MemoryError) as error:
        logger.exception("the request failed")
        raise HTTPException(500, one_line(str(error)) or type(error).__name__) from error
