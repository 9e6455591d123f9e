"""What data and equations tell of unknown numbers: the Gauss-Newton posterior, and what they cannot tell apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.stats import norm

from thalweg.errors import UserError
from thalweg.objective.objective import Objective
from thalweg.objective.partition import split, trainable
from thalweg.physics.unknowns import Scale, Unknown, unknowns_of
from thalweg.types import Finding, PyTree, Where

LOOSE = 1.0
"""Standard deviation of a combination of trained numbers from which it counts as unknown: for a positive unknown one of
1 is a factor of e up or down."""

FINEST = 1e-6
"""Least deviation of a residual that is taken from the fit itself, in changes of it by one unit of the unknowns."""

RIDGE = 1e-10
"""Prior precision of every weight, relative to the largest curvature: it only fills what nothing else determines."""


@dataclass(frozen=True)
class UnknownPosterior:
    """Gaussian posterior of the k unknown numbers of a model, all network weights integrated out.

    Attributes:
        unknowns: by name, as trained.
        covariance: (k, k), of the trained numbers `raw`.
    """

    unknowns: Mapping[str, Unknown]
    covariance: np.ndarray

    def interval(self, name: str, level: float = 0.9) -> tuple[float, float]:
        """The interval that holds the number with this probability; within its bounds, since it is made on `raw`."""
        if name not in self.unknowns:
            raise UserError(f"there is no unknown '{name}'", remedy=f"There is: {', '.join(self.unknowns)}.")
        if not 0 < level < 1:
            raise UserError(f"a level of {level}", where="interval", remedy="Between 0 and 1.")
        i, unknown = list(self.unknowns).index(name), self.unknowns[name]
        raw, wide = float(unknown.raw), float(norm.ppf((1 + level) / 2) * np.sqrt(self.covariance[i, i]))
        low, high = (unknown.number_of(raw + sign * wide) for sign in (-1, 1))
        return low, high

    @property
    def findings(self) -> tuple[Finding, ...]:
        """`unidentifiable`, with the combination of unknowns that nothing tells."""
        sizes, directions = np.linalg.eigh(self.covariance)
        deviation, direction = float(np.sqrt(sizes[-1])), directions[:, -1]
        if deviation <= LOOSE:
            return ()
        direction = direction * np.sign(direction[np.argmax(np.abs(direction) > 0.05)])
        named = zip(self.unknowns.items(), direction, strict=True)
        combination = " ".join(f"{share:+.2f} {_term(name, u)}" for (name, u), share in named if abs(share) > 0.05)
        return (
            Finding(
                "unidentifiable",
                f"{combination.lstrip('+')} is known only to within {deviation:.2g} (one standard deviation)",
                "Measure something else, elsewhere or more often; or fix one of these numbers.",
            ),
        )


def _term(name: str, unknown: Unknown) -> str:
    return f"{name}/{unknown.unit:g}" if unknown.scale is Scale.PLAIN else f"{unknown.scale.value} {name}"


def unknown_posterior(
    model: PyTree,
    objective: Objective,
    deviations: Mapping[str, float] | None = None,
    *,
    where: Where = trainable,
    seed: int = 0,
) -> UnknownPosterior:
    """Gauss-Newton (Laplace) posterior of a trained model's unknown numbers.

    The residuals of every term are taken for independent Gaussian errors: minus the log posterior is Σ r²/2s², with one
    deviation s a term, linearized at the trained place (MacKay, 1992; for equations with unknowns: Bates and Watts,
    1988). The weights of the network are integrated out.

    Args:
        model: trained, with at least one `Unknown`.
        objective: terms with residuals, as they were trained.
        deviations: by term, the standard deviation of one residual: for sensors their noise. A term left out has the
            root mean square of its residuals at the trained place: an equation is believed as far as it is met.
        where: what was trained, as the phase had it: readings that the model carries are no weights.
        seed: for the points of sources that draw them.
    Raises:
        UserError: no unknown in the model, a term without residuals, a deviation of an unknown term or not above 0.

    >>> import equinox as eqx
    >>> from thalweg.objective.residual import Residual
    >>> class Line(eqx.Module):
    ...     slope: Unknown
    >>> x = np.linspace(0.0, 1.0, 50)
    >>> data = Residual(lambda line, at: line.slope.value * at[0] - at[1], np.stack([x, 2 * x], axis=1))
    >>> found = unknown_posterior(Line(Unknown(2.0)), Objective(data=data), {"data": 0.1})
    >>> expected = 0.1 / np.sqrt(np.sum(x**2)) / 2  # least squares, in units of the start
    >>> bool(np.isclose(np.sqrt(found.covariance[0, 0]), expected, rtol=1e-6))
    True
    """
    known, deviations = _trained(model, where), dict(deviations or {})
    if not known:
        raise UserError("the model has no unknown number", remedy="Give it a `tw.Unknown` that the equation uses.")
    for name, deviation in deviations.items():
        if name not in objective.terms or not deviation > 0:
            raise UserError(f"a deviation of {deviation} for a term '{name}'", remedy="Above 0, of a term there is.")
    with jax.enable_x64(True):
        covariance = _covariance(
            jax.tree.map(_double, model), objective.astype(jnp.float64), deviations, where, jax.random.key(seed)
        )
    return UnknownPosterior(known, covariance)


LARGEST = 3_000
"""Weights beyond which no run is examined by itself for what its data can tell."""


def unidentifiable(model: PyTree, objective: Objective, where: Where) -> list[Finding]:
    """The findings of `unknown_posterior`, where it can be had at a cost that nobody notices; else none."""
    terms = objective.terms.values()
    weights = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, where(model))))
    plain = all(term.provides("residual") and not term.is_coupled(model) and not term.source.on_host for term in terms)
    finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))
    if not _trained(model, where) or not plain or weights > LARGEST or not finite:
        return []
    return list(unknown_posterior(model, objective, where=where).findings)


def _trained(model: PyTree, where: Where) -> dict[str, Unknown]:
    """The unknown numbers that are not held."""
    moved = unknowns_of(eqx.filter(model, where(model)))
    return {name: node for name, node in unknowns_of(model).items() if moved[name].raw is not None}


def _double(leaf: Any) -> Any:
    return jnp.asarray(leaf, jnp.float64) if eqx.is_inexact_array(leaf) else leaf


def _covariance(
    model: PyTree, objective: Objective, deviations: dict[str, float], where: Where, key: Any
) -> np.ndarray:
    parts = split(model, where)
    marks = jax.tree.map(
        lambda node: jax.tree.map(lambda _: isinstance(node, Unknown), node),
        parts.params,
        is_leaf=lambda node: isinstance(node, Unknown),
    )
    counted = jax.tree.map(lambda leaf, mark: jnp.full(leaf.shape, mark), parts.params, marks)
    is_unknown = np.asarray(ravel_pytree(counted)[0])
    static = eqx.combine(parts.model_state, parts.frozen, parts.static)
    rows = []
    for name, term in objective.terms.items():
        alone = eqx.tree_at(lambda o: o.terms, objective, {name: eqx.tree_at(lambda t: t.weight, term, 1.0)})
        state = alone.init(key)
        problem = alone.bind(static, alone.draw(state, jnp.int32(0)), state, None)
        residuals, jacobian = (np.asarray(one) for one in _rows(problem, parts.params))
        if not (np.isfinite(residuals).all() and np.isfinite(jacobian).all()):
            raise UserError("residuals or their derivatives are not finite at the model", where=f"term '{name}'")
        # Data that are met to rounding are not known to rounding: at best to a millionth of what the unknowns do there.
        least = FINEST * float(np.sqrt(np.mean(jacobian[:, is_unknown] ** 2)))
        deviation = deviations.get(name, max(float(np.sqrt(np.mean(residuals**2))), least) or 1.0)
        rows.append(jacobian / deviation)
    stacked = np.concatenate(rows)
    # In the factor R of the rows with the unknowns last, its last block has the information that is left of them.
    ridge = np.sqrt(RIDGE) * np.linalg.norm(stacked, axis=0).max() * np.eye(stacked.shape[1])[~is_unknown]
    stacked = np.concatenate([stacked, ridge])[:, np.argsort(is_unknown, kind="stable")]
    k = int(is_unknown.sum())
    factor = np.asarray(np.linalg.qr(stacked, mode="r"))
    _, sizes, directions = np.linalg.svd(factor[-k:, -k:])
    sizes = np.maximum(sizes, 1e-8)  # what nothing enters has no finite variance; a huge one says so
    return directions.T @ np.diag(sizes**-2.0) @ directions


@eqx.filter_jit
def _rows(problem: Any, params: PyTree) -> tuple[jax.Array, jax.Array]:
    """Residuals (m,) and Jacobian (m, n) of a problem of one term, without the share of one example in the mean."""
    residuals, jacobian, _ = problem.linearize(params)
    (name,) = problem.terms
    scale = jnp.sqrt(jnp.asarray(problem.batch[name].size, residuals.dtype))
    return residuals * scale, jacobian * scale
