"""Trajectory files that stay readable after a kill at any moment: frames of fixed length, each with a checksum, appended.

| bytes | content |
|---|---|
| 8 | ``MLMDTRJ1`` |
| 4, 4 | length of the header, CRC-32 of it |
| header | JSON: systems, particles of each, first step, whether there is a cell |
| per frame 4, 4 | ``FRAM``, CRC-32 of the rest of the frame |
| 8, 8 | step (int64), time in fs (float64) |
| 36 S, 12 N | cells and positions in A, float32; cells only if there are any |
"""

from __future__ import annotations

import json
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlmd.errors import BrokenCheckpoint, WriteFailed
from mlmd.md.state import State
from mlmd.system import System

MAGIC, FRAME = b"MLMDTRJ1", b"FRAM"
HEAD, INTS, TIMES = len(MAGIC) + 8, struct.Struct("<4sI"), struct.Struct("<qd")
Array = NDArray[Any]


@dataclass(frozen=True)
class Chunk:
    """T frames: steps (T,), times (T,) in fs, positions (T, N, 3) in A, cells (T, S, 3, 3) in A or None."""

    steps: Array
    times: Array
    positions: Array
    cells: Array | None


@dataclass(frozen=True)
class Header:
    """sizes: particles of every system; first: step the run began at; every: steps per frame; periodic: frames have cells."""

    sizes: list[int]
    first: int
    every: int
    periodic: bool

    @staticmethod
    def of(system: System, first: int, every: int) -> Header:
        """For the systems of a batch."""
        counts = torch.bincount(system.batch, minlength=system.n_systems)
        return Header(counts.tolist(), first, every, system.periodic)

    @property
    def cell_values(self) -> int:
        return 9 * len(self.sizes) if self.periodic else 0

    @property
    def frame_bytes(self) -> int:
        return INTS.size + TIMES.size + 4 * (self.cell_values + 3 * sum(self.sizes))

    def packed(self) -> bytes:
        """As at the beginning of a file."""
        text = json.dumps(vars(self)).encode()
        return MAGIC + struct.pack("<II", len(text), zlib.crc32(text)) + text


