"""Taylor-mode differentiation: a field's value and its derivatives along several directions, in one pass.

A function's truncated Taylor series along a direction, c₀ + c₁s + c₂s² + …, is carried through each of its operations
(Griewank and Walther, Evaluating Derivatives, 2008, chapter 13, tables 13.1 and 13.2). All directions share c₀ and what
is made of it, so that value, u_x, u_t and u_xx cost one pass where nested forward derivatives make one for each and
again one for each on the way back. An operation without a rule here is differentiated by JAX, any number of times.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

Tail = tuple[Any, ...]
"""Coefficients c₁, c₂, … along one direction; None is zero."""


class Series(NamedTuple):
    """A quantity's Taylor series along each direction.

    Attributes:
        value: c₀, which all directions share.
        tails: by direction, the coefficients after it, normalized: cₖ = (dᵏ/dsᵏ)/k!.
    """

    value: jax.Array
    tails: tuple[Tail, ...]


def taylor(f: Callable[[jax.Array], jax.Array], x: jax.Array, directions: Sequence[tuple[jax.Array, int]]) -> Series:
    """Taylor coefficients of a function at one point, along several directions.

    Args:
        f: (d,) -> one array.
        x: point, shape (d,).
        directions: (direction (d,), order ≥ 1) for each.
    Returns:
        f(x), and by direction the coefficients 1 to order, each of the shape of f(x) and none None.

    >>> found = taylor(lambda x: jnp.sin(x[0]) * x[1], jnp.array([0.0, 2.0]), [(jnp.array([1.0, 0.0]), 3)])
    >>> [round(float(c) * k, 6) for c, k in zip(found.tails[0], (1, 2, 6))]  # 2cos(0), -2sin(0), -2cos(0)
    [2.0, 0.0, -2.0]
    """
    made = jax.make_jaxpr(f)(x)
    start = Series(x, tuple((v.astype(x.dtype), *[None] * (order - 1)) for v, order in directions))
    (result,) = _evaluate(made.jaxpr, made.consts, [start])
    if not isinstance(result, Series):
        result = Series(result, tuple((None,) * order for _, order in directions))
    zero = jnp.zeros_like(result.value)
    return Series(result.value, tuple(tuple(zero if c is None else c for c in tail) for tail in result.tails))


Value = Any
"""A `Series`, or the plain array of something that does not depend on the point."""


def _evaluate(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Value]) -> list[Value]:
    known: dict[Any, Value] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
    read = lambda v: v.val if isinstance(v, Literal) else known[v]
    for eqn in jaxpr.eqns:
        inputs = [read(v) for v in eqn.invars]
        found = _apply(eqn.primitive, inputs, eqn.params)
        known.update(zip(eqn.outvars, found, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _apply(primitive: Any, inputs: list[Value], params: dict[str, Any]) -> list[Value]:
    if not any(isinstance(value, Series) for value in inputs):
        return _bind(primitive, inputs, params)
    inner = params.get("jaxpr")
    if primitive.name in ("jit", "pjit", "closed_call") and isinstance(inner, ClosedJaxpr):
        return _evaluate(inner.jaxpr, inner.consts, inputs)
    if primitive is lax.convert_element_type_p and not jnp.issubdtype(params["new_dtype"], jnp.inexact):
        return _bind(primitive, [_value(value) for value in inputs], params)  # whole numbers do not move
    if primitive in LINEAR:
        return [_linear(primitive, inputs, params)]
    if primitive in BILINEAR and all(isinstance(value, Series) for value in inputs):
        product = lambda a, b: primitive.bind(a, b, **params)
        return [_product(product, *inputs)]
    if primitive in BILINEAR:
        return [_scaled(primitive, inputs, params)]
    if primitive is lax.div_p and not isinstance(inputs[1], Series):
        return [_linear(primitive, inputs, params)]
    if (rule := RULES.get(primitive)) is not None and (found := rule(inputs, params)) is not None:
        return [found]
    return _by_nested_derivatives(primitive, inputs, params)


def _bind(primitive: Any, inputs: Sequence[Any], params: dict[str, Any]) -> list[Any]:
    made = primitive.get_bind_params(params)  # JAX before 0.10 gave the inner functions apart
    subfuns, rest = made if isinstance(made, tuple) else ((), made)
    found = primitive.bind(*subfuns, *inputs, **rest)
    return list(found) if primitive.multiple_results else [found]


def _tails(inputs: Sequence[Value]) -> list[list[Tail]]:
    """By direction, the tails of all inputs; constants have None throughout."""
    orders = next([len(tail) for tail in value.tails] for value in inputs if isinstance(value, Series))
    empty = [(None,) * order for order in orders]
    return [[value.tails[i] if isinstance(value, Series) else empty[i] for value in inputs] for i in range(len(orders))]


def _value(value: Value) -> Any:
    return value.value if isinstance(value, Series) else value


LINEAR = frozenset(
    {
        lax.add_p, lax.sub_p, lax.neg_p, lax.reshape_p, lax.squeeze_p, lax.broadcast_in_dim_p, lax.slice_p,
        lax.transpose_p, lax.concatenate_p, lax.reduce_sum_p, lax.convert_element_type_p, lax.rev_p, lax.copy_p,
    }
)  # fmt: skip
"""Operations that are linear in all their arguments together, and therefore act on each coefficient by itself."""

BILINEAR = frozenset({lax.mul_p, lax.dot_general_p})


def _linear(primitive: Any, inputs: Sequence[Value], params: dict[str, Any]) -> Series:
    values = [_value(value) for value in inputs]

    def act(coefficients: Sequence[jax.Array | None]) -> jax.Array | None:
        given = [c for c in coefficients if c is not None]
        if not given:
            return None
        if len(given) == len(coefficients):
            return primitive.bind(*coefficients, **params)
        if primitive is lax.add_p or (primitive is lax.sub_p and coefficients[1] is None):
            return given[0]
        if primitive is lax.sub_p:
            return -given[0]
        if primitive is lax.div_p:
            return given[0] / values[1]
        zeros = (jnp.zeros_like(v) if c is None else c for c, v in zip(coefficients, values, strict=True))
        return primitive.bind(*zeros, **params)

    tails = tuple(tuple(act(order) for order in zip(*tails, strict=True)) for tails in _tails(inputs))
    return Series(primitive.bind(*values, **params), tails)


def _scaled(primitive: Any, inputs: Sequence[Value], params: dict[str, Any]) -> Series:
    left, right = inputs
    by = (lambda c: primitive.bind(c, right, **params)) if isinstance(left, Series) else (
        lambda c: primitive.bind(left, c, **params)
    )  # fmt: skip
    series = left if isinstance(left, Series) else right
    return Series(by(series.value), tuple(tuple(None if c is None else by(c) for c in tail) for tail in series.tails))


def _product(product: Callable, a: Series, b: Series) -> Series:
    """Leibniz' rule."""
    tails = []
    for left, right in zip(a.tails, b.tails, strict=True):
        x, y = (a.value, *left), (b.value, *right)
        tails.append(tuple(_sum(product, [(x[j], y[k - j]) for j in range(k + 1)]) for k in range(1, len(x))))
    return Series(product(a.value, b.value), tuple(tails))


