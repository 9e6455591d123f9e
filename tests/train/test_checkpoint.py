"""Checkpoints: bit-exact, whole or absent at every moment of a kill, and never trusted when damaged."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thalweg.errors import DamagedError, RunError, UserError
from thalweg.train.arrays import load_arrays, save_arrays
from thalweg.train.checkpoint import CheckpointStore
from thalweg.tree import tree_hash

# A process that imports everything once and then forks one child a task, so that a kill costs milliseconds.
# Its children hold NumPy arrays only: a forked JAX backend would hang.
FORGE = '''
import json, os, random, resource, signal, sys
import numpy as np
from thalweg.errors import ThalwegError
from thalweg.train import checkpoint

def tree(step):
    random = np.random.default_rng(step)
    return {"layers": [random.normal(size=(100, 200)) for _ in range(4)], "step": np.int64(step)}

def forever(root, confirmed):
    """Saves step after step, every third one twice, and says so after each."""
    store = checkpoint.CheckpointStore(root, keep=2)
    latest = store.latest()
    step = 0 if latest is None else latest.step + 1
    while True:
        store.save(step, tree(step), {"step": step}, permanent=step % 10 == 0)
        if step % 3 == 0:
            store.save(step, tree(step), {"step": step, "again": True})
        os.pwrite(confirmed, b"%20d" % step, 0)
        step += 1

def dying(root, confirmed, at):
    """Replaces step 3 and adds step 4, dying just before the `at`-th time that the system is asked for something."""
    seen = 0
    def hook(event, arguments=()):
        nonlocal seen
        if event.startswith(("os.", "fcntl.")) or event in ("open", "fsync"):
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
    store = checkpoint.CheckpointStore(root, keep=2)
    new = tree(3), tree(4)
    fsync = os.fsync
    def loud(handle):
        hook("fsync")
        fsync(handle)
    os.fsync = loud
    sys.addaudithook(hook)
    store.save(3, new[0], {"again": True})
    os.pwrite(confirmed, b"%20d" % 3, 0)
    store.save(4, new[1], {})
    os.pwrite(confirmed, b"%20d" % 4, 0)

def full(root, confirmed):
    """A disk on which no file can grow beyond 100 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        checkpoint.CheckpointStore(root).save(9, tree(9), {})
    except ThalwegError as error:
        os.write(confirmed, json.dumps([type(error).__name__, str(error)]).encode())

for line in sys.stdin:
    task, root, confirmed, arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        handle = os.open(confirmed, os.O_RDWR | os.O_CREAT)
        {"forever": forever, "dying": dying, "full": full}[task](root, handle, *arguments)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
