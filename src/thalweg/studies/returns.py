"""Tomorrow's return of two markets: does a loss that knows of signs get more of them right than squared errors do?

Daily closes of the S&P 500 and the NASDAQ, 1999 to 2018 (from Yahoo Finance; they come with arch), dividends left out.
Networks see the last ten returns, and mean and size of the last week, month and quarter. They walk through time:
trained on past years, stopped and their λ chosen by the months after, tested on what comes next, and so on; λ = 0 is
least squares. A forecast is acted on by its sign: all in, or all sold short, from close to close. Whoever expects the
directional loss to win is warned: it makes forecasts smaller, and the best one's sign stays (`losses.Directional`).
Prices of your own: `--set table=prices.csv --set date=date --set price=close`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import thalweg as tw

MARKETS = {"S&P 500": "sp500", "NASDAQ": "nasdaq"}
LAGS, WINDOWS = 10, (5, 21, 63)  # days: a week, a month, a quarter
WEIGHTS = (0.0, 0.1, 0.3, 1.0, 3.0)  # λ; the first is plain least squares, of the others one is chosen at each fold
RIDGE = np.logspace(-1, 4, 11)  # penalties, chosen by leaving one out of the training window
YEAR = 252  # days of trade
LOOK = 10  # steps between two looks at the validation days
LOSS, RIVAL = "directional loss", "squared error"

Forecaster = Callable[[int, tuple, tuple, np.ndarray], np.ndarray]
"""A fold's number, (x, y) of its training and validation days, x of the test days -> forecasts (seeds, days)."""


def closes(market: str) -> tuple[np.ndarray, np.ndarray]:
    """Dates and closes of a market, ascending, shape (days,)."""
    file = MARKETS[market]
    table = tw.data.read_table(tw.data.shipped_file("arch", f"arch/data/{file}/{file}.csv.gz"))
    month, day, year = np.array([date.split("/") for date in table["Date"]], int).T
    dates = np.array([f"{y}-{m:02}-{d:02}" for y, m, d in zip(year, month, day, strict=True)], "datetime64[D]")
    return dates, table["Adj Close"].to_numpy(float)


def own_closes(settings: "Settings") -> tuple[np.ndarray, np.ndarray]:
    """Dates and closes of the user's own table, ascending, shape (days,).

    Raises:
        tw.UserError: no such file or column, a date or price that is none; with file, row and column.
    """
    source, name = str(settings.table), settings.price
    frame = tw.data.read_table(source)
    dates = tw.data.time_values(frame, settings.date, source)
    if name not in frame:
        known = f"Its columns are {', '.join(map(str, frame.columns))}: --set price=NAME."
        raise tw.UserError(f"there is no column '{name}'", where=source, remedy=known)
    at = lambda i, column: f"{source}, {frame.index.name} {frame.index[i]}, column '{column}'"
    for i, price in enumerate(frame[name]):
        if not 0 < as_number(price) < np.inf:
            remedy = "A price is a number > 0. Mend the row, or leave it out."
            raise tw.UserError(f"the price is {price!r}", where=at(i, name), remedy=remedy)
    order = np.argsort(dates, kind="stable")
    if len(again := np.flatnonzero(dates[order][1:] == dates[order][:-1])):
        remedy = "A date has one price: leave one out."
        raise tw.UserError("the date is there twice", where=at(order[again[0] + 1], settings.date), remedy=remedy)
    return dates[order], frame[name].to_numpy(float)[order]


def as_number(cell: Any) -> float:
    """A cell of a table; NaN where it is none."""
    try:
        return float(cell)
    except (ValueError, TypeError):
        return np.nan


def markets(settings: "Settings") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Dates and closes of each market, by its name."""
    if settings.table is None:
        return {name: closes(name) for name in MARKETS}
    return {Path(settings.table).name: own_closes(settings)}


def past_and_next(prices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is known at the close of each day, the return from it to the next close, and the day's place.

    Args:
        prices: shape (n,).
    Returns:
        x (m, 16), y (m,), and the place of each day among the prices, shape (m,).
    """
    returns = prices[1:] / prices[:-1] - 1
    past = tw.data.past_features(returns[:-1], lags=LAGS, windows=WINDOWS)  # the last return has no next one
    return past.values, returns[past.rows + 1], past.rows + 1


