"""An equation solved by networks over seeds, and held against a reference: what studies of equations have in common."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from thalweg.analysis import at_points
from thalweg.errors import UserError
from thalweg.figures import comparison, fields
from thalweg.objective import Objective
from thalweg.optim import Adam, SelfScaledBroyden
from thalweg.settings import Settings, setting
from thalweg.study.claim import Claim
from thalweg.study.run import Run
from thalweg.train import FitMany, Phase, fit_many
from thalweg.types import PyTree


class SolveSettings(Settings):
    """What can be set of a study that solves an equation; a study changes what it needs otherwise."""

    seeds: int = setting(6, "networks, each with its own weights and points", ge=1, le=100)
    points: int = setting(3_000, "points of the equation at a time", quick=1_000, ge=50, le=100_000)
    adam: int = setting(500, "steps of Adam", quick=300, ge=1)
    steps: int = setting(10_000, "steps of self-scaled Broyden after them", quick=500, ge=1)
    refresh: int = setting(500, "steps between two choices of points", quick=150, ge=1)
    width: int = setting(30, "units in each of the three hidden layers", quick=20, ge=1, le=200)

    def program(self) -> list[Phase]:
        """Adam, then self-scaled Broyden, the points drawn anew now and then."""
        return [Phase(Adam(5e-3), self.adam), Phase(SelfScaledBroyden(), self.steps, redraw=self.refresh)]


@dataclass(frozen=True)
class Reference:
    """The right solution on a grid, and what it costs a classical method.

    Attributes:
        first, second: the grid's two axes, rising, (m,) and (n,); points are (second, first), such as (x, t).
        values: (m, n).
        labels: names of the two axes.
        classical: a name for the classical method and a function from an error to the seconds that it takes to err no
            more; None where the reference is a closed form.
    """

    first: np.ndarray
    second: np.ndarray
    values: np.ndarray
    labels: tuple[str, str] = ("t", "x")
    classical: tuple[str, Callable[[float], float]] | None = None

    def __post_init__(self) -> None:
        if np.shape(self.values) != (len(self.first), len(self.second)):
            what = f"values of shape {np.shape(self.values)} on a grid of {len(self.first)} by {len(self.second)}"
            raise UserError(what, where="Reference")
        if not (np.isfinite(self.values).all() and np.any(self.values)):
            raise UserError("values that are not finite, or all 0, are no reference", where="Reference")
        if any((np.diff(axis) <= 0).any() for axis in (self.first, self.second)):
            raise UserError("an axis that does not rise", where="Reference")

    @property
    def points(self) -> np.ndarray:
        """The grid's points, (m·n, 2)."""
        pairs = np.broadcast_arrays(self.second[None], self.first[:, None])
        return np.stack(pairs, axis=-1).reshape(-1, 2)

    def error(self, model: Any) -> float:
        """Relative L2 error of a field."""
        right = np.ravel(self.values)
        found = at_points(model, self.points)
        if found.size != right.size:
            raise UserError(f"a field of shape {found.shape[1:]} beside a reference of numbers", where="Reference")
        return float(np.linalg.norm(found.ravel() - right) / np.linalg.norm(right))


