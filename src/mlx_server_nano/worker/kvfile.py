"""KV caches in a file: the tokens that they hold, their arrays, and a checksum over all of it.

A file is in the safetensors format (https://github.com/huggingface/safetensors#format): the length of a JSON header as 8
bytes, the header, the arrays end to end, the tokens first. Its metadata say whose caches these are and how their arrays
make up mlx-lm's cache states. It gets its name when it is complete."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import uuid
from dataclasses import dataclass
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlx_server_nano.worker.prefix import Tokens

SUFFIX: Final = ".kv"
UNFINISHED: Final = ".part"
_FORMAT: Final = "mlx-server-nano kv 1"
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
    """A file on its way into `folder`: `add` the tensors' bytes in order, in pieces of any size, then `commit`.

    Raises OSError."""

    def __init__(self, folder: Path, content: Content) -> None:
        name = uuid.uuid4().hex
        self.path = folder / f"{name}{SUFFIX}"
        self._unfinished = folder / f"{name}{UNFINISHED}"
        self._header = content.header()
        # What somebody said to a model is for nobody else to read.
        descriptor = os.open(self._unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file: BufferedWriter = os.fdopen(descriptor, "wb")
        self._hash = hashlib.sha256()
        try:
            self.add(self._header)
            self.add(content.tokens.data)
        except BaseException:
            self.abort()
            raise

    def add(self, piece: bytes | memoryview) -> None:
        self._hash.update(piece)
        self._file.write(piece)

    def commit(self) -> None:
        self._file.seek(self._header.index(_NO_CHECKSUM))
        self._file.write(self._hash.hexdigest().encode())
        self._file.close()
        self._unfinished.rename(self.path)

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._unfinished.unlink()


def peek(path: Path) -> Content:
    """What a file says that it holds, unverified; only its size is checked. Raises OSError, DamagedFileError."""
    with path.open("rb") as file:
        return _begin(file)[0]


def read(path: Path) -> tuple[Content, list[Bytes]]:
    """A file's tensors, once their checksum was found right. Raises OSError, DamagedFileError."""
    with path.open("rb") as file:
        content, checksum = _begin(file)
        digest = hashlib.sha256(content.header())
        digest.update(content.tokens.data)
        buffers = []
        for tensor in content.tensors:
            buffer: Bytes = np.empty(tensor.nbytes, np.uint8)
            if file.readinto(buffer.data) != tensor.nbytes:
                raise DamagedFileError("it ends early")
            digest.update(buffer.data)
            buffers.append(buffer)
    if digest.hexdigest() != checksum:
        raise DamagedFileError("its checksum is wrong")
    return content, buffers


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