def _sum(product: Callable, pairs: Sequence[tuple[Any, Any]]) -> Any:
    """Sum of products, leaving out those with a zero."""
    terms = [product(a, b) for a, b in pairs if a is not None and b is not None]
    return sum(terms[1:], start=terms[0]) if terms else None


def _times(a: Any, b: Any) -> jax.Array:
    return a * b


def _scale(factor: float, c: Any) -> Any:
    """A coefficient times a number; by 1 it stays itself."""
    return None if c is None else c if factor == 1 else c * jnp.asarray(factor, c.dtype)


def _plus(a: jax.Array | None, b: jax.Array | None) -> jax.Array | None:
    return b if a is None else a if b is None else a + b


def _integrated(slope: Sequence[Any], tail: Tail, k: int) -> Any:
    """Coefficient k of y where y' = w·x', from w₀ … w_(k-1) and x's tail: k·y_k = Σ j·x_j·w_(k-j)."""
    return _sum(_times, [(_scale(j / k, tail[j - 1]), slope[k - j]) for j in range(1, k + 1)])


def _solution(value: jax.Array, slope: jax.Array, series: Series, advance: Callable[[list[Any], int], Any]) -> Series:
    """Y with y' = w(y)·x': value y₀, slope w₀; `advance(y, k)` gives w_k from y₀ … y_k."""
    tails = []
    for tail in series.tails:
        y, w = [value], [slope]
        for k in range(1, len(tail) + 1):
            y.append(_integrated(w, tail, k))
            if k < len(tail):
                w.append(advance(y, k))
        tails.append(tuple(y[1:]))
    return Series(value, tuple(tails))


