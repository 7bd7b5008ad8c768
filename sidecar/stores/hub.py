"""A store on a Hugging Face dataset, through the real ``huggingface_hub`` client (from 1.16, below 3).

How a method comes to its answer: ``_run`` gives it a time limit and a thread (``hubcall``), the client's
requests pass through our transport (``hubclient``), and what goes wrong is put into words (``huberrors``).
Reading is in ``hubread`` and ``hubfetch``; writing in ``hubcommit`` and, for what is large, in the child
process of ``transfer``; who may do what in ``hubaccess``. Nothing but a ``StoreError`` leaves.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TypeVar

from sidecar.masking import shown
from sidecar.stores import hubaccess, hubclient, hubfetch, hubhistory, hubread, transfer
from sidecar.stores.base import (
    Access,
    Commit,
    Conflict,
    NotFound,
    Progress,
    Revision,
    Source,
    StoreError,
    Unavailable,
    Unsupported,
    Usage,
)
from sidecar.stores.disk import Sink
from sidecar.stores.hubcall import Answered, Call, Patience, again, in_thread
from sidecar.stores.hubcommit import Job, commit, landed
from sidecar.stores.huberrors import explain
from sidecar.stores.hubrepo import Place, Repo
from sidecar.stores.paths import why_not

T = TypeVar("T")

ENDPOINT = "https://huggingface.co"

LARGE = 32 * 1024 * 1024
"""Above this many bytes in one commit the upload has a process of its own, whichever way it goes."""

XET_FROM = 1024 * 1024
"""With hf_xet, above this many: for less, its deduplication saves less than starting a process costs."""

_LONGEST_BRANCH = 200
"""Bytes: it is a file's name in git's folder, besides a suffix for its lock."""

_limit: ContextVar[float] = ContextVar("sidecar_hub_limit", default=float("inf"))


class HubStore:
    """One branch of a dataset, below ``prefix``.

    ``head`` is the branch's, whatever it holds: a new dataset begins with a commit of the Hub's own, so it
    is None only where the branch doesn't exist. Whether a snapshot was ever made is told by a manifest, not
    by the head. ``commit`` with parent None works on a dataset that holds only that first commit, or makes
    the branch.

    Each call has a time limit: ``patience.request`` (60 s); a commit ``request + commit`` and its size by
    ``rate``; ``fetch``, ``listing`` and ``history`` end after ``stall`` without progress. ``limit``
    shortens them. A call that is cancelled or late leaves a daemon thread that ends at its next request,
    chunk or timeout.
    """

    persistent = True
    squashes = True

    def __init__(
        self,
        repo: str,
        *,
        token: str | None,
        branch: str | None = None,
        prefix: str = "",
        endpoint: str | None = None,
        allow_public: bool = False,
        url: str = "",
        cache_dir: Path | None = None,
        probe: str = ".sidecar/lease.json",
        patience: Patience | None = None,
        large: int = LARGE,
        xet_from: int = XET_FROM,
        xet: bool | None = None,
    ) -> None:
        """Makes no request, and imports nothing.

        ``cache_dir`` takes what the client and hf_xet keep (``<state>/hf``). ``probe`` is the path by whose
        headers the head is read. ``large`` and ``xet_from`` are in bytes; ``xet`` None goes by what is
        installed.
        """
        at, below = f"@{branch}" if branch else "", f"/{prefix}" if prefix else ""
        self.url = url or f"hf://datasets/{repo}{at}{below}"
        self._place = Place(repo, branch or "main", (endpoint or ENDPOINT).rstrip("/"), token or None)
        self._prefix = prefix.strip("/")
        self._allow_public = allow_public
        self._cache = cache_dir or Path(tempfile.gettempdir()) / f"sidecar-hf-{os.getuid()}"
        self._probe = probe
        self._patience = patience or Patience()
        self._large = large
        self._xet_from = xet_from
        self._xet = xet
        self._branches = {self._place.branch}
        self._calls: set[Call] = set()
        self._children = transfer.Children()

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Within this block this task's calls, all together, take no longer than ``seconds`` from now."""
        token = _limit.set(min(_limit.get(), time.monotonic() + seconds))
        try:
            yield
        finally:
            _limit.reset(token)

    async def head(self) -> Revision | None:
        return await self._run(lambda r, c: hubread.head(r, self._probe, c), "read the head")

    async def fetch(
        self, revision: Revision, paths: Iterable[str], into: Path, progress: Progress | None = None
    ) -> None:
        names = list(paths)
        if names:
            await self._run(lambda r, c: hubfetch.fetch(r, revision, names, into, progress, c), "download", stall=True)

    async def fetch_range(
        self, revision: Revision, path: str, span: range, into: Path, progress: Progress | None = None
    ) -> None:
        if not span:
            return
        sink = Sink(into, span)
        try:
            work = partial(hubfetch.fetch_range, revision, path, sink, progress)
            await self._run(work, "download", stall=True)
        finally:
            await asyncio.to_thread(sink.close)

    async def listing(self, revision: Revision) -> Mapping[str, int]:
        """Without a prefix also what the Hub put there itself (``.gitattributes``)."""
        return await self._run(lambda r, c: hubread.listing(r, revision, c), "list the files", stall=True)

    async def identities(self, revision: Revision) -> Mapping[str, str]:
        """Git's id of each file; see ``Identified``."""
        return await self._run(lambda r, c: hubread.identities(r, revision, c), "list the files", stall=True)

    async def history(self, limit: int, branch: str | None = None) -> list[Commit]:
        on = branch or self._place.branch
        return await self._run(lambda r, c: hubread.history(r, limit, on, c), "read the history", stall=True)

    async def commit(
        self,
        parent: Revision | None,
        put: Mapping[str, Source],
        delete: Iterable[str],
        message: str,
        branch: str | None = None,
    ) -> Revision:
        """Returns ``parent`` itself where nothing would change: the client makes no empty commit.

        After an unclear answer, and after a 412, the commit is looked for in the history, by its title on
        top of ``parent``; only what can't be cleared up so is passed on.
        """
        on = branch or self._place.branch
        if parent is None:
            parent = await self._run(lambda r, c: _first_parent(r, on, c), "read the history")
        elif on not in self._branches:
            await self._run(lambda r, c: _branch(r, parent, on, c), f"make the branch {on}")
        self._branches.add(on)
        gone = tuple(p for p in dict.fromkeys(delete) if p not in put and why_not(p) is None)
        job = Job(on, parent, dict(put), gone, message)
        try:
            return await self._send(job)
        except (Unavailable, Conflict) as error:
            if isinstance(error, Unavailable) and not error.unclear:
                raise
            looks = 3 if isinstance(error, Unavailable) else 1
            with suppress(Unavailable, NotFound):
                found = await self._run(lambda r, c: landed(r, job, c, looks), "look for the commit")
                if found is not None:
                    return found
            raise

    async def keep(self, revision: Revision, name: str) -> None:
        await self._run(lambda r, c: _keep(r, revision, name, c), f"make the branch {name}")

    async def branches(self) -> Mapping[str, Revision]:
        found = await self._run(hubhistory.branches, "list the branches")
        return {name: revision for name, revision in found.items() if name != self._place.branch}

    async def drop(self, name: str) -> None:
        if name == self._place.branch:
            raise StoreError(f"{shown(name)} is the main line of {self.url}: it stays. Nothing was changed.")
        self._branches.discard(name)
        await self._run(lambda r, c: hubhistory.drop(r, name, c), f"let go of the branch {name}")

    async def compact(
        self, oldest: Revision | None = None, *, branch: str | None = None, title: str = "", dry_run: bool = False
    ) -> int | None:
        """Squash the branch into one commit, which has another name then.

        What the Hub gives back it counts by itself, within 36 hours (its documentation, "Storage limits").
        """
        if self._prefix:
            raise Unsupported(
                f"{self.url} is a part of a dataset: a squash would take the history of the other parts too."
                " Nothing was changed."
            )
        if not dry_run:
            on = branch or self._place.branch
            await self._run(lambda r, c: hubhistory.squash(r, on, title, c), "squash the history")
        return None

    async def usage(self) -> Usage:
        return await self._run(hubhistory.usage, "ask how much is kept")

    async def check(self, create: bool = False) -> Access:
        hubaccess.refuse_early(self._place)
        return await self._run(lambda r, c: hubaccess.check(r, create, self._allow_public, c), "check the access")

    async def close(self) -> None:
        for call in list(self._calls):
            call.give_up()
        self._children.kill()
        await asyncio.to_thread(hubclient.leave, self)

    async def _send(self, job: Job) -> Revision:
        try:
            size = sum(len(s) if isinstance(s, bytes) else s.stat().st_size for s in job.put.values())
        except OSError as error:
            raise explain(error, "read a staged file", self._place) from error
        seconds = self._patience.request + self._patience.commit + size / self._patience.rate
        xet = hubclient.xet_possible() if self._xet is None else self._xet
        if size <= (self._xet_from if xet else self._large):
            return await self._run(lambda r, c: commit(r, job, c, plain=True), "commit", seconds=seconds)
        call = Call(self._patience, seconds, _limit.get())
        with self._explained(call, "commit"):
            order = transfer.Order(self._place, self._prefix, job, self._cache, xet)
            return await transfer.upload(order, call, self._children)

    async def _run(
        self,
        work: Callable[[Repo, Call], T],
        doing: str,
        *,
        seconds: float | None = None,
        stall: bool = False,
    ) -> T:
        """``work`` in a thread of its own, under a time limit; ``doing`` completes "could not …"."""
        usual = self._patience.stall if stall else self._patience.request
        call = Call(self._patience, seconds or usual, _limit.get(), stall=stall)
        with self._explained(call, doing):
            hubaccess.refuse_unsendable(self._place)
            return await in_thread(lambda: work(self._repo(), call), call)

    @contextmanager
    def _explained(self, call: Call, doing: str) -> Iterator[None]:
        self._calls.add(call)
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            hint = self._patience.hint
            raise explain(error, doing, self._place, posted=call.posted, hint=hint) from error
        finally:
            self._calls.discard(call)

    def _repo(self) -> Repo:
        return hubclient.open_repo(self._place, self._prefix, self._cache, self)


