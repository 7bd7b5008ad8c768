from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import ManifestError
from sidecar.snapshot import bundle
from sidecar.snapshot.manifest import Entry, Frame
from tests.snapshot.shapes import segments

names = st.lists(segments, min_size=1, max_size=12).map(lambda parts: "/".join(["data", *parts]))
contents = st.one_of(
    st.binary(max_size=2000),
    st.integers(0, 3 * bundle.FRAME).map(lambda n: b"%d" % n * (n // 6)),
    st.integers(250_000, 280_000).map(os.urandom),
)


def entry(path: str, data: bytes) -> Entry:
    sha = hashlib.sha256(data).hexdigest()
    return Entry(path, "file", 0o640, 1000, 1000, 1_700_000_000_000_000_000, len(data), sha)


def pack(files: Mapping[str, bytes], folder: Path) -> tuple[bundle.Built, Path]:
    members = []
    for number, (path, data) in enumerate(files.items()):
        source = folder / f"source-{number}"
        source.write_bytes(data)
        members.append((entry(path, data), source))
    packed = folder / "bundle"
    return bundle.write(members, packed), packed


def unpack(packed: Path, entries: Iterable[Entry]) -> dict[str, bytes]:
    """Every entry, frame by frame, each frame once."""
    frames: dict[Frame, dict[str, Entry]] = {}
    for e in entries:
        assert e.frame is not None
        frames.setdefault(e.frame, {})[e.path] = e
    out = {}
    with open(packed, "rb") as file:
        for frame, wanted in frames.items():
            for found, pieces in bundle.read(file.fileno(), frame, wanted):
                assert wanted[found.path] is found
                out[found.path] = b"".join(pieces)
                assert len(out[found.path]) == found.size
    return out


@given(st.dictionaries(names, contents, max_size=8))
@settings(max_examples=40, deadline=None)
def test_round_trip(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        built, packed = pack(files, folder)
        raw = packed.read_bytes()
        assert (built.sha256, built.size) == (hashlib.sha256(raw).hexdigest(), len(raw))
        assert [e.path for e in built.entries] == list(files)
        assert all(e.frame is not None and e.frame.bundle == built.sha256 for e in built.entries)
        assert unpack(packed, built.entries) == files
        for e in built.entries[:2]:
            assert unpack(packed, [e]) == {e.path: files[e.path]}, "one alone, without the others"


def test_small_files_share_a_frame_and_large_ones_have_their_own(tmp_path: Path) -> None:
    files = {f"data/{n}": os.urandom(1000) for n in range(50)} | {"data/large": os.urandom(600_000)}
    built, _ = pack(files, tmp_path)
    frames = {e.frame for e in built.entries}
    assert len(frames) == 2
    large = next(e for e in built.entries if e.path == "data/large")
    assert sum(e.frame == large.frame for e in built.entries) == 1


@pytest.mark.skipif(not shutil.which("zstd") or not shutil.which("tar"), reason="no zstd or tar here")
def test_a_person_opens_it_with_zstd_and_tar(tmp_path: Path) -> None:
    files = {
        "data/a b": b"one",
        "data/" + "deep/" * 40 + "x": b"two",
        os.fsdecode(b"data/\xff\xfe"): b"three",
        "data/large": os.urandom(700_000),
        "data/empty": b"",
    }
    _, packed = pack(files, tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    with subprocess.Popen(["zstd", "-dc", packed], stdout=subprocess.PIPE) as zstd:
        tar = subprocess.run(["tar", "-xp", "-C", out], stdin=zstd.stdout, capture_output=True, check=False)
    assert (zstd.returncode, tar.returncode, tar.stderr) == (0, 0, b"")
    assert {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()} == files
    found = (out / "data/a b").stat()
    assert (found.st_mode & 0o7777, found.st_mtime_ns) == (0o640, 1_700_000_000_000_000_000)


@given(
    st.one_of(names, st.integers(80, 120).map(lambda n: "x" * n)),
    st.one_of(st.integers(0, 1 << 34), st.integers((1 << 33) - 2, (1 << 33) + 2)),
    st.integers(0, 0o7777),
    st.one_of(st.integers(0, 1 << 32), st.integers((1 << 21) - 2, (1 << 21) + 2)),
    st.one_of(st.integers(-(1 << 63), 1 << 63), st.integers((1 << 33) - 2, (1 << 33) + 2).map(lambda s: s * 10**9)),
)
def test_a_header_is_what_tarfile_makes(path: str, size: int, mode: int, owner: int, mtime_ns: int) -> None:
    info = tarfile.TarInfo(path)
    info.size, info.mode, info.uid, info.gid, info.mtime = size, mode, owner, 7, mtime_ns // 10**9
    made = bundle.header_of(Entry(path, "file", mode, owner, 7, mtime_ns, size, "ab" * 32))
    assert made == info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def test_nothing_in_it_is_a_bundle_too(tmp_path: Path) -> None:
    built, packed = pack({}, tmp_path)
    assert built.entries == ()
    assert zstandard.ZstdDecompressor().decompress(packed.read_bytes(), max_output_size=4096) == b"\0" * 1024


def test_source_that_changed_since_it_was_staged(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"longer")
    with pytest.raises(OSError, match="changed while"):
        bundle.write([(entry("data/a", b"long"), source)], tmp_path / "bundle")


def compress(raw: bytes, level: int = 3) -> bytes:
    return zstandard.ZstdCompressor(level=level).compress(raw)


def tar(*members: tuple[str, bytes | None, Mapping[str, object]]) -> bytes:
    """A tar of (name, bytes, attributes of its header); the header may lie."""
    out = io.BytesIO()
    for name, data, attributes in members:
        info = tarfile.TarInfo(name)
        info.size = len(data or b"")
        for key, value in attributes.items():
            setattr(info, key, value)
        out.write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
        out.write((data or b"") + b"\0" * (-len(data or b"") % 512))
    return out.getvalue()


def read(raw: bytes, wanted: Iterable[Entry], folder: Path) -> dict[str, bytes]:
    packed = folder / "hostile"
    packed.write_bytes(raw)
    frame = Frame("ab" * 32, 0, len(raw))
    return unpack(packed, [replace(e, frame=frame) for e in wanted])


WANTED = entry("data/a", b"x" * 1000)


@pytest.mark.parametrize("size", [0, 999, 1001, 10**12])
def test_member_whose_size_is_not_the_manifests(tmp_path: Path, size: int) -> None:
    with pytest.raises(ManifestError, match="data/a"):
        read(compress(tar(("data/a", b"x" * 1000, {"size": size}))), [WANTED], tmp_path)


def test_member_that_ends_before_its_size(tmp_path: Path) -> None:
    raw = compress(tar(("data/a", b"x" * 1000, {}))[:700])
    with pytest.raises(ManifestError):
        read(raw, [WANTED], tmp_path)


JUNK = b"\0" * (64 << 20)


@pytest.mark.parametrize(
    "bomb",
    [tar(("data/junk", JUNK, {})), tar(("././@LongLink", JUNK, {"type": tarfile.GNUTYPE_LONGNAME}))],
    ids=["member", "header"],
)
def test_bomb_is_refused_before_it_unpacks(tmp_path: Path, bomb: bytes) -> None:
    raw = compress(bomb + tar(("data/a", b"x" * 1000, {})))
    assert len(raw) < 20_000
    with pytest.raises(ManifestError, match="more than its members need"):
        read(raw, [WANTED], tmp_path)


def test_frame_that_asks_for_a_huge_window(tmp_path: Path) -> None:
    settings = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    writer = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    raw = writer.compress(tar(("data/a", b"x" * 1000, {}))) + writer.flush()
    with pytest.raises(ManifestError):
        read(raw, [WANTED], tmp_path)


@pytest.mark.parametrize(
    "attributes",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd", "size": 0},
        {"type": tarfile.LNKTYPE, "linkname": "x"},
    ],
)
def test_what_is_no_regular_file_is_never_unpacked(tmp_path: Path, attributes: Mapping[str, object]) -> None:
    assert read(compress(tar(("data/a", None, attributes))), [WANTED], tmp_path) == {}


def test_names_that_nobody_asked_for_are_skipped(tmp_path: Path) -> None:
    raw = compress(tar(("../../etc/x", b"evil", {}), ("/abs", b"evil", {}), ("data/a", b"x" * 1000, {})))
    assert read(raw, [WANTED], tmp_path) == {"data/a": b"x" * 1000}
    assert sorted(os.listdir(tmp_path)) == ["hostile"]


def test_two_frames_read_as_one_end_after_the_first(tmp_path: Path) -> None:
    """A range that is longer than its frame brings nothing of the next one's members out of place."""
    raw = compress(tar(("data/a", b"x" * 1000, {}))) + compress(tar(("data/b", b"y" * 10, {})))
    assert read(raw, [WANTED, entry("data/b", b"y" * 10)], tmp_path)["data/a"] == b"x" * 1000


@given(st.binary(max_size=1500), st.booleans())
@settings(deadline=None)
def test_any_bytes_are_refused_in_words(raw: bytes, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        try:
            found = read(compress(raw) if packed else raw, [WANTED], Path(name))
        except ManifestError:
            return
        assert found == {}


_header = tar(("data/a", b"x" * 1000, {}))


@given(st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), min_size=1, max_size=8), st.booleans())
@settings(deadline=None)
def test_any_header_is_refused_or_read_right(changes: list[tuple[int, int]], mend: bool) -> None:
    """A header with a few bytes changed, also with its checksum made right again."""
    raw = bytearray(_header)
    for at, value in changes:
        raw[at] = value
    if mend:
        raw[148:156] = b" " * 8
        raw[148:156] = b"%06o\0 " % sum(raw[:512])
    with tempfile.TemporaryDirectory() as name:
        try:
            found = read(compress(bytes(raw)), [WANTED], Path(name))
        except ManifestError:
            return
        assert found in ({}, {"data/a": b"x" * 1000})


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=40)
def test_any_extended_header_is_refused_or_ignored(text: bytes) -> None:
    """pax and GNU headers carry text that tarfile reads whole: sizes, sparse maps, names."""
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE):
        raw = tar(("././@PaxHeader", text, {"type": kind}), ("data/a", b"x" * 1000, {}))
        with tempfile.TemporaryDirectory() as name:
            try:
                found = read(compress(raw), [WANTED], Path(name))
            except ManifestError:
                continue
            assert found in ({}, {"data/a": b"x" * 1000})


@pytest.mark.parametrize(
    "record",
    [
        pytest.param("GNU.sparse.map=a,b"),
        pytest.param("GNU.sparse.size=x"),
        "GNU.sparse.major=1",
        "GNU.sparse.numblocks=x",
        "GNU.sparse.realsize=-1",
        "size=-5",
        "size=99999999999999999999",
        "mtime=x",
        "path=x",
        "hdrcharset=x",
    ],
)
def test_pax_records_that_lie(tmp_path: Path, record: str) -> None:
    length = len(record) + 2
    while len(text := f"{length} {record}\n") != length:
        length = len(text)
    header = ("././@PaxHeader", text.encode(), {"type": tarfile.XHDTYPE})
    try:
        found = read(compress(tar(header, ("data/a", b"x" * 1000, {}))), [WANTED], tmp_path)
    except ManifestError:
        return
    assert found in ({}, {"data/a": b"x" * 1000})
