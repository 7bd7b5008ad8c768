"""One commit on the Hub, all of it or nothing, and the look at what it did. Blocks, in a ``hubcall.Call``.

The same code runs in the agent for what is small and in ``transfer``'s child process for the rest.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from sidecar.masking import shown
from sidecar.stores.base import Conflict, Corrupt, Refused, Revision, Source
from sidecar.stores.hubcall import Answered, Call, again, root
from sidecar.stores.hubread import Known, history, known, marked
from sidecar.stores.hubrepo import Repo
from sidecar.stores.paths import why_not

_IN_MEMORY = 128 * 1024
"""Sources up to this size are read, larger ones opened: neither many bytes nor many open files at once."""


@dataclass(frozen=True, slots=True)
class Job:
    """One commit: ``parent`` must be the head of ``branch``."""

    branch: str
    parent: Revision
    put: Mapping[str, Source]
    delete: tuple[str, ...]
    message: str

    @property
    def title(self) -> str:
        return self.message.partition("\n")[0]


def commit(repo: Repo, job: Job, call: Call, *, plain: bool) -> Revision:
    """Upload, commit and verify; returns the new revision, or the parent where nothing would change.

    ``plain`` sends large files over LFS, whatever is installed: the client does so with what it gets as an
    open file (``_commit_api.py``, ``_upload_files``), and hf_xet with its threads and buffers stays out of
    this process. Without it the client chooses, which is Xet where hf_xet is there.

    Raises ``Conflict``, ``Refused``, ``Corrupt``, or what ``hubcall`` raises; ``call.posted`` tells whether
    the commit itself was sent.
    """
    hub = importlib.import_module("huggingface_hub")
    try:
        # The Hub answers 404 to a commit that deletes what isn't there.
        there = known(repo, job.parent, job.delete, call)
    except Answered as answer:
        if answer.code == "RevisionNotFound":
            raise Conflict(f"{repo.id} has moved on: {job.parent} is gone from it.") from answer
        raise
    removals = [hub.CommitOperationDelete(repo.path(path), is_folder=False) for path in job.delete if path in there]
    with _additions(hub, repo, job, plain) as additions:
        if additions:
            _preupload(repo, job, additions, call)
        if additions or removals:
            revision = _post(repo, job, [*removals, *additions], call)
        else:
            revision = history(repo, 1, job.branch, call)[0].revision
    if not call.posted:
        # The client leaves out what wouldn't change anything, and makes no commit where that is all of it;
        # it then answers with the head, whosever that is.
        if revision != job.parent:
            raise Conflict(f"{repo.id} has moved on: somebody else committed to {job.branch}.")
        return revision
    verify(repo, job, revision, call)
    return revision


@contextmanager
def _additions(hub: Any, repo: Repo, job: Job, plain: bool) -> Iterator[list[Any]]:
    with ExitStack() as files:
        made = []
        for path, source in job.put.items():
            if why := why_not(path):
                raise Refused(f"{shown(path)} can't stand in a dataset: {why}.", path)
            content: Any = source if isinstance(source, bytes) else str(source)
            if plain and isinstance(source, bytes):
                content = io.BytesIO(source)
            elif plain and isinstance(source, Path):
                small = source.stat().st_size <= _IN_MEMORY
                content = io.BytesIO(source.read_bytes()) if small else files.enter_context(open(source, "rb"))
            try:
                made.append(hub.CommitOperationAdd(path_in_repo=repo.path(path), path_or_fileobj=content))
            except ValueError as error:
                if isinstance(source, Path) and not source.is_file():
                    raise FileNotFoundError(2, "the staged copy is gone", str(source)) from error
                raise Refused(
                    f"The Hub's client takes no path like {shown(path)}: it must travel in a bundle.", path
                ) from error
        yield made


def _preupload(repo: Repo, job: Job, additions: list[Any], call: Call) -> None:
    """Ask how each file travels, upload the large ones; when repeated, what has arrived isn't sent again."""

    def upload() -> None:
        for batch in _batches(additions):
            for addition in batch:
                if isinstance(addition.path_or_fileobj, io.BufferedIOBase):
                    addition.path_or_fileobj.seek(0)
            repo.api.preupload_lfs_files(repo.id, batch, repo_type="dataset", revision=job.branch, free_memory=False)

    again(upload, call)
    for path, addition in zip(job.put, additions, strict=True):
        if _left_out(addition):
            raise Refused(f"A .gitignore in {repo.id} keeps {shown(path)} out: it must travel in a bundle.", path)


def _left_out(addition: Any) -> bool:
    """Will the client drop it from the commit, without a word, for a .gitignore in the repo?"""
    return bool(getattr(addition, "_should_ignore", False))


