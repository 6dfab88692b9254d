"""A data store of MONAI Label that clients only read, unless writing was asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

# of this request: a batch keeps its results as labels, which is what it was asked for
_keeps_results: ContextVar[bool] = ContextVar("keeps_results", default=False)


class GuardedStore:
    """Goes before a data store of MONAI Label; what would write or delete is refused while :attr:`is_guarded`."""

    #: Set once the store is ready: it may write for itself before.
    is_guarded = False

    @property
    def keeps_results(self) -> bool:
        """Whether what a model makes may be stored now."""
        return not self.is_guarded or _keeps_results.get()

    @contextmanager
    def keeping_results(self) -> Iterator[None]:
        """Let what models make be stored in this block, in this thread."""
        token = _keeps_results.set(True)
        try:
            yield
        finally:
            _keeps_results.reset(token)

    def add_image(self, *args: Any, **kwargs: Any) -> Any:
        """Store an image."""
        return self._if_open("add_image")(*args, **kwargs)

    def remove_image(self, *args: Any, **kwargs: Any) -> Any:
        """Delete an image with its labels."""
        return self._if_open("remove_image")(*args, **kwargs)

    def save_label(self, *args: Any, **kwargs: Any) -> Any:
        """Store a label: of a client, or the result of a model."""
        return self._if_open("save_label", self.keeps_results)(*args, **kwargs)

    def remove_label(self, *args: Any, **kwargs: Any) -> Any:
        """Delete a label."""
        return self._if_open("remove_label")(*args, **kwargs)

    def remove_label_by_tag(self, *args: Any, **kwargs: Any) -> Any:
        """Delete all labels of a kind."""
        return self._if_open("remove_label_by_tag")(*args, **kwargs)

    def update_label_info(self, *args: Any, **kwargs: Any) -> Any:
        """Change what is noted of a label."""
        return self._if_open("update_label_info")(*args, **kwargs)

    def update_image_info(self, *args: Any, **kwargs: Any) -> Any:
        """Change what is noted of an image; nothing while guarded, as MONAI Label notes each image that it offers."""
        return None if self.is_guarded else self._if_open("update_image_info")(*args, **kwargs)

    def _if_open(self, name: str, is_open: bool = False) -> Any:
        if self.is_guarded and not is_open:
            raise PermissionError(f"this data store is only read ({name}); start the server with allow_writes.")
        return getattr(super(), name)