'''


def tree_of(step: int) -> dict[str, Any]:
    generator = np.random.default_rng(step)
    return {"layers": [generator.normal(size=(100, 200)) for _ in range(4)], "step": np.int64(step)}


class Forge:
    """Starts the tasks of FORGE, each in a process of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", FORGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, task: str, root: Path, confirmed: Path, *arguments: Any, kill_after: float | None = None) -> int:
        """The wait status of the task, killed after some seconds if it is to be."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([task, str(root), str(confirmed), arguments]) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    forge = Forge()
    with forge.process:
        yield forge
        assert forge.process.stdin is not None
        forge.process.stdin.close()


def read_confirmed(path: Path) -> int:
    return int(path.read_bytes()) if path.exists() and path.read_bytes() else -1


def training() -> dict[str, Any]:
    """The state of a training in mid-run: model, optimizer, keys, multipliers, every dtype."""
    model = eqx.nn.MLP(3, 2, width_size=8, depth=2, key=jax.random.key(3))
    optimizer = optax.adam(1e-2)
    state = optimizer.init(eqx.filter(model, eqx.is_array))
    grads = jax.tree.map(jnp.square, eqx.filter(model, eqx.is_array))
    with jax.numpy_dtype_promotion("standard"):  # Optax raises a number to the power of its int32 count
        updates, state = optimizer.update(grads, state)
    with jax.enable_x64(True):
        wide = {"multiplier": jnp.asarray([1 / 3, -0.0, 5e-324]), "position": jnp.asarray(2**40 + 1)}
    return {
        "model": eqx.apply_updates(model, updates),
        "optimizer": state,
        "key": jax.random.fold_in(jax.random.key(0), 17),
        "keys": jax.random.split(jax.random.key(1, impl="rbg"), (2, 3)),
        "low": jnp.asarray([1.5, jnp.inf, jnp.nan], jnp.bfloat16),
        "done": jnp.asarray([True, False]),
        "none yet": jnp.zeros((0, 7), jnp.uint32),
        **wide,
    }


def blank(tree: Any) -> Any:
    """The same structure with other values."""

    def other(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.zeros_like(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        return jnp.zeros_like(leaf)

    with jax.enable_x64(True):
        return jax.tree.map(other, tree)


@pytest.fixture
def filled(tmp_path: Path) -> CheckpointStore:
    """Steps 1 (permanent), 2 and 3, as the forge makes them."""
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    for step in (1, 2, 3):
        store.save(step, tree_of(step), {}, permanent=step == 1)
    return store


# ------------------------------------------------------------------------------------------------------ files of arrays
@pytest.mark.parametrize(
    "dtype",
    [
        *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
        *(jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.int4, jnp.uint4),
    ],
)
def test_arrays_come_back_bit_for_bit(dtype: Any, tmp_path: Path) -> None:
    dtype = np.dtype(dtype)
    narrow = dtype.name in ("bool", "int4", "uint4")
    bits = np.random.default_rng(0).integers(
        0, 2 if narrow else 256, 24 * dtype.itemsize, np.uint8
    )  # NaNs of all kinds
    matrix = bits.view(dtype).reshape(4, 6)
    arrays = {
        "matrix": matrix,
        "scalar": matrix[1, 1],
        "empty": matrix[:0],
        "columns": matrix.T,
        "every other": matrix[::2],
    }
    save_arrays(tmp_path / "file", arrays)
    loaded, metadata = load_arrays(tmp_path / "file")
    assert metadata == {}
    assert set(loaded) == set(arrays)
    for name, array in arrays.items():
        assert loaded[name].dtype == dtype
        assert loaded[name].shape == array.shape
        assert loaded[name].tobytes() == np.asarray(array).tobytes()


def test_metadata_comes_back(tmp_path: Path) -> None:
    given = {"spec": {"width": 32, "scale": 0.1, "names": ["ν", "x/y"]}, "best": float("inf"), "none": None}
    save_arrays(tmp_path / "file", {}, given)
    assert load_arrays(tmp_path / "file") == ({}, given)


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    # In two processes, as a hash order would differ between them.
    code = "import sys, numpy as np; from thalweg.train.arrays import save_arrays; save_arrays(sys.argv[1], "
    code += "{n: np.ones(3) for n in 'abcdefgh'}, {n: 1 for n in 'abcdefgh'})"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "other")], check=True)
    save_arrays(tmp_path / "this", {n: np.ones(3) for n in "abcdefgh"}, dict.fromkeys("abcdefgh", 1))
    assert (tmp_path / "this").read_bytes() == (tmp_path / "other").read_bytes()


def test_the_file_is_what_others_read(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    save_arrays(tmp_path / "ours", {"w": np.arange(3.0), "c": np.asarray([1 + 2j])})
    assert np.array_equal(load_file(tmp_path / "ours")["w"], np.arange(3.0))
    assert np.array_equal(load_file(tmp_path / "ours")["c"].view(np.complex128), [[1 + 2j]])
    save_file({"w": np.arange(3.0)}, tmp_path / "theirs", {"format": "pt"})
    arrays, metadata = load_arrays(tmp_path / "theirs")
    assert np.array_equal(arrays["w"], np.arange(3.0))
    assert metadata == {"format": "pt"}


def pickled() -> bytes:
    return b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."


def header(text: str, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        pickled(),
        b"PK\x03\x04" + bytes(100),
        header("[1, 2]"),
        header('{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', bytes(4)),
        header('{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', bytes(5)),
        header('{"w": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}', bytes(1)),
        header('{"__metadata__": {"thalweg": "not JSON"}}'),
        header('{"__metadata__": {"thalweg": "[]"}}'),
        header(
            '{"__metadata__": {"thalweg": "{\\"metadata\\": {}, \\"as_bytes\\": {\\"w\\": \\"object\\"}}"}, '
            '"w": {"dtype": "U8", "shape": [1, 8], "data_offsets": [0, 8]}}',
            bytes(8),
        ),
    ],
    ids=["empty", "pickle", "zip", "list", "bad bounds", "data left over", "dtype", "text", "kind", "objects"],
)
def test_what_is_no_file_of_tensors_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"model\.safetensors") as caught:
        load_arrays(path)
    assert caught.value.exit_status == 2
    assert path.read_bytes() == content


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    save_arrays(tmp_path / "whole", {"a": np.arange(5.0), "b": np.ones(3, np.int8)}, {"x": 1})
    data = (tmp_path / "whole").read_bytes()
    for length in range(len(data)):
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(DamagedError):
            load_arrays(tmp_path / "cut")


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            load_arrays(path)


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([object()]), np.zeros(1, ">f8"), np.zeros(1, "M8[s]")])
def test_what_is_no_number_is_refused_by_name(array: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'labels'"):
        save_arrays(tmp_path / "file", {"labels": array})
    with pytest.raises(UserError, match="__metadata__"):
        save_arrays(tmp_path / "file", {"__metadata__": np.zeros(1)})
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------ the store
def test_a_training_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state, meta = training(), {"phase": 1, "position": 2**60, "loss": 0.1, "best": float("inf"), "name": "Adam"}
    path = CheckpointStore(tmp_path / "checkpoints").save(1234, state, meta)
    assert path == tmp_path / "checkpoints" / "step-0000001234"
    like = blank(state)
    assert tree_hash(like) != tree_hash(state)
    store = CheckpointStore(tmp_path / "checkpoints")
    loaded, loaded_meta = store.load(like=like)
    assert tree_hash(loaded) == tree_hash(state)
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    assert loaded_meta == meta
    latest = store.latest()
    assert latest is not None
    assert (latest.step, latest.meta()) == (1234, meta)


def test_the_last_ones_and_the_permanent_ones_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    for step in range(0, 100, 10):
        store.save(step, {"w": np.full(3, step)}, {}, permanent=step in (20, 50))
        assert store.steps()[-1] == step
    assert store.steps() == [20, 50, 70, 80, 90]
    assert store.load(20, like={"w": np.zeros(3, int)})[0]["w"].tolist() == [20, 20, 20]
    assert not list(tmp_path.glob(".*"))


def test_saving_a_step_again(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    first = store.save(5, {"w": np.ones(3)}, {"n": 1}, permanent=True)
    before = (first / "manifest.json").stat()
    assert store.save(5, {"w": np.ones(3)}, {"n": 1}) == first
    assert (first / "manifest.json").stat().st_mtime_ns == before.st_mtime_ns  # nothing was written
    store.save(5, {"w": np.zeros(3)}, {"n": 2})
    tree, meta = store.load(like={"w": np.ones(3)})
    assert (tree["w"].tolist(), meta, store.steps()) == ([0, 0, 0], {"n": 2}, [5])
    assert len(list(tmp_path.iterdir())) == 1
    store.save(5, {"w": np.ones(3)}, {"n": 3})
    for step in range(6, 12):
        store.save(step, {"w": np.ones(3)}, {})
    assert store.steps() == [5, 9, 10, 11]  # what was permanent once stays so
    assert store.at(5).meta() == {"n": 3}


def test_a_damaged_checkpoint_is_replaced_by_saving_its_step_again(filled: CheckpointStore) -> None:
    (filled.at(3).path / "arrays.safetensors").write_bytes(b"")
    filled.save(3, tree_of(3), {})
    assert tree_hash(filled.load(like=tree_of(0))[0]) == tree_hash(tree_of(3))


def test_going_on_from_an_older_one(filled: CheckpointStore) -> None:
    with pytest.raises(UserError, match="before the latest checkpoint, of step 3"):
        filled.save(2, tree_of(2), {})
    with pytest.raises(UserError, match=r"no checkpoint of step 7.* 1, 2, 3"):
        filled.discard_after(7)
    assert filled.steps() == [1, 2, 3]
    filled.discard_after(2)
    assert filled.steps() == [1, 2]
    filled.save(3, tree_of(33), {})
    assert tree_hash(filled.load(like=tree_of(0))[0]) == tree_hash(tree_of(33))


def test_no_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "none")
    assert store.latest() is None
    assert store.steps() == []
    with pytest.raises(UserError, match="no checkpoint"):
        store.load(like={})
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda store: store.save(-1, {}, {}), "step is -1"),
        (lambda store: store.save(9, {}, {"f": print}), r"meta\.f"),
        (lambda store: store.save(9, {}, {"a": {1: 2}}), r"key 1 is no text \(meta\.a\)"),
        (lambda store: store.save(9, {"w": np.array(["a"])}, {}), "'w'"),
        (lambda store: store.load(like={**tree_of(3), "step": np.int32(0)}), "'step' was saved as int64"),
        (lambda store: store.load(like={**tree_of(3), "more": np.int32(0)}), "'more'.* was not saved"),
        (lambda store: store.load(9, like={}), "no checkpoint of step 9"),
        (lambda store: CheckpointStore(store.root, keep=0), "keep is 0"),
    ],
)
def test_mistakes_are_refused_and_change_nothing(
    filled: CheckpointStore, call: Callable[[CheckpointStore], Any], message: str
) -> None:
    before = sorted(filled.root.rglob("*"))
    with pytest.raises(UserError, match=message):
        call(filled)
    assert sorted(filled.root.rglob("*")) == before


@pytest.mark.parametrize("name", ["arrays.safetensors", "state.json", "manifest.json"])
def test_a_flipped_bit_is_refused_by_name_and_an_older_one_offered(filled: CheckpointStore, name: str) -> None:
    path = filled.at(3).path / name
    good = path.read_bytes()
    middle = len(good) // 2
    path.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
    for use in (lambda: filled.load(like=tree_of(0)), filled.at().verify, filled.at().leaves):
        with pytest.raises(DamagedError, match=name) as caught:
            use()
        assert caught.value.where == str(path)
        assert caught.value.remedy is not None
        assert "step 2 is whole" in caught.value.remedy
    # The one offered does load; and where that is damaged too, the one before it is offered.
    assert tree_hash(filled.load(2, like=tree_of(0))[0]) == tree_hash(tree_of(2))
    (filled.at(2).path / "state.json").unlink()
    with pytest.raises(DamagedError, match="step 1 is whole"):
        filled.load(like=tree_of(0))
    (filled.at(1).path / "manifest.json").write_bytes(b"[]")
    with pytest.raises(DamagedError, match="No older checkpoint is whole"):
        filled.load(like=tree_of(0))


def test_every_other_damage_is_refused(filled: CheckpointStore) -> None:
    path = filled.at(3).path

    def refused(match: str) -> None:
        with pytest.raises(DamagedError, match=match):
            filled.load(3, like=tree_of(0))

    arrays = (path / "arrays.safetensors").read_bytes()
    (path / "arrays.safetensors").write_bytes(arrays[:-1])
    refused(f"arrays.safetensors has {len(arrays) - 1} bytes instead of {len(arrays)}")
    (path / "arrays.safetensors").write_bytes(arrays)
    shutil.copytree(path, filled.root / "step-0000000004")  # a renamed checkpoint is not that of another step
    with pytest.raises(DamagedError, match="is that of step 3"):
        filled.load(4, like=tree_of(0))
    (path / "manifest.json").write_text((path / "manifest.json").read_text().replace('"format": 1', '"format": 99'))
    refused("format 99")
    (path / "manifest.json").unlink()
    refused("manifest.json cannot be read")
    shutil.rmtree(path)
    path.mkdir()
    refused("manifest.json cannot be read")


# ------------------------------------------------------------------------------------------------ kills and full disks
def assert_sound(root: Path, confirmed: int) -> CheckpointStore:
    """What must hold after a death at any moment."""
    assert not (root.exists() and [one for one in root.glob("step-*") if not (one / "manifest.json").exists()])
    store = CheckpointStore(root, keep=2)
    assert not list(root.glob(".*"))  # what the kill left half-written is gone
    for step in store.steps():
        tree, _ = store.load(step, like=tree_of(0))
        assert tree_hash(tree) == tree_hash(tree_of(step))
    latest = store.latest()
    assert (-1 if latest is None else latest.step) >= confirmed  # what was confirmed is there
    return store


def test_kills_at_random_moments(tmp_path: Path, forge: Forge) -> None:
    root, confirmed = tmp_path / "checkpoints", tmp_path / "confirmed"
    delays = random.Random(0)
    half_written = 0
    reached = -1
    for _ in range(20):
        status = forge.run("forever", root, confirmed, kill_after=delays.uniform(0.0, 0.12))
        assert os.WTERMSIG(status) == signal.SIGKILL
        half_written += bool(list(root.glob(".staging-*")))
        store = assert_sound(root, read_confirmed(confirmed))
        latest = store.latest()
        if latest is not None:
            assert latest.step >= reached
            reached = latest.step
            # The last two, the permanent ones, and what a kill kept from being retired until the next save.
            assert set(range(0, reached - 1, 10)) <= set(store.steps())
            assert len(store.steps()) <= 2 + reached // 10 + 1 + 1
    assert reached > 20, "the children hardly saved anything, so the kills tested nothing"
    assert half_written > 0, "no kill fell into a save, so the kills tested nothing"


def test_kills_before_every_single_call_of_the_system(filled: CheckpointStore, tmp_path: Path, forge: Forge) -> None:
    old = tree_hash(filled.load(3, like=tree_of(0))[0])
    for at in range(1, 500):
        root, confirmed = tmp_path / str(at) / "checkpoints", tmp_path / str(at) / "confirmed"
        shutil.copytree(filled.root, root)
        status = forge.run("dying", root, confirmed, at)
        store = assert_sound(root, max(read_confirmed(confirmed), 3))
        # Never without the permanent one and two more: nothing goes before what replaces it is in place.
        assert 1 in store.steps()
        assert len(store.steps()) >= 3
        assert tree_hash(store.load(3, like=tree_of(0))[0]) == old
        assert read_confirmed(confirmed) < 3 or store.at(3).meta() == {"again": True}
        if os.WIFEXITED(status):
            assert store.steps() == [1, 3, 4]
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        shutil.rmtree(tmp_path / str(at))
    assert at > 30, "a save asks the system for more than that"


def test_a_full_disk_fails_the_save_and_leaves_the_others(
    filled: CheckpointStore, tmp_path: Path, forge: Forge
) -> None:
    status = forge.run("full", filled.root, tmp_path / "said")
    assert status == 0
    kind, message = json.loads((tmp_path / "said").read_bytes())
    assert kind == "RunError"
    assert os.strerror(errno.EFBIG) in message
    assert not list(filled.root.glob(".*"))
    assert assert_sound(filled.root, 3).steps() == [1, 2, 3]


@pytest.mark.parametrize("function", ["fsync", "rename", "mkdir"])
def test_every_failing_call_fails_the_save(
    filled: CheckpointStore, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(os, function)
    failures = 0
    for fail_at in range(1, 20):
        calls = 0

        def fail(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fail_at:  # noqa: B023 (used within this turn only)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail)
            try:
                filled.save(4, tree_of(4), {"attempt": fail_at})
            except RunError:
                failures += 1
        assert_sound(filled.root, 3)
        assert {1, 3} <= set(filled.steps())
        if calls < fail_at:
            break
    # Five syncs: three files, the staging folder, the folder of checkpoints. One rename into place (that of a retired
    # checkpoint may fail: it is tried again at the next save) and one staging folder.
    assert failures == {"fsync": 5, "rename": 1, "mkdir": 1}[function]
    assert filled.steps() == [1, 3, 4]


def test_opening_beside_a_living_writer_disturbs_nothing(tmp_path: Path, forge: Forge) -> None:
    root, confirmed = tmp_path / "checkpoints", tmp_path / "confirmed"
    assert forge.process.stdin is not None
    assert forge.process.stdout is not None
    forge.process.stdin.write(json.dumps(["forever", str(root), str(confirmed), []]) + "\n")
    forge.process.stdin.flush()
    child = int(forge.process.stdout.readline())
    loads = 0
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline or read_confirmed(confirmed) < 5:
        assert time.monotonic() < deadline + 20
        store = CheckpointStore(root)  # as the report of a living run does; sweeping a save would fail the writer
        if store.latest() is not None:
            tree, meta = store.load(like=tree_of(0))
            assert tree_hash(tree) == tree_hash(tree_of(meta["step"]))
            loads += 1
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(int(forge.process.stdout.readline())) == signal.SIGKILL  # it lived until then
    assert loads > 5
