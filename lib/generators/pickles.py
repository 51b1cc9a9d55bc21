"""Pickles and torch.save files read as data: nothing in them is imported, called or evaluated.

A pickle is a program for a small stack machine. Python's own machine does what the program says: it imports
modules and calls functions, so that a file can do anything. The machine here knows no imports and no calls. It
builds numbers, texts, lists and dictionaries; each name and each call outside a short list ends the reading with
an error; what is on the list becomes an inert description (`Instance`, `StoredTensor`). Contents of tensors stay
in the file until `read_tensor` is asked for one.

What a file can make the machine do is bounded by `LIMITS`. Each step takes a bounded time beside what it takes
off the stack or out of the file, so that a long text or list that is used again and again costs no more.
"""

import pickle  # for the names of the opcodes alone: nothing is ever unpickled
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "CheckpointError",
    "Instance",
    "Name",
    "StoredArray",
    "StoredTensor",
    "describe",
    "read_contents",
    "read_tensor",
]


class CheckpointError(ValueError):
    """A file of weights cannot be used; the message says what was expected, what came and what to do."""


class Limits(NamedTuple):
    """What a file may ask for. Official checkpoints stay below a tenth of each number."""

    opcodes: int = 1_000_000  # in all its pickles together
    characters: int = 64 * 2**20  # of texts and small byte strings, together
    held_bytes: int = 128  # longer byte strings stay in the file
    name: int = 256  # characters of a name, with its module
    directory: int = 4 * 2**20  # bytes of a zip file's directory
    dimensions: int = 8  # of a tensor


LIMITS = Limits()


# -------------------------------------------------------------------- what a file may contain
@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a file names. It is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Instance:
    """An object of a class of the file: the class by name, and the attributes that were stored."""

    kind: str  # the class's name
    state: Any = None


@dataclass(frozen=True, eq=False, slots=True)
class Span:
    """Bytes that were left in the file."""

    start: int
    size: int


@dataclass(eq=False, slots=True)
class Storage:
    """Numbers of one type that lie in the file one after another."""

    dtype: torch.dtype
    count: int
    start: int | None = None  # where in the file; some formats say it only at their end


@dataclass(frozen=True, eq=False, slots=True)
class StoredTensor:
    """A tensor that was not read yet: a view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    @property
    def numel(self) -> int:
        product = 1
        for size in self.shape:
            product *= size
        return product


@dataclass(eq=False, slots=True)
class StoredArray:
    """An array of numpy, which may occur among the settings; large ones are not read."""

    values: list = field(default_factory=list)  # flat

    def fill(self, state: Any) -> None:
        """Take the numbers from numpy's own (version, shape, type, column-wise?, bytes)."""
        _, shape, kind, _, content = _expect(tuple, state)
        if isinstance(content, bytes) and len(_expect(tuple, shape)) == 1:
            code = kind.order + _NUMPY_FORMATS[_expect(_NumpyType, kind).code]
            self.values = [number for (number,) in struct.iter_unpack(code, content)]


@dataclass(eq=False, slots=True)
class _NumpyType:
    code: str
    order: str = "<"


def describe(value: Any) -> str:
    """A few words on a value of a file, whatever it is: hostile values can be endless to print."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    if value is None or isinstance(value, bool | float | Name):
        return str(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 2**64 else "a huge number"
    if isinstance(value, StoredTensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, Instance):
        return f"an object of class {describe(value.kind)}"
    if isinstance(value, list | tuple | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


# -------------------------------------------------------------------- names that are known
_CLASSES = re.compile(r"(training|torch\.nn\.modules)(\.[A-Za-z_]\w*)+", re.ASCII)
"""Classes whose instances are kept as an `Instance`."""

_TYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_INERT = {
    "numpy.ndarray",
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
    *(f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "int32", "int64", "bool")),
}
"""Names that stand for themselves, as arguments."""

_NUMPY_FORMATS = {
    **{"f2": "e", "f4": "f", "f8": "d", "b1": "?"},
    **{"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
}


def _mapping(args: tuple) -> dict:
    """OrderedDict and EasyDict are made empty and filled afterwards."""
    if args:
        raise ValueError("a dictionary made from other things")
    return {}


def _collection(args: tuple) -> list:
    """Sets stay the lists that they are written as: what is in them need not be hashable here."""
    return _expect(list, args[0]) if args else []


def _encode(args: tuple) -> bytes:
    """How protocol 2 writes the few bytes of a number."""
    text, encoding = args
    if encoding != "latin1" or len(_expect(str, text)) > LIMITS.held_bytes:
        return b""
    return text.encode("latin1")


def _tensor(args: tuple) -> StoredTensor:
    """torch._utils._rebuild_tensor_v2: a view of a storage, checked against the storage's size."""
    storage, offset, shape, stride = args[:4]
    _expect(Storage, storage)
    if len(_expect(tuple, shape)) != len(_expect(tuple, stride)) or len(shape) > LIMITS.dimensions:
        raise ValueError(f"{len(shape)} dimensions with {len(stride)} strides")
    numbers = (offset, *shape, *stride)
    if any(type(number) is not int or not 0 <= number < 2**48 for number in numbers):
        raise ValueError("offset, shape and strides of a tensor must be numbers from 0 on")
    tensor = StoredTensor(storage, offset, shape, stride)
    if 0 not in shape:
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if last >= storage.count or tensor.numel > storage.count:
            raise ValueError(f"a tensor {list(shape)} does not fit in its storage of {storage.count} numbers")
    return tensor


