"""The returns study: its data, that no forecast knows what comes after, its arithmetic, the whole at tiny settings."""

import json
from pathlib import Path

import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.studies import returns as study
from thalweg.study.run import Run
from thalweg.study.runner import run_study

SETTINGS = study.Settings(train=400, validation=100, test=150, seeds=2, steps=20, width=4)


def test_the_markets_are_the_published_ones() -> None:
    dates, prices = study.closes("S&P 500")
    others, _ = study.closes("NASDAQ")
    assert len(prices) == 5_031
    np.testing.assert_array_equal(dates, others)
    assert (np.diff(dates) > np.timedelta64(0)).all()
    assert (str(dates[0]), str(dates[-1])) == ("1999-01-04", "2018-12-31")
    at = lambda day: prices[dates == np.datetime64(day)].item()
    assert at("2007-10-09") == pytest.approx(1565.15, abs=5e-3)  # the published record close before the crisis
    assert at("2009-03-09") == pytest.approx(676.53, abs=5e-3)  # and its end


def test_the_features_of_a_day_are_older_than_its_target() -> None:
    prices = np.exp(np.random.default_rng(0).normal(0, 0.01, 200).cumsum())
    x, y, places = study.past_and_next(prices)
    assert x.shape == (len(y), 16)
    assert places[-1] == 198  # the last day has no next one
    np.testing.assert_array_equal(y, prices[places + 1] / prices[places] - 1)
    np.testing.assert_array_equal(x[:, 0], prices[places] / prices[places - 1] - 1)  # lag 0: up to the close itself


def unaware(forecaster, settings: study.Settings, days: tuple[int, ...], count: int = 1_100) -> None:
    """Whatever comes after a day, its forecast and all before are the same bits, and later ones are not."""
    prices = study.closes("S&P 500")[1][:count]
    found, places = study.walk(prices, settings, forecaster)
    rng = np.random.default_rng(0)
    for day in days:
        other = prices.copy()
        other[day + 1 :] *= np.exp(rng.normal(0, 0.1, count - day - 1).cumsum())
        moved = np.insert(prices, day + 1, 0.8 * prices[day])  # all that comes after comes a day later
        for changed in (other, moved):
            again, those = study.walk(changed, settings, forecaster)
            known = places <= day
            np.testing.assert_array_equal(those[: known.sum()], places[known])
            assert np.array_equal(again[..., : known.sum()], found[..., known])
            assert not np.array_equal(again[..., known.sum() : found.shape[-1]], found[..., known.sum() :])


def test_no_linear_forecast_knows_what_comes_after() -> None:
    first = study.walk(study.closes("S&P 500")[1][:1_100], SETTINGS, study.majority)[1][0]
    unaware(study.ridge, SETTINGS, (first, first + 70, first + 149, first + 300))


@pytest.mark.slow
def test_no_networks_forecast_knows_what_comes_after(tmp_path: Path) -> None:
    """Training, its end, the choice of λ and the scales: all of it on real networks."""
    settings = SETTINGS.model_copy(update={"test": 250})
    with Run.create(tmp_path / "run", {"seed": 0}, seed=0) as run:
        count = iter(range(100))
        fresh = lambda *given: study.networks(f"walk-{next(count)}-{given[0]}", [0, 1], settings, run, [])(*given)
        first = study.walk(study.closes("S&P 500")[1][:1_100], settings, study.majority)[1][0]
        unaware(fresh, settings, (first + 60,))


def test_signs_and_earnings_by_hand() -> None:
    forecasts, returns = np.array([[1.0, 2.0, -1.0, 0.0, -3.0]]), np.array([0.01, -0.02, -0.01, 0.03, 0.0])
    np.testing.assert_array_equal(study.right(forecasts, returns), [[1, 0, 1, 0.5, 0.5]])
    # in, held, turned twice over, out, sold short; 10 basis points each
    expected = [[0.01 - 0.001, -0.02, 0.01 - 0.002, -0.001, -0.001]]
    np.testing.assert_allclose(study.earned(forecasts, returns, 10.0), expected, rtol=1e-12)
    daily = np.random.default_rng(0).normal(1e-3, 1e-2, 1_000)
    found = study.sharpe(daily.mean(), (daily**2).mean())
    assert found == pytest.approx(np.sqrt(252) * daily.mean() / daily.std(), rel=1e-10)  # the definition