def _squares(y: Sequence[Any], k: int) -> Any:
    """Coefficient k of y², each product of two different coefficients once."""
    pairs = [(_scale(2.0 if j < k - j else 1.0, y[j]), y[k - j]) for j in range(k // 2 + 1)]
    return _sum(_times, pairs)


def _tanh(inputs: list[Value], params: dict[str, Any]) -> Series:
    (x,) = inputs
    y = jnp.tanh(x.value)
    return _solution(y, 1 - y * y, x, lambda c, k: _scale(-1.0, _squares(c, k)))


def _logistic(inputs: list[Value], params: dict[str, Any]) -> Series:
    (x,) = inputs
    y = jax.nn.sigmoid(x.value)
    return _solution(y, y - y * y, x, lambda c, k: _plus(c[k], _scale(-1.0, _squares(c, k))))


def _exp(inputs: list[Value], params: dict[str, Any]) -> Series:
    (x,) = inputs
    y = jnp.exp(x.value)
    return _solution(y, y, x, lambda c, k: c[k])


def _sine_and_cosine(x: Series) -> tuple[Series, Series]:
    sine, cosine = jnp.sin(x.value), jnp.cos(x.value)
    sines, cosines = [], []
    for tail in x.tails:
        s, c = [sine], [cosine]
        for k in range(1, len(tail) + 1):
            following = _integrated(c, tail, k), _scale(-1.0, _integrated(s, tail, k))
            s.append(following[0])
            c.append(following[1])
        sines.append(tuple(s[1:]))
        cosines.append(tuple(c[1:]))
    return Series(sine, tuple(sines)), Series(cosine, tuple(cosines))


def _square(inputs: list[Value], params: dict[str, Any]) -> Series:
    (x,) = inputs
    tails = tuple(tuple(_squares((x.value, *tail), k) for k in range(1, len(tail) + 1)) for tail in x.tails)
    return Series(x.value * x.value, tails)  # fmt: skip


def _integer_power(inputs: list[Value], params: dict[str, Any]) -> Series | None:
    if (power := params["y"]) < 2:
        return None
    (x,) = inputs
    made, base = None, x
    while power:
        if power % 2:
            made = base if made is None else _product(_times, made, base)
        base, power = (_square([base], {}) if power > 1 else base), power // 2
    return made


def _quotient(inputs: list[Value], params: dict[str, Any]) -> Series:
    x, y = inputs
    inverse = 1 / _value(y)
    value = _value(x) * inverse
    tails = []
    for left, right in _tails(inputs):
        q: list[Any] = [value]
        for k in range(1, len(left) + 1):
            drawn = _sum(_times, [(right[j - 1], q[k - j]) for j in range(1, k + 1)])
            rest = _plus(left[k - 1], _scale(-1.0, drawn))
            q.append(None if rest is None else rest * inverse)
        tails.append(tuple(q[1:]))
    return Series(value, tuple(tails))


RULES: dict[Any, Callable[[list[Value], dict[str, Any]], Series | None]] = {
    lax.tanh_p: _tanh,
    lax.logistic_p: _logistic,
    lax.exp_p: _exp,
    lax.sin_p: lambda inputs, params: _sine_and_cosine(inputs[0])[0],
    lax.cos_p: lambda inputs, params: _sine_and_cosine(inputs[0])[1],
    lax.square_p: _square,
    lax.integer_pow_p: _integer_power,
    lax.div_p: _quotient,
}


def _by_nested_derivatives(primitive: Any, inputs: list[Value], params: dict[str, Any]) -> list[Value]:
    """Any other operation: the derivatives of s -> operation(c₀ + c₁s + …) at 0, by forward derivatives nested."""
    values = [_value(value) for value in inputs]
    moving = [i for i, value in enumerate(inputs) if isinstance(value, Series)]
    results = _bind(primitive, values, params)
    smooth = [i for i, result in enumerate(results) if jnp.issubdtype(result.dtype, jnp.inexact)]
    if not smooth:
        return results
    by_direction = []
    for tails in _tails(inputs):
        order = len(tails[0])

        def along(s: jax.Array, tails: list[Tail] = tails) -> list[jax.Array]:
            at = list(values)
            for i in moving:
                for k, c in enumerate(tails[i], start=1):
                    if c is not None:
                        at[i] = at[i] + c * (s**k).astype(c.dtype)
            found = _bind(primitive, at, params)
            return [found[i] for i in smooth]

        zero = jnp.zeros((), jnp.finfo(jnp.result_type(*[values[i] for i in moving])).dtype)  # s is real
        derivatives = []
        function: Callable = along
        for k in range(1, order + 1):
            function = lambda s, f=function: jax.jvp(f, (s,), (jnp.ones_like(s),))[1]
            derivatives.append([_scale(1 / math.factorial(k), d) for d in function(zero)])
        by_direction.append(derivatives)
    for j, i in enumerate(smooth):
        results[i] = Series(results[i], tuple(tuple(d[j] for d in derivatives) for derivatives in by_direction))
    return results
