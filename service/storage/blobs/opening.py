"""The blob store that the settings name."""

from __future__ import annotations

from service.settings import Settings
from service.storage.blobs.folder import FolderBlobs
from service.storage.blobs.objects import ObjectBlobs
from service.storage.blobs.os_calls import OsCalls
from service.storage.blobs.protocol import Blobs


def open_blobs(settings: Settings, calls: OsCalls) -> Blobs:
    """Open the blob store of a server.

    Raises:
        StartError: it cannot be used.
    """
    folder, reserve = settings.data_dir, settings.disk_reserve_bytes
    if settings.blobs:
        return ObjectBlobs(settings.blobs, folder, calls=calls, reserve_bytes=reserve)
    return FolderBlobs(folder, calls=calls, reserve_bytes=reserve)
