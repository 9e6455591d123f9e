"""Settings: presets, bounds and units, and what a file of them holds."""

import enum
from pathlib import Path

import pydantic
import pytest

from thalweg.errors import UserError
from thalweg.settings import Settings, parse_pairs, setting


class Edge(enum.Enum):
    FIXED = "fixed"
    FREE = "free"


class Plate(Settings):
    sensors: int = setting(12, "number of temperature sensors", quick=4, ge=1, lt=100)
    noise: float = setting(0.5, "standard deviation of a sensor", unit="K", ge=0)
    batch: int | None = setting(None, "points a step")
    edge: Edge = setting(Edge.FIXED, "condition at the edge")
    source: Path = pydantic.Field(Path("a.csv"), description="where it comes from")


def test_presets_and_what_is_set_over_them() -> None:
    assert Plate.checked({}, where="here").sensors == 12
    assert Plate.checked({}, where="here", quick=True).sensors == 4
    assert Plate.checked({"sensors": "7"}, where="here", quick=True).sensors == 7
    assert Plate.checked({}, where="here", quick=True).noise == 0.5


@pytest.mark.parametrize("value", ["1" + 30 * "0", str(2**31), str(-(2**31))])
def test_a_whole_number_that_32_bits_do_not_hold_is_refused_by_name(value: str) -> None:
    with pytest.raises(UserError, match=f"^batch={value}"):
        Plate.checked({"batch": value}, where="here")


def test_what_is_written_comes_back() -> None:
    plate = Plate.checked({"noise": "0.1", "edge": "free", "source": "b.csv"}, where="here")
    written = plate.to_config()
    assert written == {"sensors": 12, "noise": 0.1, "edge": "free", "source": "b.csv"}
    assert Plate.checked(written, where="here") == plate


def test_everything_to_know_of_a_setting() -> None:
    sensors, noise, batch, edge, _ = Plate.described()
    assert (sensors.kind, sensors.default, sensors.quick, sensors.bounds) == ("int", "12", "4", "≥ 1, < 100")
    assert (noise.kind, noise.unit, noise.quick) == ("float", "K", "0.5")
    assert (batch.kind, batch.default) == ("int", "automatic")
    assert (edge.kind, edge.default) == ("fixed | free", "fixed")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sensor": "3"}, "Did you mean 'sensors'?"),
        ({"colour": "red"}, "There are sensors, noise"),
        ({"sensors": "many"}, "sensors='many'"),
        ({"sensors": "0"}, "sensors: number of temperature sensors"),
        ({"noise": "-1"}, r"in K \(default 0.5\)"),
        ({"noise": "nan"}, "noise='nan'"),
        ({"edge": "loose"}, "'fixed' or 'free'"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Plate.checked(values, where="here")


def test_wrong_pairs_are_refused() -> None:
    assert parse_pairs(["a=1", "b = x=y"]) == {"a": "1", "b": "x=y"}
    with pytest.raises(UserError, match="key=value"):
        parse_pairs(["sensors"])
    with pytest.raises(UserError, match="twice"):
        parse_pairs(["a=1", "a=2"])


def test_a_study_without_settings() -> None:
    with pytest.raises(UserError, match="There is none to set"):
        Settings.checked({"sensors": "3"}, where="here")
