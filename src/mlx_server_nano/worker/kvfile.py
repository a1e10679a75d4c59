"""KV caches in a file: the tokens that they hold, their arrays, and a checksum over all of it.

A file is in the safetensors format (https://github.com/huggingface/safetensors#format): the length of a JSON header as 8
bytes, the header, the arrays end to end, the tokens first. Its metadata say whose caches these are and how their arrays
make up mlx-lm's cache states. It gets its name when it is complete.

The checksum is the SHA-256 of the header, with zeros for the checksum, of the tokens, and of the digests of all parts: each
array's bytes, `PART` at a time. So parts are hashed side by side, while others are read or written."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import struct
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np

from mlx_server_nano.worker.prefix import Tokens

SUFFIX: Final = ".kv"
UNFINISHED: Final = ".part"
PART: Final = 16 << 20  # bytes
_FORMAT: Final = "mlx-server-nano kv 2"
_HASHERS: Final = 8  # threads at most
_LENGTH: Final = struct.Struct("<Q")
_LONGEST_HEADER: Final = 16 << 20
_NO_CHECKSUM: Final = b"0" * 64
_TOKENS: Final = "tokens"

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class DamagedFileError(Exception):
    """A file that is not what was written, or not of this model."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """dtype: as safetensors names it."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Content:
    """model: the fingerprint of the model and the build that computed the caches. layout: how the tensors make up the
    caches, the caller's own JSON."""

    model: str
    tokens: Tokens
    layout: str
    tensors: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        return self.tokens.nbytes + sum(tensor.nbytes for tensor in self.tensors)

    def header(self) -> bytes:
        """With zeros for the checksum."""
        metadata = {"checksum": _NO_CHECKSUM.decode(), "format": _FORMAT, "model": self.model, "layout": self.layout}
        header: dict[str, Any] = {"__metadata__": metadata}
        at = 0
        named = {str(i): tensor for i, tensor in enumerate(self.tensors)}
        for name, tensor in {_TOKENS: Tensor("I32", self.tokens.shape, self.tokens.nbytes), **named}.items():
            end = at + tensor.nbytes
            header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (at, end)}
            at = end
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)
        return _LENGTH.pack(len(encoded)) + encoded


class Writer:
    """A file on its way into `folder`: `add` the tensors' bytes in order, part by part, then `commit`.

    Raises OSError."""

    def __init__(self, folder: Path, content: Content) -> None:
        name = uuid.uuid4().hex
        self.path = folder / f"{name}{SUFFIX}"
        self._unfinished = folder / f"{name}{UNFINISHED}"
        self._header = content.header()
        # What somebody said to a model is for nobody else to read.
        descriptor = os.open(self._unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file: BufferedWriter = os.fdopen(descriptor, "wb")
        self._hash = hashlib.sha256(self._header)
        self._hash.update(content.tokens.data)
        self._hasher = ThreadPoolExecutor(1, "disk hasher")
        try:
            self._file.write(self._header)
            self._file.write(content.tokens.data)
        except BaseException:
            self.abort()
            raise

    def add(self, part: bytes | memoryview) -> None:
        digest = self._hasher.submit(_digest, part)
        self._file.write(part)
        self._hash.update(digest.result())

    def commit(self) -> None:
        self._hasher.shutdown()
        self._file.seek(self._header.index(_NO_CHECKSUM))
        self._file.write(self._hash.hexdigest().encode())
        self._file.close()
        self._unfinished.rename(self.path)

    def abort(self) -> None:
        self._hasher.shutdown()
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._unfinished.unlink()


def replace(path: Path, content: bytes) -> None:
    """Write a small file that others may read or write meanwhile: it appears whole. Raises OSError."""
    unfinished = path.with_name(f"{uuid.uuid4().hex}{UNFINISHED}")
    unfinished.write_bytes(content)
    unfinished.rename(path)


def peek(path: Path) -> Content:
    """What a file says that it holds, unverified; only its size is checked. Raises OSError, DamagedFileError."""
    with path.open("rb") as file:
        return _begin(file)[0]


def read(path: Path) -> tuple[Content, tuple[mx.array, ...]]:
    """A file's arrays, plain ones, once their checksum was found right. Raises OSError, RuntimeError, DamagedFileError."""
    with path.open("rb") as file:
        content, checksum = _begin(file)
    try:
        loaded: Any = mx.load(str(path), format="safetensors", stream=mx.cpu)
        arrays: tuple[mx.array, ...] = tuple(loaded[str(i)] for i in range(len(content.tensors)))
    except Exception as error:  # MLX has several for a header that it does not understand
        raise DamagedFileError(f"MLX does not read it ({error})") from error
    # Or a damaged shape would be allocated.
    if any(array.nbytes != tensor.nbytes for array, tensor in zip(arrays, content.tensors, strict=True)):
        raise DamagedFileError("its header is damaged")
    digest = hashlib.sha256(content.header())
    digest.update(content.tokens.data)
    for part in _digests(arrays):
        digest.update(part)
    if digest.hexdigest() != checksum:
        raise DamagedFileError("its checksum is wrong")
    return content, arrays


def _digests(arrays: tuple[mx.array, ...]) -> list[bytes]:
    """Of all parts of arrays, each hashed where it lies, as soon as it has been read."""
    try:
        # MLX reads several at a time, straight into their places.
        mx.async_eval(arrays)
        with ThreadPoolExecutor(min(_HASHERS, os.cpu_count() or 1), "disk hasher") as pool:
            return list(pool.map(_digest, itertools.chain.from_iterable(map(_parts, arrays))))
    except RuntimeError:
        with contextlib.suppress(RuntimeError):
            # Or reads would go on into memory that is free.
            mx.synchronize(mx.default_stream(mx.cpu))
        raise


def _parts(array: Any) -> Iterator[memoryview]:
    if array.nbytes:
        mx.eval(array)
        flat = memoryview(array).cast("B")
        for start in range(0, len(flat), PART):
            yield flat[start : start + PART]


def _digest(part: bytes | memoryview) -> bytes:
    return hashlib.sha256(part).digest()


def _begin(file: BufferedReader) -> tuple[Content, str]:
    """Reads up to the first tensor. Gives the checksum too."""
    try:
        packed = file.read(_LENGTH.size)
        (length,) = _LENGTH.unpack(packed)
        if length > _LONGEST_HEADER:
            raise DamagedFileError("its header is too long")
        raw = packed + file.read(length)
        header = json.loads(raw[_LENGTH.size :])
        metadata = header.pop("__metadata__")
        (count,) = header.pop(_TOKENS)["shape"]
        tensors = [
            Tensor(entry["dtype"], tuple(entry["shape"]), entry["data_offsets"][1] - entry["data_offsets"][0])
            for entry in (header[str(i)] for i in range(len(header)))
        ]
        tokens = np.frombuffer(file.read(4 * count), np.int32)
        content = Content(metadata["model"], tokens, metadata["layout"], tuple(tensors))
        checksum = metadata["checksum"]
        # Also what keeps a damaged size from being allocated.
        if raw.replace(checksum.encode(), _NO_CHECKSUM, 1) != content.header():
            raise DamagedFileError("its header is not one of ours")
        if len(raw) + content.nbytes != os.fstat(file.fileno()).st_size:
            raise DamagedFileError("its size is wrong")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, struct.error) as error:
        raise DamagedFileError(f"its header is damaged ({error!r})") from error
    return content, checksum
