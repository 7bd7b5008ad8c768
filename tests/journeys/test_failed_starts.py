"""The test that matters most: a store that fails while we start never loses what it holds.

Each case lays a good history into a dataset of its own, lets the store fail in one way, and starts a Space on an empty
disk. Whatever it does then, no commit on the main line may lack the earlier files; every commit is looked at.
The starts run side by side (see ``running``); a test only asks for the outcome of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest

from sidecar.stores.base import Commit
from sidecar.stores.folder import FolderStore
from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub
from tests.journeys import past
from tests.journeys.past import LEASE, MANIFEST, Past
from tests.journeys.space import Space, agent_of, living, tree

TIMEOUT_S = 3.0
MAIN = "touch ran; mkdir -p disk/data; echo new > disk/data/new.txt; exec sleep 1000"
AT_ONCE = 6
T = TypeVar("T")
STAGING = "/.sidecar-tmp-"


@dataclass(frozen=True)
class Lab:
    """One Hub with many datasets, and what each of them held before it failed."""

    hub: LocalHub
    past: Past
    folder: Path  # the same history in a folder store
    folder_earlier: Mapping[str, tuple[object, ...]]
    tmp: Path


Deed = Callable[[Lab, str], None]
"""Something done to a dataset."""


@dataclass(frozen=True)
class Fault:
    """``break_`` makes the dataset fail, ``mend`` heals it; ``says`` is in the error line of a start that gave up.

    There ``{newest}`` stands for the id of the newest snapshot before the fault.
    """

    name: str
    says: tuple[str, ...]
    break_: Deed
    mend: Deed
    code: int = 75
    token: str = ""  # the start's own, where it isn't the owner's
    bare: bool = False  # no history of ours


def rule(action: str, path: str = "", **fields: Any) -> tuple[Deed, Deed]:
    """A fault of the Hub's for all requests that name the dataset (and ``path``)."""
    rules: dict[str, int] = {}

    def break_(lab: Lab, repo: str) -> None:
        rules[repo] = lab.hub.fault(action, path=f"{repo}[./?]?.*{path}", times=None, **fields)

    def mend(lab: Lab, repo: str) -> None:
        lab.hub.clear_faults(rules[repo])

    return break_, mend


def edit(change: Callable[[Lab, str], tuple[dict[str, bytes], list[str]]]) -> tuple[Deed, Deed]:
    """Damage at rest: somebody's commit, taken back by another one."""

    def break_(lab: Lab, repo: str) -> None:
        put, delete = change(lab, repo)
        lab.hub.edit(repo, put, delete)

    def mend(lab: Lab, repo: str) -> None:
        good = next(c["sha"] for c in lab.hub.commits(repo) if c["title"].startswith(past.SNAPSHOT))
        put, delete = change(lab, repo)
        lab.hub.edit(repo, {path: lab.hub.read(repo, path, good) for path in (*put, *delete)})

    return break_, mend


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def good(lab: Lab, repo: str, path: str) -> bytes:
    """A file as the newest snapshot has it."""
    sha = next(c["sha"] for c in lab.hub.commits(repo) if c["title"].startswith(past.SNAPSHOT))
    return lab.hub.read(repo, path, sha)


def bundles(lab: Lab, repo: str) -> list[str]:
    sha = next(c["sha"] for c in lab.hub.commits(repo) if c["title"].startswith(past.SNAPSHOT))
    return [p for p in lab.hub.entries(repo, sha) if p.startswith(".sidecar/bundles/")]


def other_format(lab: Lab, repo: str) -> bytes:
    return json.dumps({**json.loads(good(lab, repo, MANIFEST)), "format": 99}).encode()


def others_lease(lab: Lab, repo: str) -> bytes:
    return json.dumps({**json.loads(good(lab, repo, LEASE)), "space": "bob/other", "instance": "bobs"}).encode()


def revoke(lab: Lab, repo: str) -> None:
    lab.hub.add_token(f"hf_{repo[6:]}", "alice")
    lab.hub.revoke_token(f"hf_{repo[6:]}")


def renew(lab: Lab, repo: str) -> None:
    lab.hub.add_token(f"hf_{repo[6:]}", "alice")


