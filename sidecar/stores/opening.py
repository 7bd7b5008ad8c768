"""From a store's URL to a store."""

from __future__ import annotations

from pathlib import Path

from sidecar.errors import ConfigError
from sidecar.settings import Settings, unsupported
from sidecar.stores.base import Store


def open_store(settings: Settings) -> Store:
    """The store that the settings name. Makes no request; raises ConfigError for a kind that isn't there yet."""
    spec = settings.store
    if spec.kind == "folder":
        from sidecar.stores.folder import FolderStore

        assert spec.path is not None
        return FolderStore(spec.path, prefix=spec.prefix, branch=spec.branch, url=spec.url, persistent=spec.persistent)
    if spec.kind == "hf":
        from sidecar.stores.hub import HubStore

        assert spec.repo is not None
        return HubStore(
            spec.repo,
            token=settings.token,
            branch=spec.branch,
            prefix=spec.prefix,
            endpoint=settings.endpoint,
            allow_public=settings.public,
            url=spec.url,
            cache_dir=Path(settings.state_dir) / "hf",
        )
    raise ConfigError(next(unsupported(settings)))
