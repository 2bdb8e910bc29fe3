"""Files that are either whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlmd.errors import BrokenCheckpoint


def write_atomic(path: str | Path, write: Callable[[str], object]) -> Path:
    """Call ``write(temporary_name)``, force the bytes to disk and rename to ``path``: a kill leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        write(name)
        with open(name, "rb") as f:
            os.fsync(f.fileno())
        os.replace(name, path)
    finally:
        if os.path.exists(name):
            os.unlink(name)
    return path


def write_npz(path: str | Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> Path:
    """Arrays plus one JSON text, with a SHA-256 over both, in a compressed ``.npz``; whole or absent."""
    clash = [k for k in arrays if k.startswith("__")]
    if clash:
        raise ValueError(f"array names {clash} start with two underscores, which is reserved")
    text = json.dumps(meta)
    payload = {**arrays, "__meta__": np.frombuffer(text.encode(), dtype=np.uint8)}
    payload["__sha256__"] = np.frombuffer(_digest(payload), dtype=np.uint8)

    def write(name: str) -> None:
        with open(name, "wb") as f:
            np.savez_compressed(f, **payload)  # type: ignore[arg-type]

    return write_atomic(path, write)


def read_npz(path: str | Path, *, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What :func:`write_npz` wrote, verified; ``kind`` must match ``meta["kind"]``.

    Raises:
        FileNotFoundError: no such file.
        BrokenCheckpoint: not such a file, truncated, altered, or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as z:
            payload = {k: z[k] for k in z.files}
        stored = payload.pop("__sha256__").tobytes()
        intact = stored == _digest(payload)
        meta = json.loads(payload.pop("__meta__").tobytes().decode())
    except Exception as error:  # a damaged zip raises almost anything, from zlib.error to NotImplementedError
        raise BrokenCheckpoint(
            f"{path} cannot be read ({type(error).__name__}: {error}): it is truncated, altered or no mlmd file"
        ) from error
    if not intact:
        raise BrokenCheckpoint(f"{path} is altered: its checksum does not match its content")
    if meta.get("kind") != kind:
        raise BrokenCheckpoint(f"{path} holds {meta.get('kind')!r}, expected {kind!r}")
    return payload, meta


def _digest(payload: dict[str, np.ndarray]) -> bytes:
    h = hashlib.sha256()
    for name in sorted(payload):
        a = np.ascontiguousarray(payload[name])
        h.update(f"{name}:{a.dtype.str}:{a.shape};".encode())
        h.update(a.tobytes())
    return h.digest()