class TrajectoryReader:
    """A trajectory file opened for reading; frames after the last whole one are ignored.

    Raises:
        FileNotFoundError: no such file.
        BrokenCheckpoint: its beginning is damaged or it is no such file.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with open(self.path, "rb") as f:
            head = f.read(HEAD)
            length, checksum = struct.unpack("<II", head[len(MAGIC) :]) if len(head) == HEAD else (0, 0)
            text = f.read(min(length, 1 << 28))
        if head[: len(MAGIC)] != MAGIC or not text or zlib.crc32(text) != checksum:
            raise BrokenCheckpoint(f"{path} is no trajectory of mlmd, or its beginning is damaged")
        self.header = Header(**json.loads(text))
        self.start = HEAD + length
        self._n = (self.path.stat().st_size - self.start) // self.header.frame_bytes

    def __len__(self) -> int:
        """Number of frames that are there in full length."""
        return self._n

    def expect(self, header: Header) -> None:
        """Refuse to go on with a file of something else.

        Raises:
            ValueError: naming what is there and what was expected.
        """
        if self.header != header:
            raise ValueError(
                f"{self.path} holds {_shown(self.header)}, this run has {_shown(header)}: choose another folder or delete this one"
            )

    def chunks(self, size: int = 100, first: int = 0, last: int | None = None, stride: int = 1) -> Iterator[Chunk]:
        """Frames ``first``, ``first + stride``, ... below ``last``, ``size`` at a time; damaged frames are left out with a warning."""
        if size < 1 or stride < 1:
            raise ValueError(f"size={size}, stride={stride}: must be at least 1")
        wanted = range(*slice(first, last, stride).indices(self._n))
        with open(self.path, "rb") as f:
            for begin in range(0, len(wanted), size):
                frames = [x for k in wanted[begin : begin + size] if (x := self._frame(f, k)) is not None]
                if frames:
                    steps, times, values = (np.array(x) for x in zip(*frames, strict=True))
                    yield self._chunk(steps, times, values)

    def intact(self) -> int:
        """Number of frames before the first that is damaged."""
        with open(self.path, "rb") as f:
            for k in range(self._n):
                if self._frame(f, k, silent=True) is None:
                    return k
        return self._n

    def _frame(self, f: Any, k: int, silent: bool = False) -> tuple[int, float, Array] | None:
        f.seek(self.start + k * self.header.frame_bytes)
        record = f.read(self.header.frame_bytes)
        mark, checksum = INTS.unpack(record[: INTS.size])
        body = record[INTS.size :]
        if mark != FRAME or zlib.crc32(body) != checksum:
            if not silent:
                warnings.warn(f"{self.path}: frame {k} is damaged and left out", stacklevel=3)
            return None
        return *TIMES.unpack(body[: TIMES.size]), np.frombuffer(body[TIMES.size :], dtype="<f4")

    def _chunk(self, steps: Array, times: Array, values: Array) -> Chunk:
        cut, systems = self.header.cell_values, len(self.header.sizes)
        cells = values[:, :cut].reshape(-1, systems, 3, 3) if cut else None
        return Chunk(steps, times, values[:, cut:].reshape(len(steps), -1, 3), cells)


class TrajectoryWriter:
    """Appends frames to a file; every frame is with the operating system before the next step begins.

    Args:
        path: the file. header: what will come. dt: fs per step, for the times.
        keep: frames of an existing file to go on from; 0 begins anew.

    Raises:
        ValueError: the file is of other systems or of a run that began elsewhere.
        WriteFailed: see :meth:`write`.
    """

    def __init__(self, path: str | Path, header: Header, dt: float, keep: int = 0):
        self.path, self.dt, self.header = Path(path), dt, header
        if keep:
            found = TrajectoryReader(self.path)
            found.expect(header)
            if len(found) < keep:
                raise BrokenCheckpoint(f"{path} holds {len(found)} frames, expected at least {keep}")
        head = self.header.packed()
        self._end = len(head) + keep * self.header.frame_bytes
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            os.ftruncate(self._file, self._end if keep else 0)
            if not keep:
                self._append(head, 0)
        except OSError as error:
            raise WriteFailed(path, error) from error

    def write(self, state: State) -> None:
        """Append one frame.

        Raises:
            WriteFailed: the disk is full or the file cannot be written; the frames before stay readable.
        """
        numbers = state.system.positions.detach().cpu().numpy().astype("<f4").tobytes()
        if self.header.periodic:
            numbers = state.system.cell.detach().cpu().numpy().astype("<f4").tobytes() + numbers
        body = TIMES.pack(state.step, state.step * self.dt) + numbers
        try:
            self._append(INTS.pack(FRAME, zlib.crc32(body)) + body, self._end)
        except OSError as error:
            raise WriteFailed(self.path, error) from error
        self._end += self.header.frame_bytes

    def flush(self) -> None:
        """Force all frames to the disk.

        Raises:
            WriteFailed: the disk is full or lost.
        """
        try:
            os.fsync(self._file)
        except OSError as error:
            raise WriteFailed(self.path, error) from error

    def close(self) -> None:
        """Close the file; nothing is lost without."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _append(self, record: bytes, at: int) -> None:
        done = 0
        while done < len(record):
            done += os.pwrite(self._file, record[done:], at + done)


def frames(path: str | Path, size: int = 100, **which: Any) -> Iterator[Chunk]:
    """Frames of a file, or of a folder that :func:`~mlmd.md.produce` wrote, ``size`` at a time: memory stays bounded.

    Args:
        which: ``first``, ``last``, ``stride`` as of :meth:`TrajectoryReader.chunks`.
    """
    return TrajectoryReader(file_of(path)).chunks(size, **which)


def file_of(path: str | Path) -> Path:
    """The trajectory file in a folder of a production run, or the file itself.

    Raises:
        ValueError: there is none.
    """
    path = Path(path)
    file = path / "trajectory.mlmd" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{path} holds no trajectory.mlmd: nothing was simulated there")
    return file


