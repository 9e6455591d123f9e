"""Lynx and hare: the law of Lotka and Volterra, alone and with a network beside it, asked for years that neither saw.

Pelts that the Hudson's Bay Company took in, 1900 to 1920, thousands (Hewitt, The Conservation of the Wild Life of
Canada, 1921; as tabulated by Howard, Modeling Basics, 2009, and Carpenter, Stan case studies, 2018). Pelts are not
animals, trapping changed with prices, and this is one series of one pair of cycles: what the last years say of the
two models they say once.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares

import thalweg as tw

YEARS = np.arange(1900, 1921)
HARE = [30.0, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22.0, 25.4, 27.1, 40.3, 57.0, 76.6, 52.3, 19.5, 11.2, 7.6,
        14.6, 16.2, 24.7]  # fmt: skip
LYNX = [4.0, 6.1, 9.8, 35.2, 59.4, 41.7, 19.0, 13.0, 8.3, 9.1, 7.4, 8.0, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8, 9.7,
        10.1, 8.6]  # fmt: skip
LOGS = np.log(np.stack([HARE, LYNX], axis=1))  # (21, 2): errors of pelts are relative
NOISE = 0.25  # standard deviation of a logarithm about Lotka and Volterra's curve, as Carpenter found it


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(10, "hybrid models, each with its own network", quick=6, ge=1, le=100)
    held: int = tw.setting(6, "last years that no model is fitted to", ge=2, le=10)
    steps: int = tw.setting(400, "steps of Levenberg-Marquardt at most", quick=150, ge=1)
    width: int = tw.setting(8, "units in the network's hidden layer", ge=1, le=1_024)
    prior: float = tw.setting(0.3, "standard deviation of each of the network's weights before the data", gt=0, le=10)


class LotkaVolterra(eqx.Module):
    """D(log hare)/dt = α − β·lynx, d(log lynx)/dt = δ·hare − γ; its four constants are held as logarithms."""

    logs: jax.Array  # (4,): of α, β, γ (1/year; β per thousand lynx), δ (1/year per thousand hare)

    def __call__(self, t, y, u):
        """Time, logarithms of hare and lynx (2,), no input, to their rates (2,)."""
        alpha, beta, gamma, delta = jnp.exp(self.logs)
        hare, lynx = jnp.exp(y)
        return jnp.stack([alpha - beta * lynx, delta * hare - gamma])


def plain_states(constants: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Lotka and Volterra by SciPy: logarithms of α, β, γ, δ and of the first hare and lynx to states (T, 2)."""
    alpha, beta, gamma, delta = np.exp(constants[:4])
    rates = lambda t, y: [alpha - beta * np.exp(y[1]), delta * np.exp(y[0]) - gamma]
    return solve_ivp(rates, (times[0], times[-1]), constants[4:], "LSODA", times, rtol=1e-8, atol=1e-8).y.T


def plain_fit(logs: np.ndarray, seed: int, starts: int = 8) -> np.ndarray:
    """The best of several least-squares fits of the plain law to logarithms (T, 2): six constants."""
    rng, times = np.random.default_rng(seed), np.arange(len(logs), dtype=float)

    def residuals(constants: np.ndarray) -> np.ndarray:
        found = plain_states(np.clip(constants, -12, 6), times)
        return (found - logs).ravel() if found.shape == logs.shape else np.full(logs.size, 10.0)

    guesses = [np.log([0.5, 0.03, 0.8, 0.03]) + rng.normal(0, 0.3, 4) for _ in range(starts)]
    fits = [least_squares(residuals, np.concatenate([guess, logs[0]])) for guess in guesses]
    return min(fits, key=lambda fit: fit.cost).x


