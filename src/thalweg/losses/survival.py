"""Losses for times until an event, some of which are only known to be longer than the watch (right censoring).

A target is the pair (time, event): the time at which the event happened, where event is true, else the time at which
watching ended without it. Censoring must tell nothing about what would have come (Kalbfleisch and Prentice, 2002).
"""

import enum
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.losses.loss import AbstractLoss, check_shapes, on_host, refuse_rows, standardized, unpack
from thalweg.losses.special import HALF_LOG_TWO_PI, log_survival


class _AbstractSurvivalLoss(AbstractLoss):
    def check_targets(self, targets: Any) -> None:
        """Refuse targets that are no pair (time, event), times that are not > 0, and events other than 0 and 1."""
        times, events = _pair(self, targets)
        refuse_rows(self, times, "a finite time > 0", lambda values: ~(np.isfinite(values) & (values > 0)))
        refuse_rows(self, events, "0 or 1 for the event", lambda values: (values != 0) & (values != 1))


class WeibullSurvival(_AbstractSurvivalLoss):
    """-log of Weibull's density at an event, of his survival function at a censored time; summed over the components.

    The output of the model is the pair (log_scale, log_shape), both of the time's shape: natural logarithms of the
    time λ by which a share 1 - 1/e has had the event, in the units of time, and of k in S(t) = exp(-(t/λ)^k). k = 1 is
    the exponential distribution; k > 1 means ageing. A time that is not positive, or an event that is neither 0 nor 1,
    costs NaN; `check_targets` names it. The loss grows as (t/λ)^k, and is infinite where that is.

    Raises:
        UserError: at the call, output or target is no pair, or a shape differs from the time's.

    >>> weibull_survival((jnp.array(0.0), jnp.array(0.0)), (jnp.array(2.0), jnp.array(False)))  # (2/1)^1
    Array(2., dtype=float32)
    """

    def __call__(self, output: tuple[jax.Array, jax.Array], target: tuple[jax.Array, jax.Array]) -> jax.Array:
        """((log_scale, log_shape), (time, event)), all of one shape, to a scalar."""
        time, event = _pair(self, target)
        log_scale, log_shape = unpack(self, output, ("log_scale", "log_shape"), time)
        log_time, happened = _log_time(self, time, event, log_scale.dtype)
        log_hazard = standardized(log_time - log_scale, -log_shape)  # log of the cumulative hazard (t/λ)^k
        log_rate = jnp.where(happened, log_shape + log_hazard - log_time, 0)
        return jnp.sum(jnp.exp(log_hazard) - log_rate)


class LogNormalSurvival(_AbstractSurvivalLoss):
    """-log of the log-normal density at an event, of its survival at a censored time; summed over the components.

    The output of the model is the pair (log_median, log_scale), both of the time's shape: the mean of log time, and the
    natural logarithm of the standard deviation of log time (no units). A time that is not positive, or an event that is
    neither 0 nor 1, costs NaN; `check_targets` names it.

    Raises:
        UserError: at the call, output or target is no pair, or a shape differs from the time's.

    >>> log_normal_survival((jnp.array(0.0), jnp.array(0.0)), (jnp.array(1.0), jnp.array(False)))  # log 2
    Array(0.6931472, dtype=float32)
    """

    def __call__(self, output: tuple[jax.Array, jax.Array], target: tuple[jax.Array, jax.Array]) -> jax.Array:
        """((log_median, log_scale), (time, event)), all of one shape, to a scalar."""
        time, event = _pair(self, target)
        log_median, log_scale = unpack(self, output, ("log_median", "log_scale"), time)
        log_time, happened = _log_time(self, time, event, log_scale.dtype)
        z = standardized(log_time - log_median, log_scale)
        density = 0.5 * jnp.square(jnp.where(happened, z, 0)) + HALF_LOG_TWO_PI + log_scale + log_time
        return jnp.sum(jnp.where(happened, density, -log_survival(jnp.where(happened, 0, z))))


class Ties(enum.Enum):
    """What is done about events at the same time: Efron's (1977) average over their order, or Breslow's (1974)."""

    EFRON = "efron"
    BRESLOW = "breslow"