def _keep(repo: Repo, revision: Revision, name: str, call: Call) -> None:
    if _branch(repo, revision, name, call):
        return
    known = hubhistory.branches(repo, call).get(name)
    if known != revision:
        raise Conflict(
            f"the branch {shown(name)} of {repo.id} is at {known or 'no revision'} and stays there; keep {revision} "
            "under another name."
        )


def _branch(repo: Repo, revision: Revision, name: str, call: Call) -> bool:
    """Make a branch; False where one of that name is there already, whatever it names."""
    if not name or len(name.encode("utf-8", "replace")) > _LONGEST_BRANCH:
        raise StoreError(f"{shown(name)} is no branch name: it is empty or too long. Nothing was changed.")
    try:
        again(lambda: repo.api.create_branch(repo.id, branch=name, revision=revision, repo_type="dataset"), call)
    except Answered as answer:
        if answer.status != 409:
            raise
        return False
    return True


def _first_parent(repo: Repo, branch: str, call: Call) -> Revision:
    """The parent of a first commit: what the Hub made with the repo, if nothing came after it."""
    commits = hubread.history(repo, 2, branch, call)
    if not commits and branch != "main":
        oldest = hubread.history(repo, 100_000, "main", call)[-1].revision
        _branch(repo, oldest, branch, call)
        return oldest
    # A squashed history is one commit too, but not an empty one.
    if len(commits) != 1 or not hubread.untouched(repo, commits[0].revision, call):
        raise Conflict(f"{repo.id} was committed to before: read its head first.")
    return commits[0].revision
