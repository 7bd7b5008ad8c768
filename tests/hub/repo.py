"""One repo: commits as an append-only log on disk, trees rebuilt from it, refs in one small file."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.hub.wire import entry_not_found, revision_not_found, stamp

_TREES_KEPT = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """One file. `oid` is git's blob id: of the content, or of the pointer where `lfs`."""

    sha256: str
    size: int
    oid: str
    lfs: bool


@dataclass(frozen=True, slots=True)
class Commit:
    sha: str
    parent: str | None
    title: str
    description: str
    author: str
    date: str
    put: Mapping[str, Entry]
    drop: tuple[str, ...]


@dataclass(slots=True)
class LfsObject:
    """A large file that belongs to a repo, whether a commit names it or not: this is what storage counts."""

    size: int
    pushed: str
    filename: str = ""
    ref: str | None = None


@dataclass(slots=True)
class Repo:
    home: Path
    kind: str
    id: str
    private: bool
    created: str
    gated: bool | str = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    lfs: dict[str, LfsObject] = field(default_factory=dict)
    regular_bytes: int = 0
    commits: dict[str, Commit] = field(default_factory=dict)
    busy: bool = False
    _trees: OrderedDict[str, dict[str, Entry]] = field(default_factory=OrderedDict)

    @property
    def prefix(self) -> str:
        """How the repo's pages start: models have no prefix."""
        return self.id if self.kind == "models" else f"{self.kind}/{self.id}"

    @property
    def used(self) -> int:
        return self.regular_bytes + sum(o.size for o in self.lfs.values())

    def resolve(self, revision: str) -> str:
        """The commit that a branch, tag, ref or (short) sha names. Raises HubError 404 RevisionNotFound."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        sha = self.branches.get(name) or self.tags.get(name)
        if sha is None and revision in self.commits:
            sha = revision
        if sha is None and len(revision) >= 7:
            sha = next((c for c in self.commits if c.startswith(revision)), None)
        if sha is None:
            raise revision_not_found(revision)
        return sha

    def history(self, sha: str) -> Iterator[Commit]:
        at: str | None = sha
        while at is not None:
            commit = self.commits[at]
            yield commit
            at = commit.parent

    def tree(self, sha: str) -> dict[str, Entry]:
        """All files at a commit by path. The caller must not change it."""
        chain: list[Commit] = []
        base: dict[str, Entry] = {}
        for commit in self.history(sha):
            if commit.sha in self._trees:
                base = self._trees[commit.sha]
                break
            chain.append(commit)
        if chain:
            base = dict(base)
            for commit in reversed(chain):
                for path in commit.drop:
                    base.pop(path, None)
                base.update(commit.put)
            self._trees[sha] = base
            while len(self._trees) > _TREES_KEPT:
                self._trees.popitem(last=False)
        else:
            self._trees.move_to_end(sha)
        return base

    def entry(self, sha: str, path: str) -> Entry:
        """Raises HubError 404 EntryNotFound, with the commit in its headers."""
        found = self.tree(sha).get(path)
        if found is None:
            raise entry_not_found(headers={"X-Repo-Commit": sha})
        return found

    def last_change(self, sha: str, path: str) -> Commit:
        """The commit that gave `path` (a file or folder) what it has at `sha`."""
        under = path + "/"
        last = self.commits[sha]
        for commit in self.history(sha):
            last = commit
            if path in commit.put or path in commit.drop:
                break
            if any(p.startswith(under) for p in (*commit.put, *commit.drop)):
                break
        return last

    def add_commit(
        self,
        branch: str,
        title: str,
        author: str,
        put: Mapping[str, Entry],
        drop: tuple[str, ...] = (),
        *,
        description: str = "",
        date: str | None = None,
    ) -> Commit:
        """Append a commit to `branch` (made if missing) and make it the head, in that order."""
        draft = Commit("", self.branches.get(branch), title, description, author, date or stamp(), dict(put), drop)
        commit = replace(draft, sha=_commit_sha(draft))
        with (self.home / "commits.jsonl").open("ab") as log:
            log.write(_line(commit))
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha
        for path, entry in put.items():
            if entry.lfs and (known := self.lfs.get(entry.sha256)) and not known.filename:
                known.filename, known.ref = path, f"refs/heads/{branch}"
            elif not entry.lfs:
                self.regular_bytes += entry.size
        self.save()
        return commit

    def squash(self, branch: str, message: str, author: str) -> Commit:
        """One commit with the tree of `branch` and no parent; what no ref reaches is gone for good."""
        tree = self.tree(self.branches[branch])
        draft = Commit("", None, message, "", author, stamp(), dict(tree), ())
        commit = replace(draft, sha=_commit_sha(draft))
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha
        alive = {c.sha for ref in (*self.branches.values(), *self.tags.values()) for c in self.history(ref)}
        self._replace_log({sha: c for sha, c in self.commits.items() if sha in alive})
        return commit

    def forget_lfs(self, hashes: set[str], rewrite: bool) -> None:
        """Drop large files for good; with `rewrite` also from every commit, which renames those commits."""
        for sha256 in hashes:
            self.lfs.pop(sha256, None)
        if not rewrite:
            self.save()
            return
        renamed: dict[str, str] = {}
        rewritten: dict[str, Commit] = {}
        for old in self.commits.values():
            put = {p: e for p, e in old.put.items() if not (e.lfs and e.sha256 in hashes)}
            parent = renamed.get(old.parent, old.parent) if old.parent else None
            commit = replace(old, put=put, parent=parent)
            if put != old.put or parent != old.parent:
                gone = tuple(p for p in old.put if p not in put)
                commit = replace(commit, drop=(*old.drop, *gone))
                commit = replace(commit, sha=_commit_sha(commit))
            renamed[old.sha] = commit.sha
            rewritten[commit.sha] = commit
        self.branches = {name: renamed[sha] for name, sha in self.branches.items()}
        self.tags = {name: renamed[sha] for name, sha in self.tags.items()}
        self._replace_log(rewritten)

    def save(self) -> None:
        value = {
            "kind": self.kind,
            "id": self.id,
            "private": self.private,
            "created": self.created,
            "gated": self.gated,
            "branches": self.branches,
            "tags": self.tags,
            "lfs": {sha: asdict(o) for sha, o in self.lfs.items()},
            "regular_bytes": self.regular_bytes,
        }
        scratch = self.home / "repo.json.new"
        scratch.write_text(json.dumps(value))
        os.replace(scratch, self.home / "repo.json")

    def _replace_log(self, commits: dict[str, Commit]) -> None:
        # New log, then refs, then nothing that only the old log had: a kill in between leaves refs that the
        # new log may lack, so the old lines stay in it until the refs are on disk.
        log, scratch = self.home / "commits.jsonl", self.home / "commits.jsonl.new"
        with log.open("ab") as out:
            out.writelines(_line(c) for c in commits.values())
        self.save()
        scratch.write_bytes(b"".join(_line(c) for c in commits.values()))
        os.replace(scratch, log)
        self.commits = commits
        self._trees.clear()


def load_repo(home: Path) -> Repo:
    value: dict[str, Any] = json.loads((home / "repo.json").read_text())
    value["lfs"] = {sha: LfsObject(**o) for sha, o in value["lfs"].items()}
    repo = Repo(home=home, **value)
    log = home / "commits.jsonl"
    lines = log.read_bytes() if log.exists() else b""
    if lines and not lines.endswith(b"\n"):
        with log.open("ab") as out:
            out.write(b"\n")
    for line in lines.splitlines():
        try:
            raw = json.loads(line)
        except ValueError:
            continue  # the torn last line of a killed server: no ref names it
        raw["put"] = {path: Entry(*e) for path, e in raw["put"].items()}
        raw["drop"] = tuple(raw["drop"])
        commit = Commit(**raw)
        repo.commits[commit.sha] = commit
    return repo


def _line(commit: Commit) -> bytes:
    put = {p: [e.sha256, e.size, e.oid, e.lfs] for p, e in commit.put.items()}
    value = {
        "sha": commit.sha,
        "parent": commit.parent,
        "title": commit.title,
        "description": commit.description,
        "author": commit.author,
        "date": commit.date,
        "put": put,
        "drop": commit.drop,
    }
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _commit_sha(draft: Commit) -> str:
    return hashlib.sha1(_line(draft) + secrets.token_bytes(8), usedforsecurity=False).hexdigest()
