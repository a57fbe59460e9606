"""The blob store and the objects for imports that the settings name."""

from __future__ import annotations

from service.settings import Settings
from service.storage.blobs.folder import FolderBlobs
from service.storage.blobs.object_client import ObjectClient
from service.storage.blobs.objects import ObjectBlobs
from service.storage.blobs.os_calls import OsCalls
from service.storage.blobs.protocol import Blobs
from service.storage.import_sources import ImportSources


def check_blobs(settings: Settings) -> None:
    """Check an object store before anything is started.

    Raises:
        StartError: it cannot be used.
    """
    if settings.blobs:
        ObjectClient(settings.blobs).require()
    ImportSources(settings.import_prefixes)


def open_blobs(settings: Settings, calls: OsCalls) -> Blobs:
    """Open the blob store of a server.

    Raises:
        StartError: it cannot be used.
    """
    folder, reserve = settings.data_dir, settings.disk_reserve_bytes
    if settings.blobs:
        return ObjectBlobs(settings.blobs, folder, calls=calls, reserve_bytes=reserve)
    return FolderBlobs(folder, calls=calls, reserve_bytes=reserve)