def walk(prices: np.ndarray, settings: "Settings", forecaster: Forecaster) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts for all days that are tested, each made from what was known on it.

    Returns:
        forecasts (seeds, days), in standard deviations of the training window's returns, and the place of each day.
    """
    x, y, places = past_and_next(prices)
    lengths = {name: getattr(settings, name) for name in ("train", "validation", "test", "embargo")}
    found, tested = [], []
    for number, fold in enumerate(tw.data.walk_forward(len(y), **lengths)):
        scaler, size = tw.data.Standardizer.learned(x[fold.train]), y[fold.train].std()
        if size == 0:
            raise tw.UserError("prices that do not move", where=f"training window {number + 1}", remedy="Leave it out.")
        pair = lambda rows, f=scaler, size=size: (f(x[rows]).astype(np.float32), (y[rows] / size).astype(np.float32))
        found.append(forecaster(number, pair(fold.train), pair(fold.validation), pair(fold.test)[0]))
        tested.append(places[fold.test])
    return np.concatenate(found, axis=-1), np.concatenate(tested)


class Network(eqx.Module):
    """A network and the λ of the loss that it is trained with, which stays: so all λ share one program."""

    network: tw.nn.MLP
    weight: jax.Array

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """The forecast of one day, and λ."""
        return self.network(x, key=key), self.weight


def networks(name: str, seeds: list[int], settings: "Settings", run: tw.Run, seen: list) -> Forecaster:
    """Networks of all λ from the same weights, seed by seed.

    Returns:
        a forecaster whose answer has one axis more: (2, seeds, days), with the λ that was best in validation, and with
        0. `seen` is given the accuracies in validation (λ, seeds) and the mean size of all forecasts (λ, seeds).
    """
    cost = lambda output, y: tw.losses.directional(output[0], y, output[1])
    landscape = lambda pair: tw.Objective(returns=tw.Supervised(*pair, loss=cost))

    def network(size: int, seed: int) -> tw.nn.MLP:
        model = tw.nn.MLP(size, None, width=settings.width, depth=1, key=jax.random.key(seed))
        # Forecasts begin at 0: there is little to foretell, and no sign that was not learned.
        return eqx.tree_at(lambda m: m.layers[-1].weight, model, replace_fn=jnp.zeros_like)

    def forecast(number: int, train: tuple, validation: tuple, x: np.ndarray) -> np.ndarray:
        inputs = train[0].shape[1]
        fitted = tw.fit_many(
            [Network(network(inputs, seed), jnp.float32(weight)) for weight in WEIGHTS for seed in seeds],
            landscape(train),
            tw.Phase(tw.Adam(settings.rate), settings.steps, where=tw.frozen(lambda model: model.weight)),
            validation=landscape(validation), validate_every=LOOK, log_every=LOOK, seeds=seeds * len(WEIGHTS),
            run=run, name=f"{name}-{number}", callbacks=run.callbacks,
        )  # fmt: skip
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(eqx.filter(m, eqx.is_array) for m in fitted.models))
        answers = lambda x: np.asarray(_answers(stacked, fitted.models[0], x)).reshape(len(WEIGHTS), len(seeds), -1)
        accuracy = right(answers(validation[0]), validation[1]).mean(axis=-1)  # (λ, seeds)
        found = answers(x)
        seen.append((accuracy, np.abs(found).mean(axis=-1)))
        return found[[best_weight(accuracy), 0]]

    return forecast


def best_weight(accuracy: np.ndarray) -> int:
    """Which λ > 0 got most signs right in validation (λ, seeds), the smallest of equals; its place in WEIGHTS."""
    return 1 + int(np.argmax(accuracy[1:].mean(axis=1)))


@eqx.filter_jit
def _answers(stacked, like, x) -> jax.Array:
    static = eqx.filter(like, eqx.is_array, inverse=True)
    return jax.vmap(lambda arrays: jax.vmap(lambda one: eqx.combine(arrays, static)(one)[0])(x))(stacked)


def ridge(number: int, train: tuple, validation: tuple, x: np.ndarray) -> np.ndarray:
    """A linear model of the same features, its penalty chosen within the training window."""
    from sklearn.linear_model import RidgeCV

    return RidgeCV(RIDGE).fit(*train).predict(x)[None]


def majority(number: int, train: tuple, validation: tuple, x: np.ndarray) -> np.ndarray:
    """The sign that more days of the training window had."""
    return np.full((1, len(x)), 1.0 if np.sign(train[1]).sum() >= 0 else -1.0)


def right(forecasts: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """1 where the sign is right, 0 where it is wrong, ½ where either has none; shape of both, broadcast."""
    return (1 + np.sign(forecasts) * np.sign(returns)) / 2


def earned(forecasts: np.ndarray, returns: np.ndarray, cost: float) -> np.ndarray:
    """What a day brings to whoever follows the sign, less what changing sides costs: (…, days).

    Args:
        forecasts, returns: shapes (…, days) and (…, days).
        cost: of turning over the whole amount once, in basis points; from long to short it is turned over twice.
    """
    side = np.sign(forecasts)
    before = np.concatenate([np.zeros_like(side[..., :1]), side[..., :-1]], axis=-1)
    return side * returns - 1e-4 * cost * np.abs(side - before)


def sharpe(mean: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Annual Sharpe ratio from the mean of daily returns and of their squares, no interest taken off."""
    return np.sqrt(YEAR) * mean / np.sqrt(np.maximum(square - mean**2, 1e-30))