def to_mdtraj(path: str | Path, topology: Any, system: int = 0, stride: int = 1) -> Any:
    """One system of a trajectory as an ``mdtraj.Trajectory`` (nm, ps).

    Args:
        path: file or folder. topology: an ``mdtraj.Topology`` of one system. system: which one. stride: every how many frames.

    Raises:
        ValueError: the topology has another number of atoms, or there is no such system.
    """
    import mdtraj

    reader = TrajectoryReader(file_of(path))
    rows = _rows(reader.header, system)
    if topology.n_atoms != rows.stop - rows.start:
        raise ValueError(f"topology has {topology.n_atoms} atoms, system {system} has {rows.stop - rows.start} particles")
    parts = list(reader.chunks(stride=stride))
    if not parts:
        raise ValueError(f"{path} holds no frame yet")
    out = mdtraj.Trajectory(
        np.concatenate([c.positions[:, rows] for c in parts]) / 10, topology, np.concatenate([c.times for c in parts]) / 1000
    )
    if parts[0].cells is not None:
        out.unitcell_vectors = np.concatenate([c.cells[:, system] for c in parts if c.cells is not None]) / 10
    return out


def export(path: str | Path, out: str | Path, system: int = 0, stride: int = 1) -> Path:
    """Write one system of a trajectory as DCD or XTC, with bounded memory.

    Args:
        path: file or folder. out: ends with ``.dcd`` or ``.xtc``. system: which one. stride: every how many frames.

    Raises:
        ValueError: another ending, or no such system.
    """
    out, reader = Path(out), TrajectoryReader(file_of(path))
    rows = _rows(reader.header, system)
    write = {".dcd": _write_dcd, ".xtc": _write_xtc}.get(out.suffix)
    if write is None:
        raise ValueError(f"out={str(out)!r}: must end with .dcd or .xtc")
    write(out, (Chunk(c.steps, c.times, c.positions[:, rows], _cell_of(c, system)) for c in reader.chunks(stride=stride)))
    return out


def _write_dcd(out: Path, chunks: Iterator[Chunk]) -> None:
    from mdtraj.formats import DCDTrajectoryFile

    with DCDTrajectoryFile(str(out), "w") as f:
        for c in chunks:
            f.write(c.positions, *edges_and_angles(c.cells))


def _write_xtc(out: Path, chunks: Iterator[Chunk]) -> None:
    from mdtraj.formats import XTCTrajectoryFile

    with XTCTrajectoryFile(str(out), "w") as f:
        for c in chunks:
            box = None if c.cells is None else np.ascontiguousarray(c.cells / 10)
            f.write(np.ascontiguousarray(c.positions / 10), (c.times / 1000).astype(np.float32), c.steps.astype(np.int32), box)


def edges_and_angles(cells: Array | None) -> tuple[Array | None, Array | None]:
    """Lengths (T, 3) in A and angles (T, 3) in degrees of cells (T, 3, 3)."""
    if cells is None:
        return None, None
    lengths = np.linalg.norm(cells, axis=-1)
    cosines = [(cells[:, i] * cells[:, j]).sum(-1) / (lengths[:, i] * lengths[:, j]) for i, j in ((1, 2), (0, 2), (0, 1))]
    return lengths.astype(np.float32), np.degrees(np.arccos(np.clip(np.stack(cosines, 1), -1, 1))).astype(np.float32)


def _cell_of(chunk: Chunk, system: int) -> Array | None:
    return None if chunk.cells is None else chunk.cells[:, system]


def _shown(h: Header) -> str:
    return (
        f"{len(h.sizes)} systems of {max(h.sizes)} particles, a frame every {h.every} steps from step {h.first} on"
        f"{', with cells' if h.periodic else ''}"
    )


def _rows(header: Header, system: int) -> slice:
    """The particles of one system."""
    if not 0 <= system < len(header.sizes):
        raise ValueError(f"system={system}: the trajectory holds systems 0 to {len(header.sizes) - 1}")
    begin = sum(header.sizes[:system])
    return slice(begin, begin + header.sizes[system])
