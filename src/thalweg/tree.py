"""Pytrees as named arrays: taken apart, put together again bit for bit, and hashed.

Names are paths, like `params/layers/0/weight`. A `/` inside a dictionary key is written `~1` and a `~` is written `~0`
(the escapes of JSON Pointer, RFC 6901), so two different paths never share a name.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError

Tree = TypeVar("Tree")


@dataclass(frozen=True)
class NamedLeaves:
    """What a pytree holds, beside its structure.

    Attributes:
        arrays: name -> array on the host; a typed PRNG key is there as its uint32 data.
        keys: name -> implementation of each typed PRNG key, such as "threefry2x32".
        weak: names of the weakly typed arrays. They promote differently, so forgetting it changes later arithmetic.
        scalars: name -> `repr` of each Python number or text among the leaves: part of the structure, never restored.
    """

    arrays: dict[str, np.ndarray]
    keys: dict[str, str] = field(default_factory=dict)
    weak: tuple[str, ...] = ()
    scalars: dict[str, str] = field(default_factory=dict)


def named_leaves(tree: Any) -> NamedLeaves:
    """Takes a pytree apart: every array leaf under its path name, on the host.

    Args:
        tree: any pytree. Leaves that are no arrays, numbers or texts (functions, say) are left out.
    Raises:
        UserError: two leaves have the same name, which only a pytree node with its own key names can cause.

    >>> leaves = named_leaves({"w": np.ones((2, 3)), "key": jax.random.key(7), "rate": 0.1})
    >>> {name: array.shape for name, array in leaves.arrays.items()}
    {'key': (2,), 'w': (2, 3)}
    >>> leaves.keys, leaves.scalars
    ({'key': 'threefry2x32'}, {'rate': '0.1'})
    """
    values: dict[str, Any] = {}
    keys: dict[str, str] = {}
    scalars: dict[str, str] = {}
    for name, leaf in leaf_paths(tree):
        if _is_key(leaf):
            keys[name] = str(jax.random.key_impl(leaf))
            values[name] = jax.random.key_data(leaf)
        elif _is_array(leaf):
            values[name] = leaf
        elif _is_scalar(leaf):
            scalars[name] = repr(leaf)
    weak = tuple(name for name, value in values.items() if getattr(value, "weak_type", False))
    arrays = {name: np.asarray(value) for name, value in jax.device_get(values).items()}
    return NamedLeaves(arrays, keys, weak, scalars)


def flatten_with_names(tree: Any) -> dict[str, np.ndarray]:
    """The array leaves of a pytree by path name, on the host; typed PRNG keys as their uint32 data.

    >>> flatten_with_names({"layers": [{"weight": np.zeros(2)}, {"weight": np.ones(2)}]})
    {'layers/0/weight': array([0., 0.]), 'layers/1/weight': array([1., 1.])}
    """
    return named_leaves(tree).arrays


def rebuild(like: Tree, leaves: NamedLeaves, *, where: str | None = None) -> Tree:
    """Puts a pytree together again: the structure of `like`, the arrays of `leaves`, bit for bit.

    Args:
        like: a pytree of the same structure, shapes and dtypes, whose values do not matter: arrays or
            `jax.ShapeDtypeStruct`s. Each array goes where `like` holds its own: a NumPy array on the host, a JAX array
            on the same devices. Leaves that are no arrays are taken from `like`.
        leaves: what `named_leaves` made of the original. 64-bit arrays stay so whatever JAX's 64-bit setting.
        where: the file that the leaves came from, for the message.
    Raises:
        UserError: a name, shape, dtype, key implementation or Python scalar differs; the leaf is named.

    >>> tree = {"w": np.arange(3.0), "key": jax.random.key(7)}
    >>> again = rebuild({"w": np.zeros(3), "key": jax.random.key(0)}, named_leaves(tree))
    >>> tree_hash(again) == tree_hash(tree)
    True
    """
    named = leaf_paths(like)
    expected = {name: leaf for name, leaf in named if _is_array(leaf)}
    scalars = {name: repr(leaf) for name, leaf in named if _is_scalar(leaf)}
    _refuse_difference(expected, scalars, leaves, where)
    restored = [_restore(name, leaf, leaves, where) if _is_array(leaf) else leaf for name, leaf in named]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), restored)


def tree_hash(tree: Any) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of a pytree's arrays: equal only if equal to the last bit.

    The same in every process and for NumPy and JAX arrays alike; -0.0 differs from 0.0, and the order of a dictionary
    does not matter.

    Returns:
        64 hexadecimal digits.

    >>> tree_hash({"a": np.zeros(2)}) == tree_hash({"a": jnp.zeros(2, np.float32)})
    False
    >>> tree_hash({"a": np.float32([1.0])})[:16]
    '92b4ed3e15534127'
    """
    leaves = named_leaves(tree)
    total = hashlib.sha256()
    for name in sorted(leaves.arrays):
        array = np.asarray(leaves.arrays[name], order="C")
        # A header that fixes the number of bytes after it: no two trees give the same stream.
        header = [name, leaves.keys.get(name), array.dtype.name, array.shape]
        total.update(json.dumps(header).encode() + b"\n")
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def leaf_paths(tree: Any) -> list[tuple[str, Any]]:
    """Every leaf with the name of its path, in the order of the pytree.

    >>> leaf_paths({"layers": [1.0, 2.0]})
    [('layers/0', 1.0), ('layers/1', 2.0)]
    """
    named = [(_name(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]
    seen: set[str] = set()
    for name, _ in named:
        if name in seen:
            raise UserError(
                "two leaves of a pytree have the same name",
                where=f"leaf {name!r}",
                remedy="Give the children of that node different keys.",
            )
        seen.add(name)
    return named


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(_part(key).replace("~", "~0").replace("/", "~1") for key in path) if path else "leaf"


def _part(key: Any) -> str:
    for attribute in ("name", "idx", "key"):  # GetAttrKey | SequenceKey | DictKey and FlattenedIndexKey
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _is_array(leaf: Any) -> TypeGuard[jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct]:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))


