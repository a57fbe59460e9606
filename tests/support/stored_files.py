"""The files of all blobs of a server's settings, in its data folder or in an object store."""

from __future__ import annotations

import contextlib

from service.admin.blob_files import open_files
from service.settings import Settings
from service.storage.blobs.object_client import ObjectClient


def sizes(settings: Settings, folder: str = "") -> dict[str, int]:
    """Return the size in bytes of each blob whose key begins with `folder`, by key."""
    files = open_files(settings)
    keys = files.keys()
    found = {}
    for key in keys:
        if key.startswith(folder):
            with contextlib.suppress(FileNotFoundError):  # it has just been removed
                found[key] = files.size(key)
    return found


def contents(settings: Settings, folder: str = "") -> dict[str, bytes]:
    """Return the content of each blob whose key begins with `folder`, by key."""
    found = sizes(settings, folder)
    if not settings.blobs:
        return {key: (settings.data_dir / key).read_bytes() for key in found}
    client = ObjectClient(settings.blobs)
    return {key: client.read(key, 0, size) for key, size in found.items()}


def remove(settings: Settings, folder: str) -> None:
    """Remove the blobs of a folder."""
    open_files(settings).remove(folder)
