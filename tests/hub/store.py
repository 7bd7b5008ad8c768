"""All repos of the Hub and their contents, under one data folder that a restarted server reads again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from tests.hub.blobs import Blobs, git_oid, pointer_for
from tests.hub.repo import Entry, LfsObject, Repo, load_repo
from tests.hub.wire import HubError, stamp

KINDS = ("models", "datasets", "spaces")
# What a new dataset holds on the real Hub, shortened: the patterns decide what is stored as LFS.
_LFS_SUFFIXES = """
    7z arrow bin bz2 ckpt ftz gz h5 joblib lz4 mds mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl
    pt pth rar safetensors tar tflite tgz wasm xz zip zst pcm sam raw aac flac mp3 ogg wav bmp gif png tiff
    jpg jpeg webp mp4 webm
"""
GITATTRIBUTES = "".join(f"*.{s} filter=lfs diff=lfs merge=lfs -text\n" for s in _LFS_SUFFIXES.split()).encode()


class Store:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = Blobs(root / "blobs")
        self._repos: dict[tuple[str, str], Repo] = {}
        self.moved: dict[tuple[str, str], str] = {}
        for path in sorted(root.glob("repos/*/*/*/repo.json")):
            repo = load_repo(path.parent)
            self._repos[repo.kind, repo.id] = repo
        moved = root / "moved.json"
        if moved.exists():
            self.moved = {(kind, old): new for kind, old, new in json.loads(moved.read_text())}

    def repos(self) -> list[Repo]:
        return list(self._repos.values())

    def find(self, kind: str, repo_id: str) -> Repo | None:
        return self._repos.get((kind, repo_id))

    def create(self, kind: str, repo_id: str, *, private: bool, author: str) -> Repo:
        """A repo with the first commit that the Hub makes: `.gitattributes`. The caller knows it is new."""
        home = self._home(kind, repo_id)
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        repo = Repo(home=home, kind=kind, id=repo_id, private=private, created=stamp())
        self._repos[kind, repo_id] = repo
        self.moved.pop((kind, repo_id), None)
        put = {".gitattributes": self.regular(GITATTRIBUTES)}
        repo.add_commit("main", "initial commit", author, put)
        return repo

    def delete(self, repo: Repo) -> None:
        del self._repos[repo.kind, repo.id]
        shutil.rmtree(repo.home)

    def move(self, repo: Repo, new_id: str) -> None:
        """Rename a repo; requests to the old name are redirected. Raises HubError 409 for a taken name."""
        if self.find(repo.kind, new_id) is not None:
            raise HubError(409, f"{new_id} already exists")
        home = self._home(repo.kind, new_id)
        home.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(home, ignore_errors=True)
        os.replace(repo.home, home)
        old_id = repo.id
        repo.home, repo.id = home, new_id
        repo.save()
        self._repos[repo.kind, new_id] = self._repos.pop((repo.kind, old_id))
        self.moved[repo.kind, old_id] = new_id
        rows = [[kind, old, new] for (kind, old), new in self.moved.items()]
        (self.root / "moved.json").write_text(json.dumps(rows))

    def regular(self, data: bytes) -> Entry:
        return Entry(self.blobs.put(data), len(data), git_oid(data), lfs=False)

    def large(self, repo: Repo, sha256: str, size: int) -> Entry:
        """The entry of a large file; the repo owns the object from here on."""
        repo.lfs.setdefault(sha256, LfsObject(size, stamp()))
        return Entry(sha256, size, git_oid(pointer_for(sha256, size)), lfs=True)

    def _home(self, kind: str, repo_id: str) -> Path:
        return self.root / "repos" / kind / repo_id