@tw.study("lynx-hare", systems=["S36"], question="Does a network beside the predator-prey law foretell more than it?")
def lynx_hare(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Fit the plain law, then law and network together, to the first years; compare on the last ones."""
    known, times = len(YEARS) - settings.held, YEARS - 1900.0
    plain = plain_fit(LOGS[:known], run.seed)

    # One trajectory, measured once a year, its first state unknown. The cost is -2 log posterior: Gaussian errors of
    # the logarithms, and a Gaussian prior on the network's weights; the constants and the first state have none.
    x, y = tw.nn.stack_trajectories([times[:known]], [LOGS[:known]])
    seeds = run.seeds(settings.seeds)
    fitted = tw.fit_many(
        [hybrid(plain, settings.width, seed) for seed in seeds],
        tw.Objective(
            pelts=tw.Supervised(x, y, loss=tw.losses.MaskedSquaredError(NOISE)),
            prior=tw.Residual(
                lambda model, _: weights(model.field.correction.network) / settings.prior, np.zeros((1, 1))
            ),
        ),
        tw.Phase(tw.LevenbergMarquardt(), settings.steps),
        seeds=seeds,
        precision=jnp.float64,
        run=run,
        callbacks=run.callbacks,
    )
    with jax.enable_x64(True):
        whole = tw.nn.Trajectory(np.int32(0), times)
        states = np.stack([np.asarray(model(whole)) for model in fitted.models])  # (seeds, 21, 2)
        unreached = [seed for seed, model in zip(seeds, fitted.models, strict=True) if model.findings(whole)]

    error = lambda found, part: np.sqrt(np.mean((found[..., part, :] - LOGS[part]) ** 2, axis=(-2, -1)))
    law, seen, last = plain_states(plain, times), slice(0, known), slice(known, None)
    before = np.stack([LOGS[max(i - 10, 0)] for i in range(len(YEARS))])  # the cycle's own forecast: as ten years ago

    def draw(ax) -> None:
        for i, name in enumerate(("hare", "lynx")):
            ax.plot(YEARS, np.exp(LOGS[:, i]), "o", color=f"C{i}", markersize=4, label=name)
            ax.plot(YEARS, np.exp(law[:, i]), ":", color=f"C{i}", label=f"{name}, law alone")
            ax.plot(YEARS, np.exp(np.median(states[:, :, i], axis=0)), color=f"C{i}", label=f"{name}, with network")
            ax.fill_between(YEARS, *np.exp(np.quantile(states[:, :, i], [0, 1], axis=0)), color=f"C{i}", alpha=0.2)
        ax.axvline(YEARS[known] - 0.5, color=tw.figures.style.MUTED, linewidth=0.8)
        ax.set_xlabel("year")
        ax.set_ylabel("pelts, thousands")
        ax.set_yscale("log")
        ax.set_xticks(YEARS[::5])
        ax.set_yticks([4, 8, 16, 32, 64], ["4", "8", "16", "32", "64"])
        ax.minorticks_off()
        ax.legend(fontsize=8, ncols=2)

    caption = (
        f"Pelts, the plain law (dotted) and the law with a network (line: median, band: range of {len(seeds)} seeds). "
        f"Right of the vertical line lie the {settings.held} years that nothing was fitted to."
    )
    run.save_figure("course", draw, title="Two cycles of lynx and hare", caption=caption, size=(6.5, 4.4))

    fit_gain, fit_interval = tw.median_interval((error(states, seen) / error(law, seen)).tolist())
    gain, interval = tw.median_interval((error(states, last) / error(law, last)).tolist())
    cycle, cycle_interval = tw.median_interval((error(states, last) / error(before, last)).tolist())
    over = f"median over {len(seeds)} seeds (the interval knows of seeds only: there is one series)"
    stopped = float(len(unreached))
    solved = "No seed's field stops the solver or is stiff"
    return [
        tw.Claim.at_most(
            f"On the years fitted, the hybrid's error in log pelts is at most that of the plain law, {over}",
            fit_gain, fit_interval, 1.0, unit="times",
        ),
        tw.Claim.at_most(
            f"On the last {settings.held} years, unseen, the hybrid's error is at most that of the plain law, {over}",
            gain, interval, 1.0, unit="times",
        ),
        tw.Claim.at_most(
            f"On the last {settings.held} years, unseen, the hybrid's error is at most that of repeating what was ten "
            f"years before, {over}",
            cycle, cycle_interval, 1.0, unit="times",
        ),
        tw.Claim.at_most(solved, stopped, (stopped, stopped), 0.0, unit="seeds"),
    ]  # fmt: skip


def hybrid(plain: np.ndarray, width: int, seed: int) -> tw.nn.NeuralODE:
    """The law at the constants of the plain fit, plus a network of the centred logarithms, at first almost nothing."""
    centred = tw.nn.Standardize(LOGS[:10].mean(axis=0), LOGS[:10].std(axis=0))
    network = tw.nn.MLP(2, 2, width=width, depth=1, activation=jnp.tanh, key=jax.random.key(seed))
    last = lambda model: model.layers[-1].weight  # made small: training starts from the law as it is
    network = eqx.tree_at(last, network, 0.01 * last(network))
    correction = tw.nn.NeuralField(tw.nn.Sequential([centred, network]))
    law = LotkaVolterra(jnp.asarray(plain[:4], jnp.float32))
    start = tw.nn.InitialStates(jnp.asarray(plain[None, 4:], jnp.float32))
    return tw.nn.NeuralODE(tw.nn.HybridField(law, correction), initial=start, rtol=1e-6, atol=1e-6)


def weights(network: tw.nn.Sequential) -> jax.Array:
    """All weights and biases behind the constants that centre, shape (n,)."""
    return ravel_pytree(eqx.filter(network.layers[1], eqx.is_inexact_array))[0]
