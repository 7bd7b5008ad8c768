"""Xet's content-addressed store on disk: xorbs as they came, and how files are made of their chunks."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.hub.blobs import Blobs
from tests.hub.merkle import file_hash, from_hex, range_hash, remainder
from tests.hub.shard import ShardFile, Term
from tests.hub.wire import HubError
from tests.hub.xorb import Chunk, Xorb, index, unpack

# A chunk that is worth a question to the server, besides the first of a file.
_ASKED_EVERY = 1024


@dataclass(frozen=True, slots=True)
class XetFile:
    hash: str
    sha256: str | None
    terms: tuple[Term, ...]

    @property
    def size(self) -> int:
        return sum(t.size for t in self.terms)


@dataclass(frozen=True, slots=True)
class Piece:
    """Chunks [first, last) of a xorb and the bytes [start, end) where they lie packed."""

    first: int
    last: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How to make (part of) a file: cut `skip` bytes off the front of `terms`; `pieces` by xorb to fetch."""

    skip: int
    terms: tuple[Term, ...]
    pieces: dict[str, list[Piece]]


class Cas:
    def __init__(self, root: Path, blobs: Blobs) -> None:
        self.root, self.blobs = root, blobs
        (root / "xorbs").mkdir(parents=True, exist_ok=True)
        (root / "files").mkdir(exist_ok=True)
        self.files: dict[str, XetFile] = {}
        self.by_sha256: dict[str, str] = {}
        self._xorbs: dict[str, Xorb] = {}
        self._asked: dict[str, str] = {}
        for path in sorted((root / "files").glob("*.json")):
            value = json.loads(path.read_text())
            self._register(XetFile(value["hash"], value["sha256"], tuple(Term(**t) for t in value["terms"])))

    # -- xorbs --

    def path(self, xorb: str) -> Path:
        return self.root / "xorbs" / xorb

    def xorb(self, name: str) -> Xorb | None:
        known = self._xorbs.get(name)
        notes = self.root / "xorbs" / f"{name}.json"
        if known is None and notes.exists():
            known = Xorb(name, tuple(Chunk(*c) for c in json.loads(notes.read_text())))
            self._xorbs[name] = known
        return known

    def add_xorb(self, name: str, data: bytes) -> bool:
        """Keep a xorb; False where it was there. Raises HubError 400 where it doesn't hash to `name`."""
        if self.xorb(name) is not None:
            return False
        try:
            found = index(data)
        except ValueError as exc:
            raise HubError(400, f"Malformed xorb: {exc}") from None
        if found.hash != name:
            raise HubError(400, f"The content hashes to {found.hash}, not {name}")
        scratch = self.blobs.scratch()
        scratch.write_bytes(data[: found.packed])
        os.replace(scratch, self.path(name))
        scratch.write_text(json.dumps([[c.hash, c.start, c.end, c.size] for c in found.chunks]))
        os.replace(scratch, self.root / "xorbs" / f"{name}.json")
        self._xorbs[name] = found
        return True

    # -- files --

    def add_file(self, given: ShardFile) -> XetFile:
        """Register a file of a shard once its hash and proofs agree with the xorbs. Raises HubError 400."""
        leaves: list[tuple[bytes, int]] = []
        for number, term in enumerate(given.terms):
            chunks = self._chunks(term)
            if sum(c.size for c in chunks) != term.size:
                raise HubError(400, f"Term {number} of {given.hash} has another length than its chunks")
            hashes = [from_hex(c.hash) for c in chunks]
            if given.proofs and given.proofs[number] != range_hash(hashes):
                raise HubError(400, f"Term {number} of {given.hash} fails verification")
            leaves += [(raw, c.size) for raw, c in zip(hashes, chunks, strict=True)]
        if from_hex(given.hash) != file_hash(leaves):
            raise HubError(400, f"The terms of {given.hash} make another file")
        file = XetFile(given.hash, given.sha256, given.terms)
        value = {"hash": file.hash, "sha256": file.sha256, "terms": [asdict(t) for t in file.terms]}
        scratch = self.blobs.scratch()
        scratch.write_text(json.dumps(value))
        os.replace(scratch, self.root / "files" / f"{file.hash}.json")
        self._register(file)
        return file

    def _register(self, file: XetFile) -> None:
        self.files[file.hash] = file
        if file.sha256 is not None:
            self.by_sha256[file.sha256] = file.hash
        for number, term in enumerate(file.terms):
            for place, chunk in enumerate(self._chunks(term)):
                first = number == 0 and place == 0
                if first or remainder(from_hex(chunk.hash), _ASKED_EVERY) == 0:
                    self._asked[chunk.hash] = term.xorb

    def _chunks(self, term: Term) -> tuple[Chunk, ...]:
        xorb = self.xorb(term.xorb)
        if xorb is None or not 0 <= term.start < term.end <= len(xorb.chunks):
            raise HubError(400, f"Xorb {term.xorb} has no chunks {term.start} to {term.end}")
        return xorb.chunks[term.start : term.end]

    def holder(self, chunk: str) -> Xorb | None:
        """The xorb that holds a chunk, where the chunk is one that clients may ask for."""
        name = self._asked.get(chunk)
        return None if name is None else self.xorb(name)

    # -- reading --

    def plan(self, file: XetFile, start: int, end: int) -> Plan:
        """How to make bytes [start, end) of a file, in whole chunks."""
        skip, at = 0, 0
        terms: list[Term] = []
        for term in file.terms:
            first = last = size = 0
            for number, chunk in enumerate(self._chunks(term), term.start):
                if at < end and at + chunk.size > start:
                    if not terms and not size:
                        skip = start - at
                    first, last, size = (first if size else number), number + 1, size + chunk.size
                at += chunk.size
            if size:
                terms.append(Term(term.xorb, first, last, size))
        return Plan(skip, tuple(terms), self._pieces(terms))

    def _pieces(self, terms: list[Term]) -> dict[str, list[Piece]]:
        merged: dict[str, list[list[int]]] = {}
        for term in sorted(terms, key=lambda t: (t.xorb, t.start)):
            spans = merged.setdefault(term.xorb, [])
            if spans and term.start <= spans[-1][1]:
                spans[-1][1] = max(spans[-1][1], term.end)
            else:
                spans.append([term.start, term.end])
        pieces: dict[str, list[Piece]] = {}
        for name, spans in merged.items():
            xorb = self.xorb(name)
            assert xorb is not None
            pieces[name] = [
                Piece(first, last, xorb.chunks[first].start, xorb.chunks[last - 1].end) for first, last in spans
            ]
        return pieces

    def materialize(self, sha256: str) -> None:
        """Make a whole file of its chunks, to read over plain HTTP. Raises HubError 404, 500 if damaged."""
        name = self.by_sha256.get(sha256)
        if name is None:
            raise HubError(404, f"No object {sha256}")
        scratch, digest = self.blobs.scratch(), hashlib.sha256()
        with scratch.open("wb") as out:
            for term in self.files[name].terms:
                chunks = self._chunks(term)
                with self.path(term.xorb).open("rb") as file:
                    file.seek(chunks[0].start)
                    packed = file.read(chunks[-1].end - chunks[0].start)
                for _, _, content in unpack(packed):
                    digest.update(content)
                    out.write(content)
        if digest.hexdigest() != sha256:
            scratch.unlink()
            raise HubError(500, f"The chunks of {name} don't make {sha256}")
        self.blobs.adopt(scratch, sha256)
