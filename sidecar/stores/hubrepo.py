"""Which dataset a Hub store speaks of: for its messages (``Place``) and for its requests (``Repo``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from sidecar.masking import mask


@dataclass(frozen=True, slots=True)
class Place:
    """A branch of a dataset at an endpoint, and the token for it, which no message shows."""

    repo: str
    branch: str
    endpoint: str
    token: str | None = field(repr=False)

    def clean(self, text: str) -> str:
        """``text`` without the token."""
        return mask(text, [self.token] if self.token else [])


@dataclass(frozen=True, slots=True)
class Repo:
    """A dataset through the client; ``make`` its ``HfApi``, with endpoint and token."""

    make: Callable[[], Any]
    place: Place
    prefix: str

    @property
    def api(self) -> Any:
        """The client's ``HfApi``: what only downloads does without, and saves its import."""
        return self.make()

    @property
    def id(self) -> str:
        return self.place.repo

    @property
    def branch(self) -> str:
        return self.place.branch

    @property
    def endpoint(self) -> str:
        return self.place.endpoint

    @property
    def token(self) -> str | None:
        return self.place.token

    def path(self, path: str) -> str:
        """Where the store's ``path`` lies in the repo."""
        return f"{self.prefix}/{path}" if self.prefix else path

    def resolve(self, revision: str, path: str) -> str:
        """The address of a file's bytes."""
        at = quote(revision, safe="")
        return f"{self.endpoint}/datasets/{self.id}/resolve/{at}/{quote(self.path(path))}"
