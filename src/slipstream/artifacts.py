"""A folder with a manifest and a checksum per file; nothing in it is ever unpickled.

An artifact is written beside its place and renamed, so it is never half there. Opening it checks every
byte against the manifest. Arrays are `.npy` files opened by memory map; weights are safetensors; tables
are Parquet; the rest is JSON.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import BadInput, Busy, CorruptArtifact, NotThere

FORMAT = 2
WITHOUT_SUM = 1  # an older format, whose manifest had no checksum of its own
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """An opened, verified artifact folder."""

    path: Path
    kind: str
    meta: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]

    def has(self, name: str) -> bool:
        return name in self.files

    def file(self, name: str) -> Path:
        if name not in self.files:
            raise CorruptArtifact(f"{self.path}: {name} is not part of this {self.kind}")
        return self.path / name

    def array(self, name: str) -> NDArray[Any]:
        """The array `name`, memory-mapped and read-only; no copy."""
        path = self.file(f"{name}.npy")
        try:
            # as a plain array over the map: indexing the memmap class itself costs 2 µs a time
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except ValueError:
            return np.asarray(np.load(path, allow_pickle=False))  # an empty array cannot be mapped

    def json(self, name: str) -> Any:
        return json.loads(self.file(f"{name}.json").read_text())

    def part(self, name: str) -> Artifact:
        """A nested artifact that was written with `ArtifactWriter.part`."""
        prefix = f"{name}/"
        inner = {k.removeprefix(prefix): v for k, v in self.files.items() if k.startswith(prefix)}
        if not inner:
            raise CorruptArtifact(f"{self.path}: there is no part {name!r} in this {self.kind}")
        meta = self.json(f"{name}/part")
        return Artifact(self.path / name, meta["kind"], meta["meta"], inner)

    def size(self) -> int:
        """Bytes of all files."""
        return sum(int(entry["bytes"]) for entry in self.files.values())


@dataclass
class ArtifactWriter:
    """Collects the files of an artifact in a folder that nobody reads yet."""

    path: Path
    kind: str
    meta: dict[str, Any] = field(default_factory=dict)

    def file(self, name: str) -> Path:
        """The path to write `name` to, with any library."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def array(self, name: str, values: NDArray[Any]) -> None:
        if values.dtype.hasobject:
            raise BadInput(f"array {name!r} holds Python objects", hint="store strings as a vocabulary")
        np.save(self.file(f"{name}.npy"), np.ascontiguousarray(values), allow_pickle=False)

    def json(self, name: str, value: Any) -> None:
        self.file(f"{name}.json").write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False))

    @contextmanager
    def part(self, name: str, kind: str, meta: Mapping[str, Any] | None = None) -> Iterator[ArtifactWriter]:
        """A nested artifact: a folder inside this one, covered by this one's manifest."""
        inner = ArtifactWriter(self.path / name, kind, dict(meta or {}))
        inner.path.mkdir(parents=True, exist_ok=True)
        yield inner
        self.json(f"{name}/part", {"kind": kind, "meta": inner.meta})


@contextmanager
def writing(path: Path, kind: str, meta: Mapping[str, Any] | None = None) -> Iterator[ArtifactWriter]:
    """Write an artifact: files appear at `path` all at once when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(path)
    beside = path.parent / f".{path.name}.writing-{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        writer = ArtifactWriter(beside, kind, dict(meta or {}))
        yield writer
        _finish(writer)
        _swap(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _clear_abandoned(path: Path) -> None:
    """Remove half-written folders of processes that were killed, so that reruns do not pile them up."""
    for beside in path.parent.glob(f".{path.name}.writing-*"):
        process = beside.name.rpartition("-")[2]
        if process.isdigit() and not _is_running(int(process)):
            shutil.rmtree(beside, ignore_errors=True)


def _is_running(process: int) -> bool:
    if os.name != "posix":
        return True  # elsewhere signal 0 is not a question: leave the folder
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _finish(writer: ArtifactWriter) -> None:
    files = {}
    for file in sorted(p for p in writer.path.rglob("*") if p.is_file()):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        files[file.relative_to(writer.path).as_posix()] = {"bytes": file.stat().st_size, "sha256": digest}
    manifest = {"format": FORMAT, "kind": writer.kind, "meta": writer.meta, "files": files}
    read_back = json.loads(json.dumps(manifest, allow_nan=False))
    summed = {**manifest, "sum": _sum(read_back)}
    replace_text(writer.path / MANIFEST, json.dumps(summed, ensure_ascii=False, indent=1, allow_nan=False))


def _sum(manifest: Mapping[str, Any]) -> str:
    """The checksum of what a manifest says, its own aside."""
    said = {key: value for key, value in manifest.items() if key != "sum"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _swap(beside: Path, path: Path) -> None:
    """Put `beside` at `path`. A folder cannot replace a full one, so the old one steps aside first."""
    aside = path.parent / f".{path.name}.old-{os.getpid()}"
    if path.exists():
        path.rename(aside)
    beside.rename(path)
    sync_folder(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_text(path: Path, text: str) -> None:
    """Write a small file all at once: readers see the old text or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.writing-{os.getpid()}")
    with beside.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def open_artifact(path: Path, kind: str, *, made_by: str = "") -> Artifact:
    """Open the artifact at `path` and check every byte. Cost: one read of all files.

    Raises NotThere if nothing is there, CorruptArtifact with the file's name if anything was changed.
    """
    recover(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        found, meta, files = manifest["kind"], manifest["meta"], manifest["files"]
        form = manifest["format"]
    except FileNotFoundError as error:
        raise NotThere(f"there is no {kind} at {path}", hint=made_by) from error
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise CorruptArtifact(f"{path / MANIFEST} cannot be read", hint="make the artifact again") from error
    if form not in (FORMAT, WITHOUT_SUM):
        raise CorruptArtifact(f"{path} has format {form}, this version reads {FORMAT}", hint="make it again")
    if form == FORMAT and manifest.get("sum") != _sum(manifest):
        raise CorruptArtifact(f"{path / MANIFEST} was changed after it was written", hint="make it again")
    if found != kind:
        raise CorruptArtifact(f"{path} is a {found}, not a {kind}")
    for name, entry in files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise CorruptArtifact(f"{path / MANIFEST} names a file outside the folder: {name}")
        _check(path / name, entry)
    return Artifact(path, kind, meta, files)


def _check(file: Path, entry: Mapping[str, Any]) -> None:
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise CorruptArtifact(f"{file} is missing", hint="make the artifact again") from error
    if digest != entry["sha256"]:
        raise CorruptArtifact(f"{file} was changed after it was written", hint="make the artifact again")


def recover(path: Path) -> None:
    """Undo what a killed process left: finish a swap that stopped between its two renames."""
    for aside in path.parent.glob(f".{path.name}.old-*"):
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(path)


@contextmanager
def holding(lock: Path, purpose: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the file `lock` alone; the operating system frees it when a process dies.

    Raises Busy, naming what the holder does, if somebody else holds it; with `wait`, waits instead.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "it has just begun"
            raise Busy(
                f"{lock.parent} is in use by another process ({holder})", hint="wait until it is done"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{purpose}, process {os.getpid()}".encode(), 0)
        yield
    finally:
        os.close(handle)
