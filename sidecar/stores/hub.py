"""A store on a Hugging Face dataset, through the real ``huggingface_hub`` client (1.16 up to, not including, 3).

How a method comes to its answer: ``_run`` gives it a time limit and a thread (``hubcall``), the client's requests
pass through our transport (``hubclient``), what goes wrong is put into words (``huberrors``). Nothing but a
``StoreError`` leaves. Reading is in ``hubread`` and ``hubfetch``, writing in ``hubcommit`` and, for what is large,
in ``transfer``'s child process; who may do what, in ``hubaccess``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from sidecar.stores import hubaccess, hubclient, hubfetch, hubread, transfer
from sidecar.stores.base import Access, Commit, Conflict, NotFound, Progress, Revision, Source, Unavailable
from sidecar.stores.hubcall import Answered, Call, Patience, again, in_thread
from sidecar.stores.hubcommit import Job, commit, landed
from sidecar.stores.huberrors import Place, explain
from sidecar.stores.hubread import Repo

T = TypeVar("T")

ENDPOINT = "https://huggingface.co"
LARGE = 32 * 1024 * 1024
"""From this many bytes in one commit the upload has a process of its own, whichever way it goes."""
XET_FROM = 1024 * 1024
"""Where hf_xet is there, from this many bytes: below, deduplication saves less than starting a process costs."""

_limit: ContextVar[float] = ContextVar("sidecar_hub_limit", default=float("inf"))


class HubStore:
    """A dataset's branch, below ``prefix``.

    ``head`` is the repo's, whatever it holds: a new dataset begins with a commit of the Hub's own, so it is None
    only for a branch that isn't there. Whether a snapshot was ever made is told by the manifest, not by the head.

    Every call has a time limit: ``patience.request`` (60 s), for commits ``request + commit`` and their size by
    ``rate``, for ``fetch``, ``listing`` and ``history`` a ``stall`` without progress. ``limit`` shortens it. A call
    that is cancelled or late leaves a daemon thread behind that ends at its next request, chunk or timeout.
    """

    persistent = True

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
    ) -> None:
        """``cache_dir`` takes what the client and hf_xet keep (``<state>/hf``); ``probe`` is the path whose
        headers tell the head; ``large`` and ``xet_from`` are sizes in bytes. Makes no request."""
        self.url = url or f"hf://datasets/{repo}" + (f"@{branch}" if branch else "") + (
            f"/{prefix}" if prefix else ""
        )
        self._place = Place(repo, branch or "main", (endpoint or ENDPOINT).rstrip("/"), token or None)
        self._prefix = prefix.strip("/")
        self._allow_public = allow_public
        self._cache = cache_dir or Path(tempfile.gettempdir()) / f"sidecar-hf-{os.getuid()}"
        self._probe = probe
        self._patience = patience or Patience()
        self._large = large
        self._xet_from = xet_from
        self._branches = {self._place.branch}
        self._calls: set[Call] = set()
        self._children: set[asyncio.subprocess.Process] = set()

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Within this block no call of this task lasts longer than ``seconds`` from now, all together."""
        token = _limit.set(min(_limit.get(), time.monotonic() + seconds))
        try:
            yield
        finally:
            _limit.reset(token)

    async def head(self) -> Revision | None:
        try:
            return await self._run(lambda r, c: hubread.head(r, self._probe, c), "read the head")
        except NotFound as error:
            if self._place.branch != "main" and _revision_missing(error):
                return None
            raise

    async def fetch(
        self, revision: Revision, paths: Iterable[str], into: Path, progress: Progress | None = None
    ) -> None:
        names = list(paths)
        if names:
            await self._run(
                lambda r, c: hubfetch.fetch(r, revision, names, into, progress, c), "download", stall=True
            )

    async def listing(self, revision: Revision) -> Mapping[str, int]:
        return await self._run(lambda r, c: hubread.listing(r, revision, c), "list its files", stall=True)

    async def history(self, limit: int, branch: str | None = None) -> list[Commit]:
        name = branch or self._place.branch
        return await self._run(
            lambda r, c: hubread.history(r, limit, name, c), "read its history", stall=True
        )

    async def commit(
        self,
        parent: Revision | None,
        put: Mapping[str, Source],
        delete: Iterable[str],
        message: str,
        branch: str | None = None,
    ) -> Revision:
        """Returns ``parent`` itself where nothing would change. An unclear answer is looked into before it is
        passed on: the commit is found in the history by its title, on top of ``parent``."""
        on = branch or self._place.branch
        if parent is None:
            parent = await self._first_parent(on)
        if on not in self._branches:
            await self.keep(parent, on)
            self._branches.add(on)
        try:
            size = await asyncio.to_thread(_size, put)
        except OSError as error:
            raise explain(error, "read a staged file", self._place) from error
        apart = size > (self._xet_from if hubclient.xet_possible() else self._large)
        job = Job(on, parent, dict(put), tuple(delete), message, inline=not apart and size <= self._xet_from)
        seconds = self._patience.request + self._patience.commit + size / self._patience.rate
        try:
            if apart:
                return await self._apart(job, seconds)
            return await self._run(lambda r, c: commit(r, job, c), "commit", seconds=seconds)
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
        def make(repo: Repo, call: Call) -> None:
            try:
                again(
                    lambda: repo.api.create_branch(
                        repo.id, branch=name, revision=revision, repo_type="dataset"
                    ),
                    call,
                )
            except Answered as answer:
                if answer.status != 409:
                    raise

        await self._run(make, f"make the branch {name}")

    async def compact(self) -> None:
        """Squash the branch into one commit; it keeps the newest one's title. Every revision gets a new name."""

        def squash(repo: Repo, call: Call) -> None:
            title = hubread.history(repo, 1, repo.branch, call)[0].title
            repo.api.super_squash_history(
                repo.id, branch=repo.branch, commit_message=title, repo_type="dataset"
            )

        await self._run(squash, "squash its history")

    async def check(self, create: bool = False) -> Access:
        hubaccess.refuse_early(self._place)
        return await self._run(
            lambda r, c: hubaccess.check(
                r, self._place, create=create, allow_public=self._allow_public, call=c
            ),
            "check its access",
        )

    async def close(self) -> None:
        for call in list(self._calls):
            call.over.set()
        for child in list(self._children):
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        await asyncio.to_thread(hubclient.unload)

    async def _first_parent(self, branch: str) -> Revision:
        """The parent of the first commit: the one that the Hub made with the repo, if it is the only one."""

        def find(repo: Repo, call: Call) -> Revision:
            commits = hubread.history(repo, 2, branch, call)
            # A squashed history is one commit too, but not an empty one.
            begun = len(commits) != 1 or hubread.own_files(repo, commits[0].revision, call)
            if begun:
                raise Conflict(f"{repo.id} was committed to before: read its head first.")
            return commits[0].revision

        return await self._run(find, "read its history")

    async def _apart(self, job: Job, seconds: float) -> Revision:
        call = Call(self._patience, seconds, _limit.get())
        self._calls.add(call)
        try:
            return await transfer.upload(self._place, self._prefix, job, call, self._cache, self._children)
        except Exception as error:
            raise explain(
                error, "upload", self._place, posted=call.posted, hint=self._patience.hint
            ) from error
        finally:
            self._calls.discard(call)

    async def _run(
        self,
        work: Callable[[Repo, Call], T],
        doing: str,
        *,
        seconds: float | None = None,
        stall: bool = False,
    ) -> T:
        """``work`` in a thread of its own, under the time limit; every failure comes out as a ``StoreError``."""
        usual = self._patience.stall if stall else self._patience.request
        call = Call(self._patience, seconds or usual, _limit.get(), stall=stall)
        self._calls.add(call)
        try:
            return await in_thread(lambda: work(self._repo(), call), call)
        except Exception as error:
            raise explain(error, doing, self._place, posted=call.posted, hint=self._patience.hint) from error
        finally:
            self._calls.discard(call)

    def _repo(self) -> Repo:
        place = self._place
        hub = hubclient.load(self._cache, place.endpoint)
        api = hub.HfApi(endpoint=place.endpoint, token=place.token or False, library_name="space-sidecar")
        return Repo(api, place.repo, place.branch, self._prefix, place.endpoint, place.token)


def _size(put: Mapping[str, Source]) -> int:
    return sum(len(source) if isinstance(source, bytes) else source.stat().st_size for source in put.values())


def _revision_missing(error: NotFound) -> bool:
    cause = error.__cause__
    return isinstance(cause, Answered) and cause.code == "RevisionNotFound"
