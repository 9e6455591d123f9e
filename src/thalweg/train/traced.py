"""What can be read off a program that was traced but not run."""

from typing import Any

import jax


def has_convolution(jaxpr: Any) -> bool:
    """Whether a traced program contains a convolution, at any depth."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            return True
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns") and has_convolution(inner):
                return True
    return False


def used_inputs(jaxpr: Any, used_outputs: list[bool] | None = None) -> list[bool]:
    """Which inputs of a traced program its outputs depend on.

    Exact through calls of compiled functions; any other control flow counts as using all that it is handed.

    Args:
        jaxpr: of `jax.make_jaxpr`.
        used_outputs: the outputs asked about; None asks about all.

    >>> import jax.numpy as jnp
    >>> used_inputs(jax.make_jaxpr(lambda x, y: (jnp.sin(x), y * 0 + x)[0])(1.0, 2.0).jaxpr)
    [True, False]
    """
    is_variable = lambda atom: not hasattr(atom, "val")  # the other atoms are literals
    used_outputs = [True] * len(jaxpr.outvars) if used_outputs is None else used_outputs
    live = {atom for atom, used in zip(jaxpr.outvars, used_outputs, strict=True) if used and is_variable(atom)}
    for equation in reversed(jaxpr.eqns):
        wanted = [atom in live for atom in equation.outvars]
        if not any(wanted):
            continue
        inner = equation.params.get("jaxpr")
        inner = getattr(inner, "jaxpr", inner)
        handed = [True] * len(equation.invars)
        aligned = hasattr(inner, "eqns") and len(inner.outvars) == len(wanted) and len(inner.invars) == len(handed)
        if equation.primitive.name in CALLS and aligned:
            handed = used_inputs(inner, wanted)
        live |= {atom for atom, used in zip(equation.invars, handed, strict=True) if used and is_variable(atom)}
    return [atom in live for atom in jaxpr.invars]


CALLS = ("jit", "pjit", "checkpoint", "remat2", "closed_call")
"""Primitives that call the program they hold once, with the inputs that they are handed."""