def _is_scalar(leaf: Any) -> bool:
    return isinstance(leaf, (bool, int, float, complex, str)) and not _is_array(leaf)  # np.float64 is a float too


def _is_key(leaf: Any) -> TypeGuard[jax.Array]:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _refuse_difference(
    expected: Mapping[str, Any], scalars: Mapping[str, str], leaves: NamedLeaves, where: str | None
) -> None:
    remedy = "Load with a tree of the structure that was saved: the same model, program and settings."
    missing = [name for name in expected if name not in leaves.arrays]
    extra = [name for name in leaves.arrays if name not in expected]
    if missing:
        raise UserError(f"leaf {missing[0]!r} ({len(missing)} in all) was not saved", where=where, remedy=remedy)
    if extra:
        raise UserError(f"leaf {extra[0]!r} ({len(extra)} in all) is not in the tree", where=where, remedy=remedy)
    for name in sorted({*scalars, *leaves.scalars}):
        if (now := scalars.get(name)) != (saved := leaves.scalars.get(name)):
            # A Python number cannot be put back into the tree, so a changing one would be lost without a word.
            what = f"leaf {name!r} is a Python value, {saved} when saved and {now} now"
            raise UserError(what, where=where, remedy="Keep values that change in arrays. " + remedy)


def _restore(name: str, leaf: Any, leaves: NamedLeaves, where: str | None) -> Any:
    # A copy of our own: JAX may use a NumPy array's memory as it is, or read it only after this returns.
    array = leaves.arrays[name].copy()
    implementation = leaves.keys.get(name)
    with jax.enable_x64(True):  # else JAX would quietly halve 64-bit arrays; scoped, so nothing global changes
        value: Any = array
        if implementation is not None:
            try:
                value = jax.random.wrap_key_data(jnp.asarray(array), impl=implementation)
            except (ValueError, TypeError) as error:
                what = f"leaf {name!r} is no key of the implementation {implementation!r}: {error}"
                raise UserError(what, where=where) from error
        if name in leaves.weak and implementation is None and not isinstance(leaf, (np.ndarray, np.generic)):
            value = _weak(array)
        if value.shape != leaf.shape or value.dtype != leaf.dtype:
            saved, now = (f"{one.dtype}{list(one.shape)}" for one in (value, leaf))
            raise UserError(
                f"leaf {name!r} was saved as {saved}, but the tree holds {now}",
                where=where,
                remedy="Load with the model, program and precision that were saved.",
            )
        if isinstance(leaf, np.generic):
            return array[()]
        if isinstance(leaf, np.ndarray):
            return array
        placed = None if isinstance(leaf, jax.Array) and not leaf.committed else leaf.sharding
        return jax.device_put(value, placed)


def _weak(array: np.ndarray) -> jax.Array:
    """The same bits, weakly typed. Weak types have the default width of the 64-bit setting they were made under."""
    with jax.enable_x64(array.dtype in (np.float64, np.int64, np.complex128)):
        template = jnp.full(array.shape, array.dtype.type(0).item())  # weak, as its fill value is a Python number
        return template.at[...].set(array)
