"""A store is a versioned tree with an optimistic commit, and nothing more (design, section 10).

Paths inside a store are relative, ``/``-separated ``str`` that encode to UTF-8, without empty, ``.`` or ``..``
segments. A revision is the store's own name of one committed state of the whole tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from sidecar.errors import EX_FAILED, EX_REFUSED, EX_TEMPFAIL, SidecarError

Revision = str
Source = bytes | Path
"""The bytes of one path in a commit: held in memory, or a file that nobody changes until the commit is over."""

Progress = Callable[[int], None]
"""Called with a number of bytes as they arrive; from any thread."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One entry of a store's history, newest first in ``history``.

    ``at`` is seconds since the epoch by the *store's* clock, or None where it has none.
    """

    revision: Revision
    title: str
    at: float | None
    body: str = ""
    """What the message says below its title, where the store keeps that."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How much a store keeps, as far as it can tell cheaply: commits of the main line, and bytes of everything.

    ``free`` are the bytes that it could still take, where it lies on a disk of its own account.
    """

    commits: int | None = None
    bytes: int | None = None
    free: int | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """What ``check`` found: may we write, who can read, and where the store's clock stands.

    ``exists`` is false only where the store is certain that nothing was ever kept there, or where ``check``
    itself has just created it (``created``). ``now`` is the store's own time in seconds since the epoch.
    ``detail`` is a short phrase for people, without secrets.
    """

    writable: bool
    exists: bool
    created: bool = False
    public: bool = False
    now: float | None = None
    detail: str = ""
    wider: str | None = None
    """What the token may do beyond this store, in words: empty where nothing, None where that can't be told."""


class StoreError(SidecarError):
    """Any failure of a store. Nothing else leaves one."""


class Conflict(StoreError):
    """The parent is not the head: nothing was committed by this call."""

    exit_code = EX_TEMPFAIL


class Unavailable(StoreError):
    """Out of reach, overloaded, or the answer was unclear. ``retry_after`` in seconds where the store said so.

    ``unclear`` is true where a commit was sent and may have landed: read the head before trying again.
    """

    exit_code = EX_TEMPFAIL

    def __init__(self, message: str, retry_after: float | None = None, *, unclear: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.unclear = unclear


class Denied(StoreError):
    """The store answers and says no: a missing, expired, read-only or wrongly scoped token, or a quota."""

    exit_code = EX_REFUSED


class Public(Denied):
    """Everybody can read there, and nobody said that they may."""


class NotFound(StoreError):
    """No such repository, revision or path."""

    exit_code = EX_REFUSED


class Corrupt(StoreError):
    """The store gave bytes that aren't what it committed."""

    exit_code = EX_FAILED


class Refused(StoreError):
    """The store will not carry this one path, whatever its bytes; the rest of the commit may go without it."""

    exit_code = EX_FAILED

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


class Unsupported(StoreError):
    """This kind of store has no such operation."""


class Store(Protocol):
    """One store. Every method may raise any ``StoreError`` and nothing else; none blocks the event loop."""

    url: str
    """As people see it; no secret in it."""

    persistent: bool
    """Whether what is kept here outlives this machine."""

    squashes: bool
    """Whether ``compact`` gives every revision of the main line another name, and keeps only the newest one."""

    async def head(self) -> Revision | None:
        """The newest revision of the main line, or None where nothing was ever committed."""

    async def fetch(
        self, revision: Revision, paths: Iterable[str], into: Path, progress: Progress | None = None
    ) -> None:
        """Write ``paths`` as of ``revision`` to ``into/<path>`` (an existing, private folder of the caller's).

        Each file is either whole or absent. ``NotFound`` names a path that isn't in that revision.
        """

    async def listing(self, revision: Revision) -> Mapping[str, int]:
        """Every path of ``revision`` with its size in bytes. Costs what is stored: for verify and cold starts."""

    async def commit(
        self,
        parent: Revision | None,
        put: Mapping[str, Source],
        delete: Iterable[str],
        message: str,
        branch: str | None = None,
    ) -> Revision:
        """Make one new revision out of ``parent``'s tree, all of it or nothing.

        ``parent`` must be the head (of ``branch``, which is created at ``parent`` where it doesn't exist, else the main
        line): else ``Conflict``. ``parent`` None means that nothing was ever committed. Deleting a path that isn't
        there is no error. After the call returns, every put and delete was seen to be in effect at that revision.
        """

    async def history(self, limit: int, branch: str | None = None) -> list[Commit]:
        """The newest ``limit`` commits of the main line (or ``branch``), newest first; empty if there are none."""

    async def keep(self, revision: Revision, name: str) -> None:
        """Keep ``revision`` reachable as branch ``name``, whatever ``compact`` does later.

        Again is no error; ``Conflict`` where a branch of that name keeps another one.
        """

    async def branches(self) -> Mapping[str, Revision]:
        """Every other branch, by name, and its newest revision."""

    async def drop(self, name: str) -> None:
        """Let go of branch ``name``. One that isn't there is no error."""

    async def compact(
        self, oldest: Revision | None = None, *, branch: str | None = None, title: str = "", dry_run: bool = False
    ) -> int | None:
        """Squash or prune: give back what only old history needs. The head's tree stays as it is.

        With ``oldest`` a store that doesn't squash keeps the main line from there on, names and all. ``branch`` is
        squashed instead of the main line, by a store that squashes. ``title`` is that of a squashed commit, by default
        the newest one's. Returns how many bytes that gives back, None where
        the store can't tell; with ``dry_run`` nothing is done. ``Unsupported`` for a part of a shared history.
        """

    async def usage(self) -> Usage:
        """How much is kept here."""

    async def check(self, create: bool = False) -> Access:
        """Ask who we are here and what we may do; with ``create``, make a missing private home for snapshots."""

    async def close(self) -> None:
        """Give back connections, threads and child processes."""


@runtime_checkable
class Ranged(Protocol):
    """What a store may be able to do besides: give a part of one file without the rest of it."""

    async def fetch_range(
        self, revision: Revision, path: str, span: range, into: Path, progress: Progress | None = None
    ) -> None:
        """Write the bytes ``span`` of ``path`` as of ``revision`` to the same place in the file ``into``.

        ``into`` is made where it is missing; nothing else of it is touched. What came before a failure stays, in
        order and without gaps, so that the next call can go on from there. Nothing is verified: whoever asks for a
        part knows what should be in it. ``NotFound`` as in ``fetch``; ``Corrupt`` where the file ends too early.
        """


@runtime_checkable
class Identified(Protocol):
    """What a store may be able to do besides: tell which files differ between two revisions without reading them."""

    async def identities(self, revision: Revision) -> Mapping[str, str]:
        """Every path of ``revision`` with the store's own id of its bytes. Costs as ``listing`` does."""
