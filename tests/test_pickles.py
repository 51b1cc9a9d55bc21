"""Pickles read as data: agreement with pickle and torch where files are harmless, refusal where they are not."""

import collections
import io
import pickle
import struct

import pytest
import torch

from lib.generators import pickles
from lib.generators.pickles import LIMITS, CheckpointError, StoredTensor, read_contents, read_tensor


def contents(content: bytes):
    return read_contents(io.BytesIO(content))[0]


# -------------------------------------------------------------------- harmless files
SHARED = [1, 2]
HARMLESS = {
    "numbers": [0, 1, -1, 255, 256, -(2**31), 2**31, 2**70, 1.5, float("inf"), True, False, None],
    "texts": ["", "é", "x" * 300, "y" * 70_000],
    "nested": {"a": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], 5: {"b": {}}},
    "shared": [SHARED, SHARED, (SHARED, SHARED)],
    "many": list(range(5000)),
    "ordered": collections.OrderedDict(a=1, b=[2]),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", HARMLESS)
def test_plain_values_are_those_of_pickle(name, protocol):
    assert contents(pickle.dumps(HARMLESS[name], protocol)) == HARMLESS[name]


def test_shared_lists_stay_shared():
    first, second, _ = contents(pickle.dumps(HARMLESS["shared"]))
    assert first is second


def test_sets_become_lists():
    assert sorted(contents(pickle.dumps({3, 1, 2}))) == [1, 2, 3]
    assert sorted(contents(pickle.dumps(frozenset({3, 1, 2}), 2))) == [1, 2, 3]


def tensors() -> dict[str, torch.Tensor]:
    flat = torch.randn(60, generator=torch.Generator().manual_seed(0))
    return {
        "plain": flat.clone(),
        "view": flat[7:31].view(4, 6),
        "transposed": flat.view(3, 4, 5).permute(2, 0, 1),
        "channels last": flat.view(1, 5, 3, 4).contiguous(memory_format=torch.channels_last),
        "scalar": flat[5].clone(),
        "empty": torch.zeros(0, 3),
        "half": flat.half(),
        "bfloat16": flat.bfloat16(),
        "double": flat.double(),
        "integers": torch.arange(10),
        "parameter": torch.nn.Parameter(flat[:4].clone()),
    }


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_tensors_are_those_of_torch(kind):
    expected, file = tensors(), io.BytesIO()
    if kind == "pickle":
        pickle.dump(expected, file)
    else:
        torch.save(expected, file, _use_new_zipfile_serialization=kind == "zip")
    found, _ = read_contents(file)
    assert found.keys() == expected.keys()
    for name, stored in found.items():
        value = read_tensor(file, stored)
        assert value.dtype == expected[name].dtype, name
        assert value.equal(expected[name]), name
        assert value.is_contiguous()


def test_attributes_of_tensors_do_no_harm():
    tensor = torch.ones(3)
    tensor.remark = "kept by pickle alone"
    found, _ = read_contents(file := io.BytesIO(pickle.dumps(tensor)))
    assert read_tensor(file, found).equal(torch.ones(3))


# -------------------------------------------------------------------- hostile files
class Call:
    """Pickled as a call."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + pickle.STACK_GLOBAL


def program(*parts: bytes) -> bytes:
    return pickle.PROTO + b"\x04" + b"".join(parts) + pickle.STOP


def doubled(start: bytes, double: bytes, times: int = 100) -> bytes:
    """A value that holds two references to one that holds two references to ... : 2^100 in all."""
    again = pickle.MEMOIZE + pickle.POP + b"%b"
    value = start
    for index in range(times):
        get = pickle.BINGET + bytes([index])
        value += again.replace(b"%b", double.replace(b"GET", get))
    return value


PAIR = b"GETGET" + pickle.TUPLE2
STORAGE = b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x04Nt"


def storage_file(evil: bytes = b"", keys: bytes = b"]X\x01\x00\x00\x000a.", count: int = 4) -> bytes:
    """A file of one storage in torch's old format, as pickled tensors have it inside."""
    facts = pickle.dumps({"little_endian": True, "protocol_version": 1001, "type_sizes": {}}, 2)
    return (
        pickle.dumps(0x1950A86A20F9469CFC6C, 2)
        + pickle.dumps(1001, 2)
        + facts
        + program(evil + STORAGE + pickle.BINPERSID)
        + b"\x80\x02"
        + keys
        + struct.pack("<q", count)
        + bytes(16)
    )