def test_resamples_hold_days_and_seeds_together() -> None:
    again = study.Resamples(50, 4, 5.0, 500, seed=0)
    values = np.random.default_rng(1).normal(size=(2, 4, 50))
    drawn = again.mean(values)
    assert drawn.shape == (2, 4, 500)
    # What is the same in two models stays the same in every resample: differences are paired.
    np.testing.assert_allclose(again.mean(values + 1) - drawn, 1.0, rtol=1e-12)
    np.testing.assert_allclose(again.seeds.sum(axis=0), 1.0, rtol=1e-12)
    one = again.over_seeds(drawn[:, :1])
    np.testing.assert_allclose(one, drawn[:, 0], rtol=1e-12)  # a model without seeds has days alone
    few = study.Resamples(20, 4, 2.0, 20_000, seed=0)
    results = np.array([1.0, 2.0, 4.0, 8.0])
    spread = few.over_seeds(np.tile(results[:, None], 20_000)).var()
    # the variance of a mean of four, without bias; 20,000 resamples, and a kurtosis of about 3: 4·√(2/20,000)
    assert spread == pytest.approx(results.var(ddof=1) / 4, rel=0.04)
    # Wider with seeds than with days alone, by the law of total variance; both have 500 resamples.
    apart = np.arange(4.0)[None, :, None] + values
    assert again.over_seeds(again.mean(apart)).std() > 3 * again.mean(apart)[0, 0].std()


def test_settings_that_leave_nothing_to_test_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="embargo"):
        run_study("returns", {"embargo": 0}, out=tmp_path / "run")
    with pytest.raises(UserError, match="too few to walk through"):
        run_study("returns", {"train": 4_000, "validation": 2_000}, out=tmp_path / "run")


def table(folder: Path, rows: list[str]) -> study.Settings:
    path = folder / "prices.csv"
    path.write_text("\n".join(["date,price", *rows]) + "\n")
    return study.Settings(table=str(path))


def test_prices_of_ones_own_are_read_in_the_order_of_their_dates(tmp_path: Path) -> None:
    dates, prices = study.own_closes(table(tmp_path, ["2020-01-03,3.5", "2020-01-01,1", "2020-01-02,2"]))
    np.testing.assert_array_equal(prices, [1, 2, 3.5])
    np.testing.assert_array_equal(dates, np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "datetime64[D]"))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["2020-01-01,1", "2020-01-02,0"], r"price is 0 .*prices.csv, line 3, column 'price'"),
        (["2020-01-01,1", "2020-01-02,"], r"price is nan .*line 3, column 'price'"),
        (["2020-01-01,1", "2020-01-02,two"], r"price is 'two' .*line 3, column 'price'"),
        (["2020-01-01,2020-01-01", "2020-01-02,2020-01-02"], r"price is .*2020.* .*line 2, column 'price'"),
        (["2020-01-01,1", "2020-01-02,2", "2020-01-01,3"], r"twice .*line 4, column 'date'"),
        (["2020-01-01,1", ",2"], "time column 'date' has no value"),
        (["soon,1", "later,2"], "time column 'date' holds 'soon'"),
    ],
)
def test_prices_of_ones_own_are_refused_where_they_are_wrong(tmp_path: Path, rows: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        study.own_closes(table(tmp_path, rows))


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    settings = table(tmp_path, ["2020-01-01,1", "2020-01-02,2"])
    with pytest.raises(UserError, match=r"no column 'Close'.*date, price"):
        study.own_closes(settings.model_copy(update={"price": "Close"}))
    with pytest.raises(UserError, match="no such file"):
        study.markets(settings.model_copy(update={"table": str(tmp_path / "none.csv")}))


@pytest.mark.slow
def test_the_study_at_tiny_settings(tmp_path: Path) -> None:
    tiny = {"seeds": 2, "train": 2_500, "test": 4_000, "steps": 20, "width": 4, "resamples": 300}
    done = run_study("returns", tiny, out=tmp_path / "run")
    assert len(done.claims) == 11
    assert json.loads((tmp_path / "run/claims.json").read_text())["systems"] == ["S11"]
    with np.load(tmp_path / "run/arrays/returns.npz") as arrays:
        y, found = arrays["returns"], arrays["always_up"]
        assert arrays["directional_loss"].shape == (2, 2, y.shape[1])
    gained = done.claims[5]  # against always up, whose share of right signs is that of the days that rose
    assert "always up" in gained.statement
    assert found.shape == (2, 1, y.shape[1])
    assert 53 < 100 * np.mean(y > 0) < 57  # both markets rose on 54 to 55 % of the days
    assert "undecided" in {claim.verdict.value for claim in done.claims}  # two seeds of 20 steps cannot tell it all
    assert (tmp_path / "run/report.html").stat().st_size > 20_000