class Resamples:
    """Days and seeds drawn again: blocks of days that all markets and models share, and seeds on their own.

    Args:
        days, seeds: how many there are.
        block: mean length of a block.
        count, seed: of the resamples, and of their generator.
    """

    def __init__(self, days: int, seeds: int, block: float, count: int, seed: int):
        rng = np.random.default_rng(seed)
        drawn = tw.analysis.stationary_indices(days, block, count, rng)
        self.days = np.stack([np.bincount(one, minlength=days) for one in drawn]).T / days  # (days, count)
        # Few seeds drawn again vary by (seeds - 1)/seeds too little, so their weights are spread (Rao and Wu, 1988).
        shares = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count).T / seeds
        self.seeds = 1 / seeds + (shares - 1 / seeds) * np.sqrt(seeds / max(seeds - 1, 1))  # (seeds, count)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Over days; values (…, seeds or 1, days) to (…, seeds or 1, count), each on its resampled days."""
        return values @ self.days

    def over_seeds(self, values: np.ndarray) -> np.ndarray:
        """Values (…, seeds or 1, count) to (…, count)."""
        return np.sum(values * (self.seeds if values.shape[-2] > 1 else 1.0), axis=-2)


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(10, "networks at each fold, each with its own seed", quick=6, ge=2, le=100)
    train: int = tw.setting(1_000, "days of a training window, four years", ge=100, le=4_000)
    validation: int = tw.setting(250, "days after it that stop the training and choose λ", ge=20, le=2_000)
    test: int = tw.setting(500, "days of each test part after those", quick=1_250, ge=20, le=4_000)
    embargo: int = tw.setting(5, "days left out between two parts; a return is known a day later", ge=1, le=250)
    steps: int = tw.setting(120, "most steps of Adam, each on all days of the window", ge=10, le=100_000)
    width: int = tw.setting(16, "units in the hidden layer", ge=1, le=256)
    rate: float = tw.setting(3e-3, "learning rate of Adam", gt=0, le=1)
    cost: float = tw.setting(2.0, "of turning over what one holds", unit="basis points", ge=0, le=1_000)
    resamples: int = tw.setting(4_000, "of days and seeds, for the intervals", quick=2_000, ge=100, le=20_000)
    table: str | None = tw.setting(None, "a file with prices of your own, in place of the two markets")
    date: str = tw.setting("date", "its column of dates")
    price: str = tw.setting("price", "its column of prices")