class CoxPartialLikelihood(eqx.Module):
    """-log of Cox's (1972) partial likelihood: who of those still at risk had the event, whatever the times between.

    A loss of a whole batch, for the risk sets couple its examples: no `AbstractLoss`, but what the `batch_loss` of a
    term can return (divided by the number of events, say). Its sum over small batches is not that over all rows: take
    batches that hold many events, or all rows. The log risk is determined up to a constant only.

    Args:
        ties: events at the same time; Efron's way is the more exact one, and equal to Breslow's without ties.
    Raises:
        UserError: at the call, the three arrays are not of one shape (n,).

    >>> cox_partial_likelihood(jnp.zeros(3), jnp.array([1.0, 2.0, 3.0]), jnp.array([True, False, True]))  # log 3 + 0
    Array(1.0986123, dtype=float32)
    """

    ties: Ties = eqx.field(static=True)

    def __init__(self, ties: Ties = Ties.EFRON):
        self.ties = ties

    def __call__(self, risk: jax.Array, time: jax.Array, event: jax.Array) -> jax.Array:
        """The negative log partial likelihood.

        Args:
            risk: log of each example's hazard relative to the others', the output of the model, shape (n,).
            time: of the event, or until which it did not happen, in any unit, shape (n,); who is censored at the time
                of an event was at risk then.
            event: whether it happened, booleans or 0 and 1, shape (n,).
        Returns:
            a sum over the events, shape ().
        """
        for other in (risk, time, event):
            if other.shape != time.shape or time.ndim != 1:
                shapes = f"{risk.shape}, {time.shape} and {event.shape}"
                raise UserError(
                    f"risk, time and event of the shapes {shapes}", where="CoxPartialLikelihood", remedy="All are (n,)."
                )
        is_ordered = jnp.all(time == time)  # no NaN
        order = jnp.argsort(time, descending=True)
        risk, time, happened = risk[order], time[order], (event.astype(risk.dtype) != 0)[order]
        n = len(time)
        # Those of one time are a group; the risk set of a group is itself and all groups before it.
        group = jnp.cumsum(jnp.concatenate([jnp.zeros(1, bool), time[1:] != time[:-1]]))
        last = jax.ops.segment_max(jnp.arange(n), group, n)
        log_at_risk = jax.lax.cumlogsumexp(risk)[last][group]
        cost = log_at_risk - risk
        if self.ties is Ties.EFRON:
            mine = happened.astype(risk.dtype)
            events = jax.ops.segment_sum(mine, group, n)[group]
            dying = jax.ops.segment_sum(jnp.where(happened, jnp.exp(risk - log_at_risk), 0), group, n)[group]
            before = jnp.cumsum(mine) - mine
            rank = before - jax.ops.segment_min(before, group, n)[group]
            cost += jnp.log1p(-jnp.where(happened, rank / jnp.maximum(events, 1) * dying, 0))
        return jnp.where(is_ordered, jnp.sum(jnp.where(happened, cost, 0)), jnp.nan)

    def check_targets(self, targets: Any) -> None:
        """Refuse targets (time, event) with a time that is not finite, an event other than 0 and 1, or no event.

        Raises:
            UserError: the first such row is named, counted from 0.
        """
        times, events = _pair(self, targets)
        refuse_rows(self, times, "a finite time", lambda values: ~np.isfinite(values))
        refuse_rows(self, events, "0 or 1 for the event", lambda values: (values != 0) & (values != 1))
        happened = on_host(events)
        if happened is not None and not happened.any():
            raise UserError("no event happened, so there is nothing to compare", where="CoxPartialLikelihood")


def _pair(loss: eqx.Module, target: Any) -> tuple[Any, Any]:
    if not (isinstance(target, tuple) and len(target) == 2):
        raise UserError(
            f"a target {type(target).__name__} in place of the pair (time, event)", where=type(loss).__name__
        )
    return target


def _log_time(loss: eqx.Module, time: jax.Array, event: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """The logarithm of the time, NaN where time or event cannot be, and whether the event happened."""
    check_shapes(loss, event, time)
    time, event = time.astype(dtype), event.astype(dtype)
    is_valid = (time > 0) & ((event == 0) | (event == 1))
    return jnp.log(jnp.where(is_valid, time, jnp.nan)), event == 1


weibull_survival = WeibullSurvival()
log_normal_survival = LogNormalSurvival()
cox_partial_likelihood = CoxPartialLikelihood()