def tensor(shape: tuple, stride: tuple, offset: int = 0, inner: bytes | None = None) -> bytes:
    """A pickled tensor around a storage of 4 numbers."""
    content = storage_file() if inner is None else inner
    numbers = b"".join(
        pickle.dumps(value, 2)[2:-1].replace(b"q\x00", b"") for value in (offset, shape, stride)
    )
    storage = (
        named("torch.storage", "_load_from_bytes")
        + b"B"
        + struct.pack("<I", len(content))
        + content
        + b"\x85R"
    )
    return named("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + numbers + b"\x89}tR"


def reduced(module: str, name: str, argument: bytes = b")") -> bytes:
    return named(module, name) + argument + pickle.REDUCE


HOSTILE = {
    "os.system": (reduced("posix", "system", text("touch mark") + b"\x85"), "names 'posix.system'"),
    "eval": (reduced("builtins", "eval", text("open('mark', 'w')") + b"\x85"), "names 'builtins.eval'"),
    "exec": (reduced("builtins", "exec", text("open('mark', 'w')") + b"\x85"), "names 'builtins.exec'"),
    "getattr": (named("builtins", "getattr"), "names 'builtins.getattr'"),
    "import": (named("builtins", "__import__"), "names"),
    "subprocess": (named("subprocess", "Popen"), "names 'subprocess.Popen'"),
    "torch.load": (reduced("torch", "load", text("mark") + b"\x85"), "names 'torch.load'"),
    "torch.hub": (named("torch.hub", "load"), "names"),
    "numpy loads": (named("numpy.core.multiarray", "fromfile"), "names"),
    "copyreg": (named("copyreg", "_reconstructor"), "names"),
    "functools": (named("functools", "partial"), "names"),
    "dnnlib call": (named("dnnlib.util", "call_func_by_name"), "names"),
    "dotted in an allowed module": (named("torch._utils", "os.system"), "names"),
    "dotted in a class's module": (named("training.triplane", "os.system"), "names"),
    "dotted torch": (named("torch", "nn.modules.module.torch.load"), "names"),
    "no text": (b"K\x01" + text("system") + pickle.STACK_GLOBAL, "a name is not text"),
    "GLOBAL of protocol 0": (b"cposix\nsystem\n", "names 'posix.system'"),
    "INST": (b"(" + text("touch mark") + b"iposix\nsystem\n", "unexpected opcode"),
    "OBJ": (b"(" + named("training.triplane", "G") + b"o", "unexpected opcode"),
    "EXT1": (b"\x82\x01", "unexpected opcode"),
    "NEWOBJ_EX": (named("training.triplane", "G") + b")}\x92", "unexpected opcode"),
    "NEXT_BUFFER": (b"\x97", "unexpected opcode"),
    "text persistent id": (b"Pmark\n", "unexpected opcode"),
    "persistent id": (b"K\x01Q", "outside the pickle"),
    "class called": (reduced("training.triplane", "TriPlaneGenerator"), "the file calls"),
    "class with arguments": (named("training.triplane", "G") + b"K\x01\x85\x81", "from arguments"),
    "dictionary from a call": (reduced("collections", "OrderedDict", b"]\x85"), "made from"),
    "state of a list": (b"]}b", "attributes for"),
    "state twice": (named("training.triplane", "G") + b")\x81}b}b", "attributes for"),
    "call of a number": (b"K\x01)R", "expected a Name"),
    "call without tuple": (named("collections", "OrderedDict") + b"]R", "expected a tuple"),
    "key of nested tuples": (b"}" + doubled(b")", PAIR) + b"Ns", "key must be"),
    "key of a list": (b"}]Ns", "key must be"),
    "tuple of too many": (b"K\x01\x86", "more items"),
    "nothing": (b"", "no valid checkpoint"),
    "reference to nothing": (b"h\x05", "no valid checkpoint"),
    "endless text": (b"\x8d" + struct.pack("<Q", 2**62) + b"x", "far larger"),
    "endless bytes": (b"\x8e" + struct.pack("<Q", 2**62) + b"x", "ends in the middle"),
    "endless whole number": (b"\x8b" + struct.pack("<I", 2**31 - 1), "unexpected opcode"),
    "endless line": (b"c" + b"x" * 10_000, "ends in the middle"),
    "gigantic tensor": (tensor((2**40,), (1,)), "does not fit"),
    "gigantic product": (tensor((2**47, 2**47), (0, 0)), "does not fit"),
    "tensor of repeated numbers": (tensor((2**20, 4), (0, 1)), "does not fit"),
    "tensor beyond its storage": (tensor((2, 2), (2, 2)), "does not fit"),
    "tensor before its storage": (tensor((2,), (1,), offset=-1), "numbers from 0 on"),
    "negative stride": (tensor((2,), (-1,), offset=3), "numbers from 0 on"),
    "too many dimensions": (tensor((1,) * 20, (1,) * 20), "dimensions"),
    "too few strides": (tensor((2, 2), (1,)), "dimensions"),
    "call within a tensor": (
        tensor((4,), (1,), inner=storage_file(reduced("posix", "system", text("touch mark") + b"\x85") + b"0")),
        "names 'posix.system'",
    ),
    "file within a tensor's file": (
        tensor((4,), (1,), inner=storage_file(reduced("torch.storage", "_load_from_bytes", b"C\x00\x85"))),
        "files within files",
    ),
    "storage of another size": (tensor((4,), (1,), inner=storage_file(count=5)), "does not fit their contents"),
    "storage of endless size": (tensor((4,), (1,), inner=storage_file(count=2**62)), "does not fit their contents"),
    "storage without numbers": (tensor((4,), (1,), inner=storage_file()[:-8]), "ends in the middle"),
    "storages that are no names": (tensor((4,), (1,), inner=storage_file(keys=b"]K\x01a.")), "list of tensors"),
    "tensor of few bytes": (reduced("torch.storage", "_load_from_bytes", b"C\x01x\x85"), "not a stretch of bytes"),
    "numpy number of too few bytes": (
        reduced("numpy.core.multiarray", "scalar", reduced("numpy", "dtype", text("f8") + b"\x85") + b"C\x01x\x86"),
        "no valid checkpoint",
    ),
    "numpy object": (
        reduced("numpy.core.multiarray", "scalar", reduced("numpy", "dtype", text("O8") + b"\x85") + b"C\x01x\x86"),
        "no valid checkpoint",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_and_do_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, message = HOSTILE[name]
    with pytest.raises(CheckpointError, match=message):
        contents(program(code))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["os.system", "eval", "torch.load", "dotted in an allowed module"])
@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_calls_in_files_of_torch_are_refused(name, zipped, tmp_path, monkeypatch):
    """The same beside a tensor, as torch.save writes it, in either of its formats."""
    monkeypatch.chdir(tmp_path)
    file = io.BytesIO()
    torch.save({"x": torch.ones(3), "PLACE": None}, file, _use_new_zipfile_serialization=zipped)
    harmless = file.getvalue()
    assert contents(harmless)["PLACE"] is None
    place = b"X\x05\x00\x00\x00PLACE"
    evil = b"cposix\nsys\n"  # as long as the key, so that the zip file stays whole
    assert len(evil) == len(place) + 1
    hostile = harmless.replace(place, evil[:-1].ljust(len(place), b"\n"))
    assert hostile != harmless
    with pytest.raises(CheckpointError):
        contents(hostile)
    assert not list(tmp_path.iterdir())


def test_shared_tuples_cost_no_more_than_they_take():
    """2^100 items by reference: nothing walks them, compares them or prints them."""
    assert isinstance(contents(program(doubled(b")", PAIR))), tuple)
    with pytest.raises(CheckpointError, match="a tuple of 2"):
        contents(program(doubled(b")", PAIR) + b")R"))


def test_depth_is_no_danger():
    deep = contents(program(b"]" * 50_000 + b"a" * 49_999))
    assert isinstance(deep, list)
    assert isinstance(contents(program(b")" + b"\x85" * 50_000)), tuple)


def test_the_number_of_opcodes_is_bounded(monkeypatch):
    monkeypatch.setattr(pickles, "LIMITS", LIMITS._replace(opcodes=1000))
    assert contents(program(b"N" * 990)) is None
    with pytest.raises(CheckpointError, match="far larger"):
        contents(program(b"N" * 1000))
    with pytest.raises(CheckpointError, match="far larger"):  # tensors' own pickles count too
        contents(program(tensor((4,), (1,)) * 20))


def test_a_tensor_keeps_no_numbers_in_memory():
    stored = contents(pickle.dumps(torch.zeros(1000, 1000)))
    assert isinstance(stored, StoredTensor)
    assert stored.shape == (1000, 1000)
    assert stored.numel == 10**6