@tw.study("returns", systems=["S11"], question="Does a directional loss get the sign of tomorrow's return right?")
def returns(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Walk through the markets, count right signs and what they earn, and say how sure that is."""
    seeds, data = run.seeds(settings.seeds), markets(settings)
    seen: dict[str, list] = {market: [] for market in data}
    made: dict[str, list] = {name: [] for name in (LOSS, RIVAL, "ridge", "always up", "majority", "random sign")}
    truth, dates = [], np.array([])
    for i, (market, (when, prices)) in enumerate(data.items()):
        forecaster = networks(f"market-{i + 1}", seeds, settings, run, seen[market])
        both, tested = walk(prices, settings, forecaster)  # (2, seeds, days), (days,)
        dates = when[tested]
        truth.append(prices[tested + 1] / prices[tested] - 1)
        coin = np.random.default_rng([run.seed, i]).choice([-1.0, 1.0], (len(seeds), len(tested)))
        linear, most = (walk(prices, settings, one)[0] for one in (ridge, majority))
        for name, found in zip(made, (*both, linear, np.ones((1, len(tested))), most, coin), strict=True):
            made[name].append(found)
    y = np.array(truth)[:, None]  # (markets, 1, days)
    forecasts = {name: np.array(found) for name, found in made.items()}  # (markets, seeds or 1, days)

    # Blocks as long as returns or their size remember, whichever is longer: storms come in clusters.
    block = max(tw.analysis.block_length(f(market)) for market in y[:, 0] for f in (np.asarray, np.abs))
    again = Resamples(y.shape[-1], len(seeds), block, settings.resamples, run.seed)
    hits = {name: 100 * right(found, y) for name, found in forecasts.items()}
    gains = {name: earned(found, y, settings.cost) for name, found in forecasts.items()}
    accuracy = {name: again.over_seeds(again.mean(found)) for name, found in hits.items()}  # (markets, resamples), %
    ratio = {name: again.over_seeds(sharpe(again.mean(g), again.mean(g**2))) for name, g in gains.items()}
    point = {name: found.mean(axis=(1, 2)) for name, found in hits.items()}  # (markets,)
    reward = {name: sharpe(g.mean(axis=-1), (g**2).mean(axis=-1)).mean(axis=1) for name, g in gains.items()}

    save(run, dates, forecasts, y, seen)
    draw(run, settings, dates, gains, point, accuracy, seen)
    over = f"{y.shape[-1]} days of {' and '.join(data)}, {len(seeds)} seeds"

    def gap(values: dict, drawn: dict, other: str, among: int = 1, markets=slice(None)) -> tuple[float, Any]:
        """The mean difference over markets and its interval, 95 % for as many comparisons as there are together."""
        tail = 2.5 / among
        low, high = np.percentile((drawn[LOSS] - drawn[other])[markets].mean(axis=0), [tail, 100 - tail])
        return float((values[LOSS] - values[other])[markets].mean()), (low, high)

    better = "The directional loss gets at least as many signs right as"
    value, interval = gap(point, accuracy, RIVAL)
    baselines = list(made)[2:]
    sizes = np.mean([size for market in seen.values() for _, size in market], axis=0)  # (λ, seeds)
    return [
        tw.Claim.at_least(f"{better} squared errors ({over})", value, interval, 0.0, unit="% points"),
        tw.Claim.near(f"It makes no difference of a whole % point either way ({over})", value, interval, 0.0,
                      tolerance=1.0, unit="% points"),
        *(tw.Claim.at_least(f"{better} squared errors, {market} alone (one of {len(data)})",
                            *gap(point, accuracy, RIVAL, len(data), slice(i, i + 1)), 0.0, unit="% points")
          for i, market in enumerate(data) if len(data) > 1),
        *(tw.Claim.at_least(f"{better} {name} (one of {len(baselines)})",
                            *gap(point, accuracy, name, len(baselines)), 0.0, unit="% points") for name in baselines),
        *(tw.Claim.at_least(f"After costs its Sharpe ratio is at least that of {name} (one of 2)",
                            *gap(reward, ratio, other, 2), 0.0, unit="a year")
          for name, other in (("squared errors", RIVAL), ("buying and holding", "always up"))),
        tw.Claim.median_at_most(f"With λ = {WEIGHTS[-1]:g} forecasts are at most half as large as with squared errors",
                                sizes[-1] / sizes[0], 0.5),
    ]  # fmt: skip


def save(run: tw.Run, dates: np.ndarray, forecasts: dict, y: np.ndarray, seen: dict) -> None:
    """What the figures and the claims were made of."""
    named: dict[str, Any] = {name.replace(" ", "_"): found.astype(np.float32) for name, found in forecasts.items()}
    validation = np.array([[accuracy for accuracy, _ in market] for market in seen.values()])
    np.savez(run.arrays / "returns.npz", dates=dates, returns=y[:, 0], validation=validation, weights=WEIGHTS, **named)


def draw(run: tw.Run, settings: Settings, dates, gains: dict, point: dict, accuracy: dict, seen: dict) -> None:
    """Accuracy by model, what was earned after costs, and λ against accuracy in validation."""
    names = list(point)
    ends = np.array([np.percentile(accuracy[name].mean(axis=0), [2.5, 97.5]) for name in names])

    def by_model(ax) -> None:
        middles = np.array([point[name].mean() for name in names])
        tw.figures.comparison.scores(ax, names, middles, *ends.T, metric="days with the right sign, %")
        ax.axvline(50, color=tw.figures.style.MUTED, linestyle=":", linewidth=0.8)

    caption = "Mean of all markets and seeds, with 95 % intervals over days and seeds. Dotted: a coin."
    run.save_figure("1-accuracy", by_model, title="Right signs by model", caption=caption)

    for i, market in enumerate(seen):

        def earnings(ax, i=i) -> None:
            tw.figures.style.dress(ax)
            shown = (LOSS, RIVAL, "ridge", "always up")
            for name, colour, dash in zip(shown, tw.figures.style.SERIES, tw.figures.style.DASHES, strict=False):
                course = 100 * np.cumsum(gains[name][i].mean(axis=0))
                ax.plot(dates, course, color=colour, linestyle=dash, linewidth=1.2, label=name)
            ax.set_ylabel("sum of daily returns, %")
            ax.set_xlabel("year")
            tw.figures.style.legend(ax)

        caption = f"After costs of {settings.cost:g} basis points a turnover; networks: the mean over seeds."
        run.save_figure(f"{i + 2}-market", earnings, title=f"Following the sign: {market}", caption=caption)

    def choosing(ax) -> None:
        tw.figures.style.dress(ax)
        for colour, (market, folds) in zip(tw.figures.style.SERIES, seen.items(), strict=False):
            each = 100 * np.array([found.mean(axis=1) for found, _ in folds])  # (folds, λ)
            ax.plot(range(len(WEIGHTS)), each.T, color=colour, linewidth=0.6, alpha=0.4)
            ax.plot(
                range(len(WEIGHTS)),
                each.mean(axis=0),
                "o-",
                color=colour,
                linewidth=2,
                label=tw.figures.style.plain(market),
            )
        ax.set_xticks(range(len(WEIGHTS)), [f"{weight:g}" for weight in WEIGHTS])
        ax.set_xlabel("λ (0: squared error)")
        ax.set_ylabel("right signs in validation, %")
        tw.figures.style.legend(ax)

    took = "; ".join(
        f"{market} {', '.join(f'{WEIGHTS[best_weight(found)]:g}' for found, _ in folds)}"
        for market, folds in seen.items()
    )
    caption = f"Mean over seeds: thin lines the folds of a walk, thick ones their mean. Chosen, fold by fold: {took}."
    run.save_figure("9-weight", choosing, title="The weight of a wrong sign", caption=caption)