def least_seconds(
    solution: Callable[[int], np.ndarray], sizes: Sequence[int], right: np.ndarray, error: float
) -> float:
    """Seconds of the first of these sizes at which a classical method errs no more; of the last if none does.

    Args:
        solution: a number of equidistant places -> the solution there, (size,).
        sizes: rising, each a divisor of the places of the right one.
        right: the right solution, (m,).
        error: relative L2.

    >>> sine = lambda size: np.sin(2 * np.pi * np.arange(size) / size)
    >>> least_seconds(sine, (4, 8), sine(16), 1e-9) < 1.0
    True
    """
    if not sizes or any(size < 1 or len(right) % size for size in sizes):
        raise UserError(f"sizes {list(sizes)} for {len(right)} places", where="least_seconds", remedy="Divisors of it.")
    took = 0.0
    for size in sizes:
        began = time.monotonic()
        found = solution(size)
        took = time.monotonic() - began
        here = right[:: len(right) // size]
        if np.linalg.norm(found - here) <= error * np.linalg.norm(here):
            break
    return took


def solve(
    run: Run,
    models: Sequence[PyTree],
    objective: Objective,
    program: Sequence[Phase],
    reference: Reference,
    *,
    at_most: float,
    limit: float = 600.0,
    validation: Objective | None = None,
) -> tuple[FitMany, list[Claim]]:
    """Train networks, one a seed, and claim what they reach against a reference.

    Args:
        run: of the study; figures and arrays go into it.
        models: one network a seed, of one structure: fields of one point.
        objective, program: as `fit_many` takes them.
        reference: the right solution.
        at_most: the relative L2 error that is claimed.
        limit: seconds that one network may take, compiling included.
        validation: whose lowest score says which weights are kept; without it the last ones are, which also follow the
            points that were drawn last.
    Returns:
        the fitted networks, and claims on error, time, points learned by heart, and the classical method.
    """
    seeds, began = run.seeds(len(models)), time.monotonic()
    fitted = fit_many(
        models, objective, program, seeds=seeds, precision=jnp.float64, run=run, callbacks=run.callbacks,
        validation=validation, raise_failures=False,
    )  # fmt: skip
    seconds = (time.monotonic() - began) / len(seeds)
    errors = [reference.error(model) for model in fitted.models]
    by_heart = sum("points-overfitted" in [f.name for f in verdict.findings] for verdict in fitted.verdicts)
    _draw(run, fitted, errors, reference)
    share = by_heart / len(seeds)
    claims = [
        Claim.median_at_most(f"The relative L2 error is at most {at_most:g}", errors, at_most),
        Claim.at_most(f"One network takes at most {limit:g} s", seconds, (seconds, seconds), limit, unit="s"),
        Claim.at_most("The share of networks that learned their points by heart is 0", share, (share, share), 0.0),
    ]
    if reference.classical is not None:
        name, take = reference.classical
        least = take(float(np.median(errors)))
        claims.append(
            Claim.at_most(
                f"It takes no longer than {name} that err no more", seconds, (seconds, seconds), least, unit="s"
            )
        )
    return fitted, claims


def _draw(run: Run, fitted: FitMany, errors: Sequence[float], reference: Reference) -> None:
    typical = fitted.models[int(np.argsort(errors)[(len(errors) - 1) // 2])]
    found = at_points(typical, reference.points).reshape(reference.values.shape)
    wrong = found - reference.values
    np.savez(
        run.arrays / "solution.npz",
        first=reference.first, second=reference.second, network=found, reference=reference.values, errors=errors,
    )  # fmt: skip
    who = f"the network of median error among {len(errors)}"
    largest, worst = float(np.abs(reference.values).max()), float(np.abs(wrong).max())
    shown = (
        ("1-solution", found, "u", largest, "The solution", f"By {who}."),
        ("2-error", wrong, "difference", worst, "Error", f"By {who}, minus the reference."),
    )
    for name, values, label, limit, title, caption in shown:

        def history(ax: Any, values: np.ndarray = values, label: str = label, limit: float = limit) -> None:
            fields.history(ax, reference.first, reference.second, values, label=label, limits=(-limit, limit))
            ax.set_xlabel(reference.labels[0])
            ax.set_ylabel(reference.labels[1])

        run.save_figure(name, history, title=title, caption=caption)

    def section(ax: Any, row: int) -> None:
        ax.plot(reference.second, reference.values[row], color="C1", linewidth=2.2, label="reference")
        ax.plot(reference.second, found[row], ":", color="C0", linewidth=2.2, label="network")
        ax.set_ylim(-1.05 * largest, 1.05 * largest)
        ax.set_xlabel(reference.labels[1])
        ax.set_ylabel("u")
        ax.legend(loc="upper right")

    rows = np.linspace(0, len(reference.first) - 1, 6).astype(int)
    frames = [
        (f"{reference.labels[0]} = {reference.first[row]:.2g}", lambda ax, row=row: section(ax, int(row)))
        for row in rows
    ]
    run.save_frames(
        "3-sections", frames, title=f"Along {reference.labels[1]}", caption=f"By {who}.", slider=reference.labels[0]
    )

    def each(ax: Any) -> None:
        logs = np.log10(errors)
        names = [f"seed {seed}" for seed in run.seeds(len(errors))]
        comparison.scores(ax, names, logs, logs, logs, metric="log10 of the relative L2 error", first=-1)

    run.save_figure("4-errors", each, title="Errors by seed", caption="Against the reference on the whole grid.")
