"""A store with a past: good snapshots of earlier files, made once by a real Space, then laid out as often as needed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from sidecar.snapshot.manifest import snapshot_in
from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub
from tests.journeys.space import Space, living, tree

IDENTITY = "alice/app"
MANIFEST = ".sidecar/manifest.json"
LEASE = ".sidecar/lease.json"
RECOVERY = ".sidecar/recovery.jsonl"
SNAPSHOT = "sidecar: snapshot "

FIRST = {"data/a.txt": b"one\n", "data/deep/b.bin": bytes(range(256)) * 9, "conf/c.json": b'{"n": 1}\n'}
LATER = {"data/a.txt": b"two\n", "data/d.txt": b"later\n", "conf/.gitignore": b"*.json\n"}


@dataclass(frozen=True)
class Past:
    """What the template's history holds. ``earlier`` is the head's tree, as ``space.tree`` tells it."""

    commits: tuple[dict[str, Any], ...]  # oldest first, without the Hub's own
    contents: Mapping[tuple[str, str], bytes]  # (sha, path) -> what that commit put there
    earlier: Mapping[str, tuple[object, ...]]
    snapshots: tuple[str, ...]

    @property
    def newest(self) -> str:
        """The head's snapshot; on a busy machine more were made than were asked for."""
        return next(i for c in reversed(self.commits) if (i := snapshot_in(c["title"])) is not None)

    def lay(self, hub: LocalHub, repo: str) -> None:
        """The same history in a new dataset."""
        hub.create_repo(repo)
        for commit in self.commits:
            put = {path: self.contents[commit["sha"], path] for path in commit["put"]}
            hub.edit(repo, put, commit["drop"], title=commit["title"])


def on_hub(hub: LocalHub, home: Path) -> Past:
    """Let a Space write, and keep, two states; end it in order."""
    repo = "alice/template"
    with living(hub_space(hub, home, repo)) as space:
        earlier, snapshots = _live(space)
    commits = [c for c in reversed(hub.commits(repo)) if c["put"] != [".gitattributes"]]
    contents = {(c["sha"], path): hub.read(repo, path, c["sha"]) for c in commits for path in c["put"]}
    return Past(tuple(commits), contents, earlier, snapshots)


def in_folder(home: Path, store: Path) -> tuple[Mapping[str, tuple[object, ...]], tuple[str, ...]]:
    """The same in a folder store; to be copied."""
    with living(Space(home, f"file://{store}", SIDECAR_IDENTITY=IDENTITY)) as space:
        return _live(space)


def _live(space: Space) -> tuple[Mapping[str, tuple[object, ...]], tuple[str, ...]]:
    write(space.disk, FIRST)
    space.start()
    space.running()
    made = [space.checkpoint()["snapshot"]]
    write(space.disk, LATER)
    (space.disk / "conf/c.json").chmod(0o640)
    made.append(space.checkpoint()["snapshot"])
    earlier = tree(space.disk)
    assert space.end() == 143, space.said()
    shutil.rmtree(space.disk)
    return earlier, tuple(made)


def write(disk: Path, files: Mapping[str, bytes]) -> None:
    for path, data in files.items():
        (disk / path).parent.mkdir(parents=True, exist_ok=True)
        (disk / path).write_bytes(data)


def hub_space(hub: LocalHub, home: Path, repo: str, token: str = DEFAULT_TOKEN, **settings: str) -> Space:
    """A Space of the usual identity with its snapshots in ``repo``."""
    given = {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "SIDECAR_IDENTITY": IDENTITY, **settings}
    return Space(home, f"hf://datasets/{repo}", **given)


@contextmanager
def watched(hub: LocalHub, repo: str, earlier: Mapping[str, tuple[object, ...]]) -> Iterator[None]:
    """Whatever happens inside, no commit of the sidecar's on the main line may lack the earlier files."""
    before = {c["sha"] for c in hub.commits(repo)}
    yield
    for commit in hub.commits(repo):
        if commit["sha"] not in before and commit["title"].startswith("sidecar: "):
            require_all(hub, repo, commit, earlier)


def require_all(hub: LocalHub, repo: str, commit: dict[str, Any], earlier: Mapping[str, tuple[object, ...]]) -> None:
    """A commit of the sidecar touches the lease and its record alone, or names and holds every earlier file."""
    if not commit["title"].startswith(SNAPSHOT):
        assert set(commit["put"]) <= {LEASE, RECOVERY}, commit
        assert commit["drop"] == [], commit
        return
    manifest = json.loads(hub.read(repo, MANIFEST, commit["sha"]))
    entries = {entry["path"]: entry for entry in manifest["entries"]}
    there = hub.entries(repo, commit["sha"])
    for path, facts in earlier.items():
        assert path in entries, f"{commit['title']} lacks {path}"
        entry = entries[path]
        if facts[0] == "file":
            assert entry["sha256"] == facts[3], f"{commit['title']} has another {path}"
            if "bundle" in entry:
                bundle = entry["bundle"] if isinstance(entry["bundle"], str) else entry["bundle"][0]
                assert f".sidecar/bundles/{bundle}.tar.zst" in there, f"{commit['title']}: no bundle for {path}"
            else:
                assert there[path]["sha256"] == facts[3], f"{commit['title']} holds other bytes of {path}"


def manifest_of(hub: LocalHub, repo: str, revision: str) -> dict[str, Any]:
    return dict(json.loads(hub.read(repo, MANIFEST, revision)))


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()