def _parameter(args: tuple) -> StoredTensor:
    return _expect(StoredTensor, args[0])


def _subclassed_tensor(args: tuple) -> StoredTensor:
    """torch._tensor._rebuild_from_type_v2: a tensor that had attributes of its own; they are dropped."""
    function, _, arguments, _ = args
    if str(_expect(Name, function)) != "torch._utils._rebuild_tensor_v2":
        raise ValueError(f"tensors made by {function}")
    return _tensor(_expect(tuple, arguments))


def _persistent_instance(args: tuple) -> Instance:
    """The original's "persistent" classes: the state is kept; the source text beside it is not looked at."""
    (meta,) = args
    meta = _expect(dict, meta)
    if meta.get("type") != "class":
        raise ValueError("a persistent object that is no class")
    return Instance(_expect(str, meta.get("class_name")), _expect(dict, meta.get("state")))


def _numpy_type(args: tuple) -> _NumpyType:
    return _NumpyType(_expect(str, args[0]))


def _numpy_scalar(args: tuple) -> Any:
    kind, content = args
    code = _NUMPY_FORMATS[_expect(_NumpyType, kind).code]
    return struct.unpack(kind.order + code, _expect(bytes, content))[0]


def _numpy_array(args: tuple) -> StoredArray:
    """Arrays are made empty and filled afterwards."""
    return StoredArray()


_CONTAINERS: dict[str, Callable[[tuple], Any]] = {
    "collections.OrderedDict": _mapping,
    "dnnlib.util.EasyDict": _mapping,
    "builtins.set": _collection,
    "builtins.frozenset": _collection,
}
_CALLS: dict[str, Callable[[tuple], Any]] = {
    **_CONTAINERS,
    "_codecs.encode": _encode,
    "torch.Size": lambda args: tuple(_expect(tuple, args[0])),
    "torch.device": lambda args: _expect(str, args[0]),
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _subclassed_tensor,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_instance,
    "numpy.dtype": _numpy_type,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": _numpy_array,
}
"""All calls that a file may contain, and what stands in for each."""

_NESTED_FILE = "torch.storage._load_from_bytes"
"""The call that holds a whole torch.save file of one storage: how pickle writes tensors."""

_MODERN = {"__builtin__": "builtins", "numpy._core.multiarray": "numpy.core.multiarray"}
"""Modules under their older or newer names."""


def _name(module: Any, name: Any) -> Name:
    """A name of the file, if it is one of those that are known."""
    if type(module) is not str or type(name) is not str:
        raise CheckpointError("the file is no valid pickle: a name is not text")
    if len(module) + len(name) > LIMITS.name:
        raise CheckpointError("the file names something endless, which no EG3D checkpoint does")
    found = Name(_MODERN.get(module, module), name)
    full = str(found)
    known = full in _CALLS or full in _TYPES or full in _INERT or full == _NESTED_FILE
    if "." in name or not (known or _CLASSES.fullmatch(full)):
        raise CheckpointError(
            f"the file names {describe(f'{module}.{name}')}, which no EG3D checkpoint needs{_hint(module)}. "
            "Nothing of the file was run. Use it only if you trust its source, and then in its own project: "
            "save {'G_ema': G.state_dict()} by torch.save there and load that"
        )
    return found


