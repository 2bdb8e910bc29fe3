"""Files that are either whole or absent, and objects as constructor arguments plus tensors; no code is ever stored or run."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlmd.errors import BrokenCheckpoint

KIND = "mlmd.tree"


def writable_folder(path: str | Path, argument: str) -> Path:
    """The folder ``path``, made if it is not there; refused before any work is done for it if nothing can be written into it.

    Raises:
        ValueError: naming the argument, the folder and the reason.
    """
    path = Path(path)
    probe = path / f".probe-{secrets.token_hex(6)}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = (
            "a file is in the way" if isinstance(error, (FileExistsError, NotADirectoryError)) else error.strerror or str(error)
        )
        raise ValueError(f"{argument}={str(path)!r}: no folder can be written there ({reason}); choose another one") from error
    return path


def write_atomic(path: str | Path, write: Callable[[str], object]) -> Path:
    """Call ``write(temporary_name)``, force the bytes to disk and rename to ``path``: a kill leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = str(path.parent / f".{path.stem}-{secrets.token_hex(6)}{path.suffix}")
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # mkstemp would leave a file that only its owner reads
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
    text = json.dumps(meta, default=_plain)
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


def _plain(value: object) -> object:
    """NumPy numbers as Python ones, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"meta holds a {type(value).__name__}: only text, numbers, lists and dicts can be stored")


def _digest(payload: dict[str, np.ndarray]) -> bytes:
    h = hashlib.sha256()
    for name in sorted(payload):
        a = np.ascontiguousarray(payload[name])
        h.update(f"{name}:{a.dtype.str}:{a.shape};".encode())
        h.update(a.tobytes())
    return h.digest()


def pack(tree: Any) -> tuple[dict[str, np.ndarray], Any]:
    """Split a nest of dict, list, tuple, tensor, number and text into arrays and a JSON-able skeleton."""
    arrays: dict[str, np.ndarray] = {}

    def visit(node: Any) -> Any:
        if isinstance(node, Tensor):
            name = f"t{len(arrays)}"
            arrays[name] = node.detach().cpu().numpy()
            return {"tensor": name}
        if isinstance(node, dict):
            return {"dict": [[visit(k), visit(v)] for k, v in node.items()]}
        if isinstance(node, (list, tuple)):
            return {"tuple" if isinstance(node, tuple) else "list": [visit(v) for v in node]}
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        raise TypeError(f"{type(node).__name__} cannot be stored in a checkpoint: only tensors, numbers, text, dicts and lists")

    return arrays, visit(tree)


def unpack(arrays: dict[str, np.ndarray], skeleton: Any) -> Any:
    """Inverse of :func:`pack`."""
    if not isinstance(skeleton, dict):
        return skeleton
    ((kind, value),) = skeleton.items()
    if kind == "tensor":
        return torch.from_numpy(arrays[value])
    if kind == "dict":
        return {unpack(arrays, k): unpack(arrays, v) for k, v in value}
    items = [unpack(arrays, v) for v in value]
    return tuple(items) if kind == "tuple" else items


def save_tree(path: str | Path, tree: Any) -> Path:
    """Write one nest of tensors and numbers."""
    arrays, skeleton = pack(tree)
    return write_npz(path, arrays, {"kind": KIND, "skeleton": skeleton})


def load_tree(path: str | Path) -> Any:
    """Read what :func:`save_tree` wrote.

    Raises:
        BrokenCheckpoint: damaged or of another kind.
    """
    arrays, meta = read_npz(path, kind=KIND)
    return unpack(arrays, meta["skeleton"])


def configurable(cls: type) -> type:
    """Class decorator: remember the constructor's arguments, so that :func:`save` can write how to build the object again."""
    build = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(build)

    @functools.wraps(build)
    def remember(self: Any, *args: Any, **kwargs: Any) -> None:
        if "_arguments" not in self.__dict__:
            bound = signature.bind(self, *args, **kwargs)
            object.__setattr__(self, "_arguments", [list(bound.args[1:]), dict(bound.kwargs)])
        build(self, *args, **kwargs)

    cls.__init__ = remember  # type: ignore[misc]
    return cls


def save(path: str | Path, obj: nn.Module) -> Path:
    """Write a module made of ``@configurable`` classes: their constructor arguments, and all parameters and buffers.

    Raises:
        TypeError: if a part of it is not configurable.
    """
    tree = {"object": describe(obj), "state": dict(obj.state_dict())}
    return save_tree(path, tree)


def load(path: str | Path) -> Any:
    """Build what :func:`save` wrote; only classes of this library are constructed.

    Raises:
        BrokenCheckpoint: damaged, of another kind, or naming a class that does not exist here.
    """
    tree = load_tree(path)
    if not (isinstance(tree, dict) and {"object", "state"} <= set(tree)):
        raise BrokenCheckpoint(f"{path} holds no object written by mlmd.store.save")
    try:
        obj = rebuild(tree["object"])
        obj.load_state_dict(tree["state"], assign=True)  # keeps the precision it was stored with
    except (AttributeError, ImportError, KeyError, TypeError, RuntimeError) as error:
        raise BrokenCheckpoint(f"{path} does not fit this version of mlmd: {error}") from error
    return obj


def describe(value: Any) -> Any:
    """Constructor arguments in the place of modules, all the way down."""
    if isinstance(value, nn.Module):
        if "_arguments" not in value.__dict__:
            raise TypeError(f"{type(value).__name__} cannot be stored: decorate the class with @configurable")
        args, kwargs = value.__dict__["_arguments"]
        return {"class": f"{type(value).__module__}.{type(value).__qualname__}", "args": describe(args), "kwargs": describe(kwargs)}
    if isinstance(value, dict):
        return {k: describe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, range, nn.ModuleList)):
        return [describe(v) for v in value]
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value.item() if isinstance(value, np.generic) else value


def rebuild(value: Any) -> Any:
    """Inverse of :func:`describe`."""
    if isinstance(value, list):
        return [rebuild(v) for v in value]
    if not isinstance(value, dict):
        return value
    if set(value) != {"class", "args", "kwargs"}:
        return {k: rebuild(v) for k, v in value.items()}
    module, _, name = value["class"].rpartition(".")
    if not module.startswith("mlmd."):
        raise TypeError(f"{value['class']} is not a class of mlmd")
    cls = getattr(importlib.import_module(module), name)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise TypeError(f"{value['class']} is not a module class")
    return cls(*rebuild(value["args"]), **rebuild(value["kwargs"]))