def _batches(additions: list[Any]) -> list[list[Any]]:
    """In one batch no two open files with the same bytes: the client would send both from one, at once."""
    first: list[Any] = []
    twins: list[Any] = []
    seen: set[bytes] = set()
    for addition in additions:
        opened = isinstance(addition.path_or_fileobj, io.BufferedIOBase)
        (twins if opened and addition.upload_info.sha256 in seen else first).append(addition)
        if opened:
            seen.add(addition.upload_info.sha256)
    return [batch for batch in (first, twins) if batch]


def _post(repo: Repo, job: Job, operations: list[Any], call: Call) -> Revision:
    title, _, rest = job.message.partition("\n")

    def send() -> Revision:
        made = repo.api.create_commit(
            repo.id,
            operations,
            commit_message=title,
            commit_description=marked(repo.prefix, rest.strip("\n")),
            repo_type="dataset",
            revision=job.branch,
            parent_commit=job.parent,
        )
        return str(made.oid)

    pause = call.patience.pause
    for turn in range(call.patience.tries):
        try:
            return again(send, call, unless=lambda: call.posted)
        except Exception as error:
            answer = root(error)
            if not isinstance(answer, Answered):
                raise
            if answer.status < 500 and answer.status != 408:
                call.posted = False  # a clear no
            if answer.path.endswith("/validate-yaml") and answer.status < 500:
                raise Refused(f"The Hub takes no such README.md: {answer.text}", "README.md") from error
            if answer.status != 409 or turn == call.patience.tries - 1:
                if refused := _refusal(answer, repo, job, call):
                    raise refused from error
                raise
        # Another commit is under way. Ours has the same parent: it meets a 412 if that one gets through.
        call.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(pause * 2, call.patience.longest)
    raise AssertionError("unreachable")


def _refusal(answer: Answered, repo: Repo, job: Job, call: Call) -> Refused | None:
    """What a 400 is about, where that is one of our paths: one that it names, or that is file and folder."""
    if answer.status not in (400, 422):
        return None
    # A bare word might be in the text by chance.
    named = [path for path in job.put if "/" in path and repo.path(path) in answer.text]
    path = max(named, key=len) if named else _clash(repo, job, call)
    return Refused(f"The Hub refuses {shown(path)}: {answer.text}", path) if path else None


def _clash(repo: Repo, job: Job, call: Call) -> str | None:
    """A path of ``job`` that would be a folder's, or lie below a file."""
    above = {path: [str(p) for p in PurePosixPath(path).parents][:-1] for path in job.put}
    every = {*above, *(parent for parents in above.values() for parent in parents)}
    folders: set[str] = set()
    files = {*known(repo, job.parent, every, call, folders=folders), *job.put} - set(job.delete)
    for path, parents in above.items():
        if path in folders or any(parent in files for parent in parents):
            return path
    return None


def verify(repo: Repo, job: Job, revision: Revision, call: Call) -> None:
    """See that each put and delete of ``job`` is in effect there; else ``Refused`` or ``Corrupt``."""
    found = known(repo, revision, [*job.put, *job.delete], call, new=True)
    for path, source in job.put.items():
        if path not in found:
            raise Refused(
                f"The Hub left {shown(path)} out of commit {revision} (a .gitignore?): it must travel in a bundle.",
                path,
            )
        if not _same(source, found[path]):
            raise Corrupt(f"{repo.id} holds other bytes at {shown(path)} than commit {revision} put there.")
    for path in job.delete:
        if path in found and path not in job.put:
            raise Corrupt(f"{repo.id} still holds {shown(path)}, which commit {revision} deleted.")


def _same(source: Source, there: Known) -> bool:
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size != there.size:
        return False
    if there.sha256 is not None:
        return _digest(source, hashlib.sha256()) == there.sha256
    return _digest(source, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)) == there.blob


def _digest(source: Source, into: Any) -> str:
    if isinstance(source, bytes):
        into.update(source)
    else:
        with open(source, "rb") as file:
            while chunk := file.read(1 << 20):
                into.update(chunk)
    return str(into.hexdigest())


def landed(repo: Repo, job: Job, call: Call, looks: int) -> Revision | None:
    """The revision of ``job`` if it got through: its title on top of its parent, its puts in effect.

    Looks ``looks`` times while the head is still the parent: the commit may be on its way.
    """
    pause = call.patience.pause
    for turn in range(looks):
        commits = history(repo, 20, job.branch, call)
        for newer, older in pairwise(commits):
            if newer.title == job.title and older.revision == job.parent:
                verify(repo, job, newer.revision, call)
                return newer.revision
        if turn == looks - 1 or not commits or commits[0].revision != job.parent:
            return None
        call.sleep(pause)
        pause = min(pause * 2, call.patience.longest)
    return None
