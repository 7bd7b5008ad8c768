"""What a start is given, and what it comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sidecar.recovery.lease import Me, Tenure
from sidecar.recovery.origin import Origin
from sidecar.recovery.restore import Restored
from sidecar.roots import Root
from sidecar.snapshot.manifest import Manifest
from sidecar.stores.base import Access, Revision

Failure = Literal["wait", "exit", "continue"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a start needs of the settings; times in seconds."""

    roots: Sequence[Root]
    me: Me
    store_id: str
    state_dir: Path
    cold_start: str
    revision: str | None
    handoff_wait_s: float
    timeout_s: float
    on_failure: Failure
    exclude: Sequence[str] = ()
    own: Sequence[str] = ()
    resumes: bool = False


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a start came to. ``tenure`` is None where it may not write; ``head`` is the revision to commit onto."""

    head: Revision | None
    origin: Origin
    tenure: Tenure | None
    clean: bool | None
    restored: Restored
    access: Access
    why_unleased: str = ""

    @property
    def manifest(self) -> Manifest | None:
        return self.origin.manifest