def deny(lab: Lab, repo: str) -> None:
    scopes = [("dataset", "alice/quite-another", ["repo.write"])]
    lab.hub.add_token(f"hf_{repo[6:]}", "alice", "fineGrained", scopes=scopes)


def void(_: object) -> None:
    return None


HIDDEN: dict[str, Any] = {
    "status": 404,
    "headers": {"X-Error-Code": "RepoNotFound"},
    "body": '{"error":"Repository not found"}',
}

FAULTS = (
    Fault("hang", ("no answer|in time",), *rule("hang")),
    Fault("revoked", ("401", "HF_TOKEN"), revoke, renew, code=69, token="own"),
    Fault("not-visible", ("token",), deny, renew, code=69, token="own"),
    # Only our own create tells that it exists: 409.
    Fault("hidden", ("exists", "can't see"), *rule("status", **HIDDEN), code=69),
    Fault("500", ("500",), *rule("status", status=500)),
    Fault("503", ("503",), *rule("status", status=503)),
    Fault("429", ("429",), *rule("status", status=429, headers={"Retry-After": "2"})),
    Fault("cut", ("out of reach",), *rule("cut_request", after=0)),
    Fault("manifest-cut", ("out of reach|ended early",), *rule("cut_response", "manifest.json", after=20)),
    Fault("manifest-flipped", ("damaged", "look at the store"), *rule("corrupt", "manifest.json")),
    Fault(
        "manifest-flipped-at-rest",
        ("damaged", "SIDECAR_REVISION={newest}"),
        *edit(lambda lab, repo: ({MANIFEST: flip(good(lab, repo, MANIFEST))}, [])),
    ),
    Fault(
        "file-truncated",
        ("damaged", "b.bin", "SIDECAR_REVISION={newest}"),
        *edit(lambda lab, repo: ({"data/deep/b.bin": good(lab, repo, "data/deep/b.bin")[:100]}, [])),
    ),
    Fault(
        "file-missing",
        ("damaged", "b.bin", "SIDECAR_REVISION={newest}"),
        *edit(lambda lab, repo: ({}, ["data/deep/b.bin"])),
    ),
    Fault(
        "file-flipped-at-rest",
        ("damaged", "b.bin", "SIDECAR_REVISION={newest}"),
        *edit(lambda lab, repo: ({"data/deep/b.bin": flip(good(lab, repo, "data/deep/b.bin"))}, [])),
    ),
    Fault("bundle-missing", ("damaged", r"\.gitignore"), *edit(lambda lab, repo: ({}, bundles(lab, repo)))),
    Fault("format", ("99", "[Uu]pdate"), *edit(lambda lab, repo: ({MANIFEST: other_format(lab, repo)}, []))),
    Fault("no-manifest", ("no manifest", "SIDECAR_REVISION={newest}"), *edit(lambda lab, repo: ({}, [MANIFEST]))),
    Fault(
        "foreign",
        ("data/theirs.txt", "prefix"),
        lambda lab, repo: void(lab.hub.edit(repo, {"data/theirs.txt": b"theirs"})),
        lambda lab, repo: void(lab.hub.edit(repo, {}, ["data/theirs.txt"])),
        bare=True,
    ),
    Fault(
        "other-identity",
        ("bob/other", "SIDECAR_ADOPT"),
        *edit(lambda lab, repo: ({LEASE: others_lease(lab, repo)}, [])),
        code=69,
    ),
    Fault(
        "public",
        ("public", "SIDECAR_PUBLIC"),
        lambda lab, repo: lab.hub.set_private(repo, False),
        lambda lab, repo: lab.hub.set_private(repo, True),
        code=69,
    ),
)
CASES = [(fault, how) for fault in FAULTS for how in ("exit", "wait", "continue")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    tmp = tmp_path_factory.mktemp("lab")
    with LocalHub(tmp / "hub", process=True) as hub:
        template = past.on_hub(hub, tmp / "template")
        folder = tmp / "folder"
        earlier, _ = past.in_folder(tmp / "folder-template", folder)
        yield Lab(hub, template, folder, earlier, tmp)


@pytest.fixture(scope="module")
def running(lab: Lab, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    """Every selected case, under way."""
    ids = {item.name.partition("[")[2] for item in request.session.items if isinstance(item, pytest.Function)}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(job, lab) for name, job in jobs().items() if f"{name}]" in ids}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("case", [f"{fault.name}-{how}" for fault, how in CASES])
def test_a_store_that_fails_at_start_loses_nothing(case: str, running: dict[str, Future[None]]) -> None:
    running[case].result()


def prepare(lab: Lab, fault: Fault, how: str) -> tuple[str, Space, Mapping[str, tuple[object, ...]]]:
    """The dataset with its past, broken, and a Space that is yet to start; and what must never be lost."""
    repo = f"alice/{fault.name}-{how}"
    if fault.bare:
        lab.hub.create_repo(repo)
    else:
        lab.past.lay(lab.hub, repo)
    fault.break_(lab, repo)
    token = f"hf_{repo[6:]}" if fault.token else DEFAULT_TOKEN
    settings = {"SIDECAR_RESTORE_TIMEOUT": f"{TIMEOUT_S:g}s", "SIDECAR_ON_RESTORE_FAILURE": how}
    space = past.hub_space(lab.hub, lab.tmp / f"{fault.name}-{how}", repo, token, **settings)
    return repo, space, {} if fault.bare else lab.past.earlier


def gives_up(lab: Lab, fault: Fault) -> None:
    """``exit``: in time, with its code, in words, and without having touched the store or started main."""
    repo, space, earlier = prepare(lab, fault, "exit")
    with living(space), past.watched(lab.hub, repo, earlier):
        process = space.start("sh", "-c", MAIN)
        while not space.said() and process.poll() is None:
            time.sleep(0.02)
        began = time.monotonic()  # Python takes its time to start where many do at once
        code = process.wait(TIMEOUT_S + 30)
        took = time.monotonic() - began
        require_given_up(space, fault, code, lab.past.newest)
        assert took < TIMEOUT_S + 10, f"{took:.1f} s\n{space.said()}"
        assert lab.hub.branches(repo).keys() == {"main"}


def require_given_up(space: Space, fault: Fault, code: int, newest: str = "") -> None:
    said = space.said()
    assert code == fault.code, said
    assert not (space.home / "ran").exists(), said
    line = next((x for x in said.splitlines() if "ERROR recovery failed" in x), "")
    for words in fault.says:
        words = words.replace("{newest}", rf"{re.escape(newest)}\b")
        assert re.search(words, line), f"{words!r} is not in {line!r}\n{said}"
    assert "othing was" in line, line
    assert "Traceback" not in said
    # What was verified is kept for the next attempt, in our own folders only.
    assert [p for p, facts in tree(space.disk).items() if facts[0] != "dir" and STAGING not in p] == []


def waits(lab: Lab, fault: Fault) -> None:
    """``wait``: health fails, main isn't started; once the store is mended the start goes on by itself."""
    repo, space, earlier = prepare(lab, fault, "wait")
    with living(space), past.watched(lab.hub, repo, earlier):
        space.start("sh", "-c", MAIN)
        space.wait(lambda s: "recovery-failed" in s["notes"])
        health = space.get("/health")
        assert health["status"] == "fail"
        assert "recovery-failed" in health["notes"]
        assert not (space.home / "ran").exists()
        assert lab.hub.branches(repo).keys() == {"main"}
        commits = len(lab.hub.commits(repo))
        fault.mend(lab, repo)
        space.running(70)
        space.wait(lambda s: (space.disk / "data/new.txt").exists())
        space.checkpoint()
        require_restored(space, earlier)
        assert len(lab.hub.commits(repo)) <= commits + 4, [c["title"] for c in lab.hub.commits(repo)]
        assert space.end() == 143, space.said()
        assert "Traceback" not in space.said()
        newest = past.manifest_of(lab.hub, repo, "main")
        assert {e["path"] for e in newest["entries"]} >= {*earlier, "data/new.txt"}


def require_restored(space: Space, earlier: Mapping[str, tuple[object, ...]]) -> None:
    now = dict(tree(space.disk))
    assert {path: now.get(path) for path in earlier if path != "data"} == {
        path: facts for path, facts in earlier.items() if path != "data"
    }


def goes_on(lab: Lab, fault: Fault) -> None:
    """``continue``: main runs; what it writes lands on a branch of its own, once the store is back.

    Not after a refusal (69): that is final but with ``wait``.
    """
    repo, space, earlier = prepare(lab, fault, "continue")
    with living(space), past.watched(lab.hub, repo, earlier):
        process = space.start("sh", "-c", MAIN)
        if fault.code == 69:
            require_given_up(space, fault, process.wait(TIMEOUT_S + 15), lab.past.newest)
            assert lab.hub.branches(repo).keys() == {"main"}
            return
        status = space.running()
        assert status["mode"] == "orphan"
        assert space.get("/health")["status"] == "fail"
        main = contents(lab.hub, repo)
        fault.mend(lab, repo)
        main_mended = contents(lab.hub, repo)
        branch = f"orphan/{status['instance']}"
        space.wait(lambda s: s["sync"]["snapshot"] is not None, 70)
        require_orphan(lab.hub, repo, branch)
        (space.disk / "data/more.txt").write_text("more")
        assert space.end() == 143, space.said()
        assert lab.hub.read(repo, "data/more.txt", branch) == b"more"
        require_orphan(lab.hub, repo, branch)
        assert "Traceback" not in space.said()
        assert "ERROR recovery failed" in space.said()
        assert branch in space.said()
        assert contents(lab.hub, repo) == main_mended
        assert len(main_mended) - len(main) <= 1
        assert lab.hub.branches(repo).keys() == {"main", branch}


def contents(hub: LocalHub, repo: str) -> list[str]:
    """The main line's commits, but for those of the lease: giving a claim back may come at any moment."""
    return [c["sha"] for c in hub.commits(repo) if not c["title"].startswith("sidecar: lease")]


def require_orphan(hub: LocalHub, repo: str, branch: str) -> None:
    """The branch's manifest names main's own new file, and every file that it names is there."""
    manifest, there = past.manifest_of(hub, repo, branch), hub.entries(repo, branch)
    files = {e["path"]: e for e in manifest["entries"] if e["kind"] == "file"}
    assert "data/new.txt" in files
    for path, entry in files.items():
        assert "bundle" in entry or there[path]["sha256"] == entry["sha256"], path


DOES: dict[str, Callable[[Lab, Fault], None]] = {"exit": gives_up, "wait": waits, "continue": goes_on}


# --- a folder store ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """``where`` is the file of the store that is broken; ``how`` it is (None: it is gone)."""

    name: str
    where: Callable[[Path], Path]
    how: Callable[[bytes], bytes] | None
    says: tuple[str, ...]
    code: int = 75


def content(store: Path, path: str) -> Path:
    sha = past.digest(past.FIRST[path]) if path in past.FIRST else past.digest(shelf(store, path))
    return store / "contents" / sha[:2] / sha[2:]


def shelf(store: Path, path: str, revision: str | None = None, branch: str | None = None) -> bytes:
    """A file of a folder store, at its head."""

    async def read() -> bytes:
        opened = FolderStore(store)
        with TemporaryDirectory() as into:
            at = revision or (await opened.history(1, branch))[0].revision
            await opened.fetch(at, [path], Path(into))
            await opened.close()
            return (Path(into) / path).read_bytes()

    return asyncio.run(read())


def shelf_commits(store: Path, branch: str | None = None) -> list[Commit]:
    async def read() -> list[Commit]:
        opened = FolderStore(store)
        found = await opened.history(1000, branch)
        await opened.close()
        return found

    return asyncio.run(read())


def head_revision(store: Path) -> Path:
    sha = (store / "refs/main").read_text().strip()
    return store / "revisions" / sha[:2] / sha[2:]


DAMAGES = (
    Damage("file-missing", lambda s: content(s, "data/deep/b.bin"), None, ("b.bin", "damaged", "whole snapshot")),
    Damage("file-flipped", lambda s: content(s, "data/deep/b.bin"), flip, ("b.bin", "damaged", "whole snapshot")),
    Damage("manifest-flipped", lambda s: content(s, MANIFEST), flip, ("damaged", "SIDECAR_REVISION=1.2")),
    Damage("revision-missing", head_revision, None, ("damaged|missing",)),
    Damage("refs-gone", lambda s: s / "refs/main", None, ("refs/", "copy")),
    Damage("marker-gone", lambda s: s / "sidecar-store.json", None, ("holds snapshots", "bring"), 69),
)


def damaged_folder(lab: Lab, damage: Damage) -> None:
    """Exit, wait and continue, one after the other on one store."""
    home = lab.tmp / f"folder-{damage.name}"
    store = home / "store"
    shutil.copytree(lab.folder, store)
    before = shelf_commits(store)
    path = damage.where(store)
    whole = path.read_bytes()

    def break_() -> None:
        path.unlink()
        if damage.how is not None:
            path.write_bytes(damage.how(whole))

    def space(how: str) -> Space:
        settings = {"SIDECAR_RESTORE_TIMEOUT": f"{TIMEOUT_S:g}s", "SIDECAR_ON_RESTORE_FAILURE": how}
        return Space(home / how, f"file://{store}", SIDECAR_IDENTITY=past.IDENTITY, **settings)

    fault = Fault(damage.name, damage.says, lambda *_: None, lambda *_: None, code=damage.code)
    break_()
    with living(space("exit")) as first:
        require_given_up(first, fault, first.start("sh", "-c", MAIN).wait(30))
    with living(space("wait")) as third:
        third.start("sh", "-c", MAIN)
        third.wait(lambda s: "recovery-failed" in s["notes"])
        assert not (third.home / "ran").exists()
        path.write_bytes(whole)
        third.running()
        third.checkpoint()
        require_restored(third, lab.folder_earlier)
        assert third.end() == 143, third.said()
        assert "Traceback" not in third.said()
    path = damage.where(store)
    whole = path.read_bytes()
    break_()
    with living(space("continue")) as second:
        process = second.start("sh", "-c", MAIN)
        if damage.code == 69:
            require_given_up(second, fault, process.wait(30))
            path.write_bytes(whole)
        else:
            status = second.running()
            assert status["mode"] == "orphan"
            path.write_bytes(whole)
            second.wait(lambda s: s["sync"]["snapshot"] is not None)
            assert second.end() == 143, second.said()
            assert shelf(store, "data/new.txt", branch=f"orphan/{status['instance']}") == b"new\n"
    for commit in shelf_commits(store)[: -len(before)]:
        if commit.title.startswith(past.SNAPSHOT):
            entries = {e["path"]: e for e in json.loads(shelf(store, MANIFEST, commit.revision))["entries"]}
            for name, facts in lab.folder_earlier.items():
                assert name in entries, commit.title
                assert facts[0] != "file" or entries[name]["sha256"] == facts[3], commit.title
        else:
            assert commit.title.startswith("sidecar: lease"), commit.title


@pytest.mark.parametrize("case", [f"folder-{damage.name}" for damage in DAMAGES])
def test_a_damaged_folder_store_loses_nothing(case: str, running: dict[str, Future[None]]) -> None:
    running[case].result()


# --- what else belongs to it ------------------------------------------------------------------------------------------


def cold_start_refused(lab: Lab) -> None:
    """`refuse`: an empty store is a mistake. Nothing is made, and the owner is told."""
    repo = "alice/never-there"
    settings = {"SIDECAR_COLD_START": "refuse", "SIDECAR_RESTORE_TIMEOUT": "3s", "SIDECAR_ON_RESTORE_FAILURE": "exit"}
    with living(past.hub_space(lab.hub, lab.tmp / "refuse-missing", repo, **settings)) as space:
        assert space.start("sh", "-c", MAIN).wait(20) == 69, space.said()
        assert "SIDECAR_STORE" in space.said()
        assert repo not in [r["repo"] for r in lab.hub.repos()]
    lab.hub.create_repo("alice/empty")
    with living(past.hub_space(lab.hub, lab.tmp / "refuse-empty", "alice/empty", **settings)) as space:
        assert space.start("sh", "-c", MAIN).wait(20) == 75, space.said()
        assert "SIDECAR_COLD_START=refuse" in space.said()
        assert len(lab.hub.commits("alice/empty")) == 1
    for name in ("none", "empty"):
        store = lab.tmp / f"refuse-folder-{name}"
        if name == "empty":
            store.mkdir()
        with living(Space(lab.tmp / f"refuse-{name}-home", f"file://{store}", **settings)) as space:
            assert space.start("sh", "-c", MAIN).wait(20) in (69, 75), space.said()
            assert not (space.home / "ran").exists()
            assert not store.exists() or not any(store.iterdir())
            assert "Traceback" not in space.said()


def older_snapshot(lab: Lab) -> None:
    """SIDECAR_REVISION goes back once, keeps what it leaves behind, and what it brought back is durable."""
    repo = "alice/older"
    lab.past.lay(lab.hub, repo)
    lab.hub.edit(repo, {}, ["data/deep/b.bin"])  # the head is damaged, in a file that the older one has too
    left_behind = lab.hub.files(repo)
    back = {"SIDECAR_REVISION": lab.past.snapshots[0]}
    with living(past.hub_space(lab.hub, lab.tmp / "older", repo)) as space:
        space.start("sh", "-c", MAIN, **back)
        space.running()
        space.wait(lambda s: (space.disk / "data/new.txt").exists())
        found = {p: (space.disk / p).read_bytes() for p, f in tree(space.disk).items() if f[0] == "file"}
        assert found == {**past.FIRST, "data/new.txt": b"new\n"}
        space.checkpoint()
        kept = [name for name in lab.hub.branches(repo) if name.startswith("damaged/")]
        assert len(kept) == 1, lab.hub.branches(repo)
        held = lab.hub.files(repo, kept[0])
        assert {p: held[p] for p in left_behind if p != LEASE} == {
            p: data for p, data in left_behind.items() if p != LEASE
        }
        require_whole_head(lab.hub, repo, found)
        (space.disk / "data/since.txt").write_text("since")
        space.checkpoint()
        assert space.end() == 143, space.said()
        # Still set, and the disk is still there.
        space.start("sh", "-c", "exec sleep 1000", **back)
        space.running()
        assert (space.disk / "data/since.txt").read_text() == "since", space.said()
        assert space.end() == 143, space.said()
        # Still set, and the disk is lost; then no longer set.
        for extra in (back, {}):
            space.lose_disk()
            space.start("sh", "-c", "exec sleep 1000", **extra)
            space.running()
            now = {p: (space.disk / p).read_bytes() for p, f in tree(space.disk).items() if f[0] == "file"}
            assert now == {**found, "data/since.txt": b"since"}, space.said()
            assert space.end() == 143, space.said()
        require_whole_head(lab.hub, repo, now)
        assert "Traceback" not in space.said()
        space.start("true", SIDECAR_REVISION="9.9", SIDECAR_ON_RESTORE_FAILURE="exit")
        assert space.process is not None
        assert space.process.wait(20) == 78
        assert "SIDECAR_REVISION=9.9" in space.said()


def require_whole_head(hub: LocalHub, repo: str, files: Mapping[str, bytes]) -> None:
    """The head's manifest names exactly these files, and its tree has their bytes."""
    entries = {e["path"]: e for e in past.manifest_of(hub, repo, "main")["entries"] if e["kind"] == "file"}
    assert entries.keys() == files.keys()
    there = hub.entries(repo)
    for path, data in files.items():
        assert entries[path]["sha256"] == past.digest(data), path
        assert "bundle" in entries[path] or there[path]["sha256"] == past.digest(data), path


def orphan_twice(lab: Lab) -> None:
    """Two lives that went on without their files, on one disk: each branch holds all that it names."""
    repo = "alice/orphans"
    lab.past.lay(lab.hub, repo)
    main = [c["sha"] for c in lab.hub.commits(repo)]
    settings = {"SIDECAR_RESTORE_TIMEOUT": "1s", "SIDECAR_ON_RESTORE_FAILURE": "continue"}
    with living(past.hub_space(lab.hub, lab.tmp / "orphans", repo, **settings)) as space:
        for _ in range(2):
            fault = lab.hub.fault("status", status=503, path=repo, times=None)
            space.start("sh", "-c", MAIN)
            status = space.running()
            lab.hub.clear_faults(fault)
            branch = f"orphan/{status['instance']}"
            space.wait(lambda s: s["sync"]["snapshot"] is not None)
            require_orphan(lab.hub, repo, branch)
            # Its agent dies, and the next one goes on with the same branch.
            os.kill(agent_of(space), signal.SIGKILL)
            (space.disk / "data/after.txt").write_text(branch)
            space.wait(lambda s: s["main"]["state"] == "running" and s["sync"]["snapshot"] is not None)
            assert space.end() == 143, space.said()
            assert lab.hub.read(repo, "data/after.txt", branch).decode() == branch, space.said()
            require_orphan(lab.hub, repo, branch)
        assert [c["sha"] for c in lab.hub.commits(repo)] == main
        # The store is well again: the earlier files come back, and nothing of what is here is lost.
        space.start("sleep", "1000", SIDECAR_ON_RESTORE_FAILURE="exit", SIDECAR_RESTORE_TIMEOUT="20s")
        space.running()
        space.checkpoint()
        require_restored(space, lab.past.earlier)
        for commit in lab.hub.commits(repo)[: -len(main)]:
            past.require_all(lab.hub, repo, commit, lab.past.earlier)
        assert lab.hub.read(repo, "data/after.txt").decode() == branch
        assert space.end() == 143, space.said()


def orphan_keeps_out(lab: Lab) -> None:
    """The store is away at start; when it is back it is another's, or for all to read: nothing is written."""
    settings = {"SIDECAR_RESTORE_TIMEOUT": "1s", "SIDECAR_ON_RESTORE_FAILURE": "continue"}
    for name in ("another", "readable"):
        repo = f"alice/{name}"
        lab.past.lay(lab.hub, repo)
        if name == "another":
            lab.hub.edit(repo, {LEASE: others_lease(lab, repo)})
        else:
            lab.hub.set_private(repo, False)
        branches = lab.hub.branches(repo)
        fault = lab.hub.fault("status", status=503, path=repo, times=None)
        with living(past.hub_space(lab.hub, lab.tmp / name, repo, **settings)) as space:
            space.start("sh", "-c", MAIN)
            space.running()
            lab.hub.clear_faults(fault)
            words = "bob/other" if name == "another" else "public"
            while words not in space.said():
                space.wait(lambda s: True)
                time.sleep(0.1)
            assert space.end() == 143, space.said()
            assert "last sync was not made" in space.said()
        assert lab.hub.branches(repo) == branches


def only_readable(lab: Lab) -> None:
    """Reads work and commits don't: main gets its files, and nothing is written until the store lets us."""
    repo = "alice/unleased"
    lab.past.lay(lab.hub, repo)
    before = lab.hub.branches(repo)
    fault = lab.hub.fault("status", status=403, endpoint="commit", path=repo, times=None)
    with living(past.hub_space(lab.hub, lab.tmp / "unleased", repo)) as space, past.watched(lab.hub, repo, {}):
        space.hurry(REGAIN_S=1.0)
        for mended in (False, True):
            space.start("sh", "-c", MAIN)
            status = space.running()
            assert status["lease"]["state"] == "unleased"
            assert space.get("/health")["status"] == "warn"
            require_restored(space, lab.past.earlier)
            assert space.post("/checkpoint")[0] == 503
            if mended:
                lab.hub.clear_faults(fault)
                space.wait(lambda s: s["lease"]["state"] == "held")
                space.checkpoint()
                assert lab.hub.read(repo, "data/new.txt") == b"new\n"
                past.require_all(lab.hub, repo, lab.hub.commits(repo)[0], lab.past.earlier)
                assert "unleased" not in space.get()["notes"]
            assert space.end() == 143, space.said()
            assert ("the last sync was not made" in space.said().rpartition("UNLEASED")[2]) is not mended
            assert mended or lab.hub.branches(repo) == before
        assert "Traceback" not in space.said()


def stopped_while_it_waits(lab: Lab) -> None:
    """SIGTERM while the store is away: out at once."""
    repo = "alice/stopped"
    lab.past.lay(lab.hub, repo)
    settings = {"SIDECAR_RESTORE_TIMEOUT": "1s", "SIDECAR_ON_RESTORE_FAILURE": "wait"}
    for action in ("hang", "status"):
        fault = lab.hub.fault(action, status=503, path=repo, times=None)
        with living(past.hub_space(lab.hub, lab.tmp / f"stopped-{action}", repo, **settings)) as space:
            space.start("sh", "-c", MAIN)
            space.wait(lambda s: "recovery-failed" in s["notes"])
            began = time.monotonic()
            assert space.end() == 143, space.said()
            assert time.monotonic() - began < 8
            assert not (space.home / "ran").exists()
            assert "Traceback" not in space.said()
        lab.hub.clear_faults(fault)
    assert lab.hub.commits(repo)[0]["title"].startswith(past.SNAPSHOT)


def renamed(lab: Lab) -> None:
    """Under its old name a dataset is found or refused, but no empty one is made in its place."""
    repo, now = "alice/renamed", "alice/renamed-since"
    lab.past.lay(lab.hub, repo)
    lab.hub.rename_repo(repo, now)
    settings = {"SIDECAR_RESTORE_TIMEOUT": "3s", "SIDECAR_ON_RESTORE_FAILURE": "exit"}
    with living(past.hub_space(lab.hub, lab.tmp / "renamed", repo, **settings)) as space:
        with past.watched(lab.hub, now, lab.past.earlier):
            code = space.start("touch", "ran").wait(30)
        assert code in (0, 69, 75), space.said()
        assert (space.home / "ran").exists() is (code == 0)
        if code == 0:
            require_restored(space, lab.past.earlier)
        assert repo not in [r["repo"] for r in lab.hub.repos()]
        assert "Traceback" not in space.said()


def half_restored(lab: Lab) -> None:
    """Everything died in the middle of a restore, and the store is away at the next start: it is finished first."""
    repo = "alice/half"
    lab.past.lay(lab.hub, repo)
    settings = {"SIDECAR_RESTORE_TIMEOUT": "1s", "SIDECAR_ON_RESTORE_FAILURE": "continue"}
    with living(past.hub_space(lab.hub, lab.tmp / "half", repo, **settings)) as space:
        (space.home / "sitecustomize.py").write_text(DIES_IN_A_RESTORE)
        path = f"{space.home}:{space.env['PYTHONPATH']}"
        dying = space.start("sh", "-c", MAIN, PYTHONPATH=path, SIDECAR_RESTORE_TIMEOUT="20s")
        assert dying.wait(20) == -signal.SIGKILL, space.said()
        journal = space.state / "restore-journal.jsonl"
        assert journal.exists(), space.said()
        lab.hub.fault("status", status=503, path=repo, times=None)
        space.start("sh", "-c", MAIN)
        space.running()
        assert not journal.exists()
        require_restored(space, lab.past.earlier)
        assert space.end() == 143, space.said()
        assert "Traceback" not in space.said()


DIES_IN_A_RESTORE = """
import os, signal, sys
seen = 0
def hook(event, args):
    global seen
    if event == "os.rename" and "agent" in sys.argv:
        journal = os.environ["SIDECAR_STATE_DIR"] + "/restore-journal.jsonl"
        seen += os.path.exists(journal)
        if seen == 2:
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""


MORE: dict[str, Callable[[Lab], None]] = {
    "cold-start-refused": cold_start_refused,
    "older-snapshot": older_snapshot,
    "orphan-twice": orphan_twice,
    "orphan-keeps-out": orphan_keeps_out,
    "only-readable": only_readable,
    "stopped-while-it-waits": stopped_while_it_waits,
    "half-restored": half_restored,
    "renamed": renamed,
}


@pytest.mark.parametrize("case", MORE)
def test_and(case: str, running: dict[str, Future[None]]) -> None:
    running[case].result()


def jobs() -> dict[str, Callable[[Lab], None]]:
    """All cases by name; those that wait longest first."""
    faults: dict[str, Callable[[Lab], None]] = {f"{f.name}-{how}": _on(DOES[how], f) for f, how in CASES}
    folders: dict[str, Callable[[Lab], None]] = {f"folder-{d.name}": _on(damaged_folder, d) for d in DAMAGES}
    return {**dict(list(faults.items())[:3]), **MORE, **folders, **faults}


def _on(does: Callable[[Lab, T], None], what: T) -> Callable[[Lab], None]:
    return lambda lab: does(lab, what)