def _hint(module: str) -> str:
    if module.startswith("dnnlib.tflib"):
        return ": it is a StyleGAN pickle of the TensorFlow era"
    return ""


def _expect(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"expected a {kind.__name__}, found {describe(value)}")
    return value


def _key(key: Any) -> Any:
    """A key of a dictionary. Tuples are refused: hashing nested ones can take exponential time."""
    if type(key) not in (str, int, float, bool, bytes, type(None)):
        raise CheckpointError(f"a dictionary's key must be a text or a number; the file has {describe(key)}")
    return key


# -------------------------------------------------------------------- the stack machine
@dataclass(eq=False, slots=True)
class _Spent:
    """What all pickles of a file took of `LIMITS` so far."""

    opcodes: int = 0
    characters: int = 0

    def count(self, opcodes: int = 0, characters: int = 0) -> None:
        self.opcodes += opcodes
        self.characters += characters
        if self.opcodes > LIMITS.opcodes or self.characters > LIMITS.characters:
            raise CheckpointError(
                f"the file's pickle is far larger than that of any EG3D checkpoint (limits: {LIMITS.opcodes} "
                f"opcodes, {LIMITS.characters} characters); it is damaged, hostile, or holds other things"
            )


@dataclass(eq=False, slots=True)
class _Cursor:
    """A position in a part of a file."""

    file: BinaryIO
    position: int
    end: int
    spent: _Spent = field(default_factory=_Spent)

    def take(self, size: int) -> bytes:
        self._advance(size)
        content = self.file.read(size)
        if len(content) != size:
            raise _truncated()
        return content

    def number(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def text(self, size: int) -> str:
        self.spent.count(characters=size)
        return self.take(size).decode("utf-8", "surrogatepass")

    def line(self) -> str:
        content = self.file.readline(LIMITS.name)
        self._advance(len(content))
        if not content.endswith(b"\n"):
            raise _truncated()
        return content[:-1].decode("ascii")

    def content(self, size: int) -> bytes | Span:
        """Bytes, or where they are if there are many."""
        if size <= LIMITS.held_bytes:
            self.spent.count(characters=size)
            return self.take(size)
        return self.skip(size)

    def skip(self, size: int) -> Span:
        span = Span(self.position, size)
        self._advance(size)
        self.file.seek(self.position)
        return span

    def part(self, span: Span) -> "_Cursor":
        self.file.seek(span.start)
        return _Cursor(self.file, span.start, span.start + span.size, self.spent)

    def _advance(self, size: int) -> None:
        if not 0 <= size <= self.end - self.position:
            raise _truncated()
        self.position += size


def _truncated() -> CheckpointError:
    return CheckpointError(
        "the file ends in the middle of its contents, or they are damaged: it is probably an interrupted "
        "download; expected a whole file, fetch it again"
    )


Persistent = Callable[[Any], Any]


@dataclass(eq=False, slots=True)
class _Machine:
    """Runs one pickle: `run` gives its value. See the module's text for what it does not do."""

    cursor: _Cursor
    persistent: Persistent | None = None  # what the file's persistent ids stand for
    nested: bool = False  # a pickle within a pickle
    stack: list = field(default_factory=list)
    marks: list[list] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self) -> Any:
        try:
            while True:
                self.cursor.spent.count(opcodes=1)
                code = self.cursor.take(1)
                if code == pickle.STOP:
                    return self.stack.pop()
                step = _STEPS.get(code)
                if step is None:
                    raise CheckpointError(
                        f"the file is no pickle of EG3D or torch: unexpected opcode {code!r} "
                        f"at byte {self.cursor.position - 1}"
                    )
                step(self)
        except CheckpointError:
            raise
        except (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
            place = f"at byte {self.cursor.position}"
            raise CheckpointError(
                f"the file is no valid checkpoint, {place}: {_plain(error)}; it is damaged or of another kind"
            ) from error

    # ---- the stack
    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_to_mark(self) -> list:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def push_mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_item(self) -> None:
        """POP, which also removes a mark."""
        if self.stack:
            self.stack.pop()
        else:
            self.pop_to_mark()

    def push_tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise ValueError("a tuple of more items than there are")
        items = tuple(self.stack[-size:])
        self.stack[-size:] = [items]

    # ---- containers
    def append(self, items: list) -> None:
        _expect(list, self.stack[-1]).extend(items)

    def set_items(self, items: list) -> None:
        target = _expect(dict, self.stack[-1])
        if len(items) % 2:
            raise ValueError("a key without a value")
        target.update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    # ---- memo
    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    # ---- names and calls
    def push_global(self) -> None:
        module = self.cursor.line()
        self.push(_name(module, self.cursor.line()))

    def push_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push(_name(module, name))

    def call(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        _expect(tuple, args)
        name = str(_expect(Name, function))
        if name == _NESTED_FILE:
            self.push(self._nested_storage(args))
        elif name in _CALLS:
            self.push(_CALLS[name](args))
        else:
            raise CheckpointError(f"the file calls {name}, which no EG3D checkpoint does; nothing was run")

    def new_object(self) -> None:
        args, kind = self.stack.pop(), self.stack.pop()
        name = str(_expect(Name, kind))
        if name in _CONTAINERS:
            self.push(_CONTAINERS[name](_expect(tuple, args)))
        elif _CLASSES.fullmatch(name) and args == ():
            self.push(Instance(kind.name))
        else:
            raise CheckpointError(f"the file makes {name} from arguments, which no EG3D checkpoint does")

    def build(self) -> None:
        """Attributes for the object on top; those of dictionaries are of no interest."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Instance) and target.state is None:
            target.state = state
        elif isinstance(target, _NumpyType):
            if _expect(tuple, state)[1] not in ("<", ">", "|", "="):
                raise ValueError("an unknown byte order")
            target.order = {"|": "<", "=": "<"}.get(state[1], state[1])
        elif isinstance(target, StoredArray):
            target.fill(state)
        elif not isinstance(target, dict):
            raise ValueError(f"attributes for {describe(target)}")

    def push_persistent(self) -> None:
        if self.persistent is None:
            raise ValueError("a reference to something outside the pickle")
        self.push(self.persistent(self.stack.pop()))

    def _nested_storage(self, args: tuple) -> Storage:
        (content,) = args
        if self.nested:
            raise CheckpointError("the file has files within files within files, which no checkpoint has")
        if not isinstance(content, Span):
            raise CheckpointError(
                "a tensor's contents are not a stretch of bytes of their own: expected a file of pickle protocol 3 "
                "or newer, Python's default; protocol 2 writes bytes as text. Save it again in its own project"
            )
        storage = _read_legacy(self.cursor.part(content))
        self.cursor.file.seek(self.cursor.position)
        return _expect(Storage, storage)


def _plain(error: Exception) -> str:
    """The text of an error, for a message of one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    pickle.PROTO: lambda m: m.cursor.take(1) and None,
    pickle.FRAME: lambda m: m.cursor.take(8) and None,
    # numbers and texts
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.BININT: lambda m: m.push(m.cursor.number("<i")),
    pickle.BININT1: lambda m: m.push(m.cursor.number("<B")),
    pickle.BININT2: lambda m: m.push(m.cursor.number("<H")),
    pickle.LONG1: lambda m: m.push(
        int.from_bytes(m.cursor.take(m.cursor.number("<B")), "little", signed=True)
    ),
    pickle.BINFLOAT: lambda m: m.push(m.cursor.number(">d")),
    pickle.SHORT_BINUNICODE: lambda m: m.push(m.cursor.text(m.cursor.number("<B"))),
    pickle.BINUNICODE: lambda m: m.push(m.cursor.text(m.cursor.number("<I"))),
    pickle.BINUNICODE8: lambda m: m.push(m.cursor.text(m.cursor.number("<Q"))),
    pickle.SHORT_BINBYTES: lambda m: m.push(m.cursor.content(m.cursor.number("<B"))),
    pickle.BINBYTES: lambda m: m.push(m.cursor.content(m.cursor.number("<I"))),
    pickle.BINBYTES8: lambda m: m.push(m.cursor.content(m.cursor.number("<Q"))),
    # containers
    pickle.MARK: _Machine.push_mark,
    pickle.POP: _Machine.pop_item,
    pickle.POP_MARK: lambda m: m.pop_to_mark() and None,
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE1: lambda m: m.push_tuple(1),
    pickle.TUPLE2: lambda m: m.push_tuple(2),
    pickle.TUPLE3: lambda m: m.push_tuple(3),
    pickle.TUPLE: lambda m: m.push(tuple(m.pop_to_mark())),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.EMPTY_SET: lambda m: m.push([]),
    pickle.FROZENSET: lambda m: m.push(m.pop_to_mark()),
    pickle.APPEND: lambda m: m.append([m.stack.pop()]),
    pickle.APPENDS: lambda m: m.append(m.pop_to_mark()),
    pickle.ADDITEMS: lambda m: m.append(m.pop_to_mark()),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.SETITEM: _Machine.set_item,
    pickle.SETITEMS: lambda m: m.set_items(m.pop_to_mark()),
    # memo
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
    pickle.BINPUT: lambda m: m.remember(m.cursor.number("<B")),
    pickle.LONG_BINPUT: lambda m: m.remember(m.cursor.number("<I")),
    pickle.BINGET: lambda m: m.push(m.memo[m.cursor.number("<B")]),
    pickle.LONG_BINGET: lambda m: m.push(m.memo[m.cursor.number("<I")]),
    # names and calls
    pickle.GLOBAL: _Machine.push_global,
    pickle.STACK_GLOBAL: _Machine.push_stack_global,
    pickle.REDUCE: _Machine.call,
    pickle.NEWOBJ: _Machine.new_object,
    pickle.BUILD: _Machine.build,
    pickle.BINPERSID: _Machine.push_persistent,
}
"""What each opcode does. Those that are missing are not written by any pickler of these files."""


# -------------------------------------------------------------------- kinds of files
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def read_contents(file: BinaryIO) -> tuple[Any, str]:
    """What a checkpoint's file holds, and what kind of file it is ("pickle", "torch.save", ...).

    Dictionaries, lists, texts and numbers are Python's; all else is an inert description. Raises
    `CheckpointError` for files of other kinds, with a guess at what they are.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(1024)
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(file, size), "torch.save (zip)"
    if not (head.startswith(b"\x80") and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        raise CheckpointError(
            f"expected a checkpoint (a pickle, or a file of torch.save); {_guess(head, size)}"
        )
    file.seek(0)
    cursor = _Cursor(file, 0, size)
    first = _Machine(cursor).run()
    if first == _LEGACY_MAGIC and type(first) is int:
        file.seek(0)
        return _read_legacy(_Cursor(file, 0, size)), "torch.save (before torch 1.6)"
    return first, "pickle"


def _guess(head: bytes, size: int) -> str:
    """What a file that is no checkpoint might be."""
    start = head.lstrip().lower()
    if size == 0:
        return "the file is empty: fetch it again"
    if start.startswith(b"version https://git-lfs"):
        return "this is a git-LFS pointer, not the file itself: run `git lfs pull` in its repository"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "this is a web page saved under that name: a download that asked for a login or a confirmation"
    if head.startswith((b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ")):
        return "this is a compressed archive: unpack it first"
    if head[8:9] == b"{":
        return "this looks like a safetensors file: load_generator reads those that save_generator wrote"
    return f"its first bytes {head[:8]!r} are those of none"


def _read_legacy(cursor: _Cursor) -> Any:
    """torch.save's format before version 1.6, which pickled tensors still use: five pickles, then numbers."""

    def read(persistent: Persistent | None = None) -> Any:
        return _Machine(cursor, persistent, nested=True).run()

    storages: dict[str, list[Storage]] = {}

    def persistent(reference: Any) -> Any:
        if isinstance(reference, tuple) and len(reference) == 4 and reference[0] == "module":
            return _expect(Name, reference[1])
        storage, key = _referenced(reference)
        storages.setdefault(key, []).append(storage)
        return storage

    if (read(), read()) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        raise CheckpointError("a tensor's contents are not in torch's format; the file is damaged")
    machine = read()
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise CheckpointError("the file was written on a big-endian machine, which is not supported")
    value = read(persistent)
    _place(cursor, storages, read())
    return value


def _referenced(reference: Any) -> tuple[Storage, str]:
    """The storage that a persistent id of torch.save describes, and the key of its numbers."""
    parts = _expect(tuple, reference)
    if len(parts) not in (5, 6) or parts[0] != "storage" or (len(parts) == 6 and parts[5] is not None):
        raise ValueError("an unknown kind of reference")
    dtype = _TYPES[str(_expect(Name, parts[1]))]
    if type(parts[4]) is not int or not 0 <= parts[4] < 2**48:
        raise ValueError(f"a storage of {describe(parts[4])} numbers")
    if len(_expect(str, parts[2])) > LIMITS.name:
        raise ValueError("an endless name of a storage")
    return Storage(dtype, parts[4]), parts[2]


def _place(cursor: _Cursor, storages: dict[str, list[Storage]], keys: Any) -> None:
    """Find the numbers of each storage: they follow in the order of the keys, each with its count."""
    for key in _expect_keys(keys):
        count = cursor.number("<q")
        if not storages.get(key) or any(storage.count != count for storage in storages[key]):
            raise CheckpointError("the file's list of tensors does not fit their contents; it is damaged")
        span = cursor.skip(count * storages[key][0].dtype.itemsize)
        for storage in storages[key]:
            storage.start = span.start


def _expect_keys(keys: Any) -> list[str]:
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError("the file's list of tensors is damaged")
    return keys


class _BoundedReads:
    """A file for `zipfile`, which reads a directory at once whatever size it claims to have."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell, self._file = file.seek, file.tell, file

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(min(size, LIMITS.directory + 1) if size >= 0 else LIMITS.directory + 1)
        if len(content) > LIMITS.directory:
            raise CheckpointError("the zip file's directory is far larger than that of any checkpoint")
        return content


def _read_zip(file: BinaryIO, size: int) -> Any:
    """torch.save's format since version 1.6: a zip file of one pickle and each storage's numbers, all plain."""
    try:
        entries = {entry.filename: entry for entry in zipfile.ZipFile(_BoundedReads(file)).infolist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"expected a file of torch.save; this zip file is broken: {_plain(error)}"
        ) from None
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise CheckpointError(
            f"expected a file of torch.save; this is a zip file of other things ({len(entries)} entries, "
            "no data.pkl): if a checkpoint is in it, unpack it first"
        )
    folder = pickles[0].removesuffix("data.pkl")
    spent = _Spent()

    def located(name: str) -> _Cursor:
        return _zip_entry(file, size, entries.get(folder + name), spent)

    def persistent(reference: Any) -> Storage:
        storage, key = _referenced(reference)
        part = located(f"data/{key}")
        if part.end - part.position < storage.count * storage.dtype.itemsize:
            raise ValueError("a storage is shorter than the file says")
        storage.start = part.position
        file.seek(cursor.position)
        return storage

    if folder + "byteorder" in entries:
        order = located("byteorder")
        if order.take(order.end - order.position) != b"little":
            raise CheckpointError("the file was written on a big-endian machine, which is not supported")
    cursor = located("data.pkl")
    return _Machine(cursor, persistent).run()


def _zip_entry(file: BinaryIO, size: int, entry: zipfile.ZipInfo | None, spent: _Spent) -> _Cursor:
    """The contents of an entry that was stored as it is."""
    if entry is None or entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise CheckpointError(
            "the zip file lacks a part, or has it compressed or encrypted; torch.save does not"
        )
    if not 0 <= entry.header_offset < size:
        raise CheckpointError("the zip file's directory does not fit its contents; it is damaged")
    header = _Cursor(file, entry.header_offset, size, spent)
    file.seek(entry.header_offset)
    if header.take(26)[:4] != b"PK\x03\x04":
        raise CheckpointError("the zip file's directory does not fit its contents; it is damaged")
    header.skip(header.number("<H") + header.number("<H"))
    return header.part(header.skip(entry.file_size))


# -------------------------------------------------------------------- tensors
def read_tensor(file: BinaryIO, stored: StoredTensor) -> Tensor:
    """The tensor itself, in the type in which it was stored, contiguous."""
    size = stored.dtype.itemsize
    if stored.numel == 0:
        return torch.empty(stored.shape, dtype=stored.dtype)
    if stored.storage.start is None:
        raise CheckpointError("the file says nowhere where a tensor's numbers are; it is damaged")
    count = 1 + sum((n - 1) * step for n, step in zip(stored.shape, stored.stride, strict=True))
    numbers = torch.empty(count, dtype=stored.dtype)
    file.seek(stored.storage.start + stored.offset * size)
    if file.readinto(memoryview(numbers.view(torch.uint8).numpy())) != count * size:
        raise _truncated()
    return numbers.as_strided(stored.shape, stored.stride).contiguous()
