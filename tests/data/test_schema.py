"""Schemas: learned from training rows only, the stated rule of encoding, and every misfit refused by row and column."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from thalweg.data import (
    CategoricalColumn,
    ClassTarget,
    NumberTarget,
    NumericColumn,
    TableSchema,
    Task,
    drop_missing_target,
    group_values,
    infer_task,
    learn_schema,
    random_split,
    read_table,
    time_values,
)
from thalweg.errors import DamagedError, UserError

ALL = np.arange(8)


def houses(**columns) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "area": [50.0, 60.5, 70.0, np.nan, 90.0, 35.0, 55.0, 65.0],
            "rooms": [2, 3, 3, 4, 5, 1, 2, 3],
            "city": ["Rom", "Bern", None, "Bern", "Rom", "Bern", "Wien", "Rom"],
            "sold": [True, False, True, True, False, True, False, False],
            "price": [1.5, 2.25, 3.0, 4.125, 5.0, 0.75, 1.75, 2.5],
        }
    )
    return frame.assign(**columns)


def refused(call, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert caught.value.exit_status == 2
    for word in words:
        assert word in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- learning


def test_what_is_learned_is_learned_from_the_training_rows_only():
    frame = houses()
    schema = learn_schema(frame, "price", np.array([0, 1, 2, 4, 5]))
    assert schema.features == (
        NumericColumn("area", 60.5, 35.0, 90.0, False),  # row 3, which misses it, does not train
        NumericColumn("rooms", 3.0, 1.0, 5.0, False),
        CategoricalColumn("city", ("Bern", "Rom", "(missing)")),  # Wien is in row 6 only
        CategoricalColumn("sold", ("False", "True")),
    )
    assert schema.target == NumberTarget("price", 0.75, 5.0)
    assert schema.rows == 5
    changed = houses()
    changed.loc[[3, 6, 7], ["area", "rooms", "price"]] = [[1e6, 99, -1e6]] * 3
    changed.loc[[3, 6, 7], "city"] = "Oslo"
    assert learn_schema(changed, "price", np.array([0, 1, 2, 4, 5])).features == schema.features


def test_medians_and_one_hot_equal_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    bunch = load_diabetes()
    frame = pd.DataFrame(bunch.data, columns=bunch.feature_names)
    frame = frame.mask(rng.random(frame.shape) < 0.1).assign(
        ward=rng.choice(["north", "south", "east"], len(frame)), target=bunch.target
    )
    rows = random_split(len(frame), 0).train
    schema = learn_schema(frame, "target", rows)
    numbers = SimpleImputer(strategy="median", add_indicator=True).fit(frame[bunch.feature_names].iloc[rows])
    wards = OneHotEncoder(sparse_output=False).fit(frame[["ward"]].iloc[rows])
    numeric = numbers.transform(frame[bunch.feature_names])
    expected = np.concatenate([numeric, wards.transform(frame[["ward"]])], axis=1)
    table = schema.encode(frame)
    # scikit-learn puts the indicators after all values, here each follows its own; the same numbers otherwise
    order = [*(place + half for place in range(10) for half in (0, 10)), 20, 21, 22]
    np.testing.assert_array_equal(table.features, expected[:, order])
    assert table.feature_names[:2] == ("age", "age is missing")
    assert table.feature_names[-3:] == ("ward=east", "ward=north", "ward=south")


@pytest.mark.parametrize(
    ("load", "task", "count"),
    [
        (load_diabetes, Task.NUMBER, 0),
        (load_wine, Task.CLASSES, 3),
        (load_breast_cancer, Task.CLASSES, 2),
        (load_digits, Task.CLASSES, 10),
    ],
)
def test_real_tables_from_file_to_features(load, task, count, tmp_path):
    bunch = load()
    names = [str(name) for name in bunch.feature_names]
    pd.DataFrame(bunch.data, columns=names).assign(target=bunch.target).to_csv(tmp_path / "t.csv", index=False)
    frame = read_table(tmp_path / "t.csv")
    rows = random_split(len(frame), 0, stratify=frame["target"].to_numpy() if count else None).train
    schema = learn_schema(frame, "target", rows)
    kept = [name for name in names if np.ptp(bunch.data[rows, names.index(name)]) > 0]
    table = schema.encode(frame)
    assert schema.feature_names == tuple(kept) == table.feature_names
    np.testing.assert_array_equal(table.features, bunch.data[:, [names.index(name) for name in kept]])
    assert not table.outside[rows].any()
    assert isinstance(schema.target, ClassTarget) == (task is Task.CLASSES)
    if isinstance(schema.target, ClassTarget):
        assert schema.target.classes == tuple(map(str, range(count)))
    target = schema.encode_target(frame)
    assert target.dtype == (np.int64 if count else np.float64)
    np.testing.assert_array_equal(target, bunch.target)
    assert schema.notes[0] == infer_task(frame, "target").reason
    if load is load_digits:  # the pixels at the edge are always 0
        assert schema.dropped == tuple(name for name in names if name not in kept) != ()
        assert "constant" in schema.notes[1]
        assert "'pixel_0_0'" in schema.notes[1]


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([0, 1] * 5, Task.CLASSES),
        ([0.0, 1.0] * 5, Task.CLASSES),
        ([-1, 1] * 5, Task.CLASSES),
        ([True, False] * 5, Task.CLASSES),
        (["yes", "no"] * 5, Task.CLASSES),
        ([0.5, 1.5] * 5, Task.NUMBER),
        ([0, 1, 2] * 3, Task.NUMBER),  # 3 values in 9 rows
        ([0, 1, 2] * 20, Task.CLASSES),
        ([1, 2, 3] * 20, Task.CLASSES),
        ([3, 4, 5] * 20, Task.NUMBER),  # scores that do not count from 0 or 1
        ([0, 1, 3] * 20, Task.NUMBER),  # a gap
        (list(range(1, 21)) * 20, Task.CLASSES),
        (list(range(1, 22)) * 30, Task.NUMBER),
        ([1.5, 2.5, 3.5, 4.5], Task.NUMBER),
        ([str(number) for number in range(20)], Task.NUMBER),  # text of numbers is numbers
        ([f"c{number}" for number in range(20)], Task.CLASSES),
    ],
)
def test_number_or_classes(values, task):
    choice = infer_task(pd.DataFrame({"y": values}), "y")
    assert choice.task is task
    assert ("classes:" if task is Task.CLASSES else "a number:") in choice.reason


def test_the_user_may_choose_the_task():
    frame = pd.DataFrame({"x": np.arange(40) % 7, "y": [0, 1, 2, 3] * 10})
    assert infer_task(frame, "y", task=Task.NUMBER).reason.endswith("as asked")
    schema = learn_schema(frame, "y", np.arange(30), task=Task.CLASSES)
    assert schema.target == ClassTarget("y", ("0", "1", "2", "3"))
    assert isinstance(learn_schema(frame, "y", np.arange(30), task=Task.NUMBER).target, NumberTarget)
    unique = pd.DataFrame({"y": np.arange(40.0)})
    refused(lambda: infer_task(unique, "y", task=Task.CLASSES), "'y'", "40 different values in 40 rows")


def test_classes_that_are_rare_are_noted():
    frame = pd.DataFrame({"x": np.arange(10) % 4, "y": ["a", "b"] * 4 + ["c", "d"]})
    schema = learn_schema(frame, "y", np.arange(9))
    assert schema.target == ClassTarget("y", ("a", "b", "c", "d"))
    assert any("single row" in note and "'c', 'd'" in note for note in schema.notes)
    assert any("without a training row" in note and "'d'" in note for note in schema.notes)


def test_roles_and_choices_of_columns():
    frame = houses(day=pd.date_range("2024-01-01", periods=8), owner=list("aabbccdd"), note="x")
    schema = learn_schema(
        frame, "price", ALL, group="owner", time="day", ignore=["sold"], categorical=["rooms"], source="houses.csv"
    )
    assert [feature.name for feature in schema.features] == ["area", "rooms", "city"]
    assert schema.features[1] == CategoricalColumn("rooms", ("1", "2", "3", "4", "5"))
    assert (schema.group, schema.time, schema.ignored, schema.dropped) == ("owner", "day", ("sold",), ("note",))
    np.testing.assert_array_equal(group_values(frame, "owner", "houses.csv"), [0, 0, 1, 1, 2, 2, 3, 3])
    times = time_values(frame, "day", "houses.csv")
    np.testing.assert_array_equal(np.diff(times), np.full(7, np.timedelta64(1, "D")))


def test_rows_without_a_target_are_dropped_and_counted():
    frame = houses(price=[1.0, None, 3.0, None, 5.0, 0.5, 1.5, 2.5])
    kept, notes = drop_missing_target(frame, "price")
    assert kept.index.tolist() == [0, 2, 4, 5, 6, 7]
    assert notes == ("2 of 8 rows have no value of the target 'price' and are left out",)
    assert drop_missing_target(kept, "price") == (kept, ())


@pytest.mark.parametrize(
    ("columns", "choices", "words"),
    [
        ({"area": np.nan}, {}, ["'area' has no value in any row", "--ignore area"]),
        ({"area": [np.nan] * 6 + [1.0, 2.0]}, {"rows": np.arange(6)}, ["'area' has no value in the training rows"]),
        ({"area": [1, 2, np.inf, 4, 5, 6, -np.inf, 8]}, {}, ["'area'", "2 infinite values", "rows 2, 6"]),
        ({"area": [1, 2, 3, 4, 5, 6, np.inf, 8]}, {"rows": np.arange(6)}, ["'area'", "1 infinite value ", "row 6"]),
        ({"area": ["1.5", "2.5", "?", "3.5", "4.5", "5.5", "6", "7"]}, {}, ["'area'", "'?'", "row 2"]),
        ({"day": pd.date_range("2024-01-01", periods=8)}, {}, ["'day' holds dates", "--time day", "--ignore day"]),
        ({"day": [f"2024-01-0{day}" for day in range(1, 9)]}, {}, ["'day' holds dates"]),
        ({"span": pd.to_timedelta(np.arange(8), "D")}, {}, ["'span'", "neither numbers, text nor dates"]),
        ({"wave": np.arange(8) * 1j}, {}, ["'wave'", "neither numbers, text nor dates"]),
        ({"points": [[1], [2]] * 4}, {}, ["'points'"]),
        ({}, {"target": "prize"}, ["target column 'prize'", "Did you mean 'price'?"]),
        ({}, {"target": "PRICE"}, ["target column 'PRICE'", "Did you mean 'price'?"]),
        ({}, {"target": "z"}, ["target column 'z'", "'area', 'rooms'"]),
        ({}, {"ignore": ["citty"]}, ["ignored column 'citty'", "'city'"]),
        ({}, {"categorical": ["citty"]}, ["categorical column 'citty'", "'city'"]),
        ({}, {"group": "citty"}, ["group column 'citty'", "'city'"]),
        ({}, {"time": "citty"}, ["time column 'citty'", "'city'"]),
        ({}, {"group": "price"}, ["'price' cannot be both target and group"]),
        ({}, {"ignore": ["price"]}, ["'price' cannot be both target and ignored"]),
        ({}, {"categorical": ["city"], "time": "city"}, ["'city' cannot be both categorical and time"]),
        ({}, {"ignore": ["area", "rooms", "city", "sold"]}, ["no column is left"]),
        ({}, {"rows": np.array([3])}, ["1 training row"]),
        ({}, {"rows": ALL < 5}, ["positions"]),
        ({"price": 2.5}, {}, ["'price' is constant", "'2.5'"]),
        ({"price": [1.0] * 6 + [2.0, 3.5]}, {"rows": np.arange(6)}, ["'price' is constant in the training rows"]),
        ({"price": list("aaaaaabb")}, {"rows": np.arange(6)}, ["'price' is constant in the training rows"]),
        ({"price": [1.5, np.inf, 3, 4, 5, 6, 7, 8]}, {}, ["'price'", "infinite", "row 1"]),
        ({"price": [1.5, None, 3, 4, 5, 6, 7, 8]}, {}, ["'price' has no value in 1 of 8 rows", "row 1"]),
        ({"price": list("abababab")}, {"task": Task.NUMBER}, ["'price' must hold numbers", "'a'", "row 0"]),
        ({"price": ["1,5", "2", "3", "4", "5", "6", "7", "8"]}, {"task": Task.NUMBER}, ["'1,5'", "decimal point"]),
        ({"price": [1.5, 2.5, "cheap", 3, 4, 5, 6, 7]}, {}, ["'price' must hold numbers", "'cheap'", "row 2"]),
        ({"price": pd.date_range("2024-01-01", periods=8)}, {}, ["'price' holds dates"]),
    ],
)
def test_what_cannot_be_learned_from_is_refused(columns, choices, words):
    choices = {"target": "price", "rows": ALL, "source": "houses.csv"} | choices
    frame = houses(**columns)
    refused(lambda: learn_schema(frame, **choices), "houses.csv", *words)


def test_text_with_many_values_is_refused_unless_asked_for():
    names = [f"n{number}" for number in range(21)]
    frame = pd.DataFrame({"x": np.arange(21.0) ** 2, "name": names, "y": np.arange(21) / 8})
    rows = np.arange(21)
    remedies = ["--ignore name", "--group name", "--categorical name"]
    refused(lambda: learn_schema(frame, "y", rows), "'name'", "21 different values in 21 training rows", *remedies)
    refused(lambda: infer_task(frame, "name"), "'name'", "21 different values")
    assert len(learn_schema(frame, "y", rows, categorical=["name"]).feature_names) == 22
    assert len(learn_schema(frame.head(20), "y", rows[:20]).feature_names) == 21
    long = pd.concat([frame] * 20)  # 21 values are 5 % of 420 rows
    assert len(learn_schema(long, "y", np.arange(420)).feature_names) == 22
    many = pd.DataFrame({"name": [f"n{number % 101}" for number in range(5000)], "y": np.arange(5000) / 8})
    refused(lambda: learn_schema(many, "y", np.arange(5000)), "'name'", "101 different values")


def test_codes_with_a_few_letters_are_categories_and_numbers_with_a_question_mark_are_not():
    frame = pd.DataFrame({"dependents": ["0", "1", "2", "3+"] * 10, "age": [*map(str, range(39)), "?"], "y": 1.5})
    frame["y"] += np.arange(40)
    schema = learn_schema(frame, "y", np.arange(40), ignore=["age"])
    assert schema.features == (CategoricalColumn("dependents", ("0", "1", "2", "3+")),)
    refused(lambda: learn_schema(frame, "y", np.arange(40)), "'age'", "'?'", "row 39")


def test_too_few_rows():
    one = pd.DataFrame({"x": [1.0], "y": [2.0]})
    refused(lambda: infer_task(one, "y"), "1 row ", "At least 4")
    refused(lambda: infer_task(pd.DataFrame({"y": [1.0, 2.0, 3.0, None]}), "y"), "3 rows ", "At least 4")
    refused(lambda: drop_missing_target(pd.DataFrame({"y": [None, np.nan]}), "y"), "'y' has no values")


def test_messages_name_the_line_of_the_file(tmp_path):
    (tmp_path / "t.csv").write_text("x,y\n1,0.5\n\n2,1.5\ninf,2.5\n4,3.5\n5,4.5\n")
    frame = read_table(tmp_path / "t.csv")
    refused(lambda: learn_schema(frame, "y", np.arange(5), source="t.csv"), "column 'x'", "t.csv, line 5")
    refused(lambda: learn_schema(frame.iloc[1:], "x", np.arange(3), task=Task.NUMBER), "line 5")


def test_groups_and_times_that_cannot_be_used():
    frame = houses(when=["spring", *"abcdefg"], day=[1.0, None, *range(6)])
    refused(lambda: group_values(frame, "city", "t.csv"), "group column 'city' has no value in 1 of 8 rows", "row 2")
    refused(lambda: time_values(frame, "when", "t.csv"), "time column 'when' holds 'spring'", "ISO")
    refused(lambda: time_values(frame, "day", "t.csv"), "time column 'day' has no value", "row 1")
    refused(lambda: time_values(frame, "dey", "t.csv"), "time column 'dey'", "'day'")
    np.testing.assert_array_equal(time_values(frame, "price", "t.csv"), frame["price"])


# ---------------------------------------------------------------------------------------------------------- encoding


def test_the_stated_rule():
    schema = learn_schema(houses(), "price", ALL)
    new = pd.DataFrame(
        {
            "area": [70.0, np.nan, 34.9, 90.1, 35.0],
            "rooms": [3.0, 3.0, np.nan, 3.0, 5.0],
            "city": ["Wien", None, "Oslo", "Bern", "Rom"],
            "sold": [True, False, True, False, True],
        }
    )
    table = schema.encode(new)
    assert table.feature_names == (
        *("area", "area is missing", "rooms"),
        *("city=Bern", "city=Rom", "city=Wien", "city=(missing)", "sold=False", "sold=True"),
    )
    np.testing.assert_array_equal(
        table.features,
        [
            [70.0, 0, 3, 0, 0, 1, 0, 0, 1],
            [60.5, 1, 3, 0, 0, 0, 1, 1, 0],  # the median of 7 areas
            [34.9, 0, 3, 0, 0, 0, 0, 0, 1],  # rooms never missed one: filled; Oslo is nowhere
            [90.1, 0, 3, 1, 0, 0, 0, 1, 0],
            [35.0, 0, 5, 0, 1, 0, 0, 0, 1],
        ],
    )
    assert [table.outside_columns(row) for row in range(5)] == [(), (), ("area", "rooms", "city"), ("area",), ()]
    assert table.columns == ("area", "rooms", "city", "sold")
    assert table.notes == ()


def test_columns_may_change_place_and_unknown_ones_are_noted():
    frame = houses(owner=list("aabbccdd"), fixed=1)
    schema = learn_schema(frame, "price", ALL, group="owner")
    here = schema.encode(frame)
    there = schema.encode(frame[frame.columns[::-1]].assign(colour="red", size=3).drop(columns=["price", "fixed"]))
    np.testing.assert_array_equal(here.features, there.features)
    assert here.notes == ()
    assert there.notes == ("columns that training did not have are not used: 'colour', 'size'",)


def test_numbers_that_are_names_are_the_same_with_and_without_a_decimal_point():
    frame = pd.DataFrame({"zip": [8001, 8002, 8003, 8001], "y": [1.5, 2.5, 3.5, 4.5]})
    schema = learn_schema(frame, "y", np.arange(4), categorical=["zip"])
    for zips in ([8002, 8003], [8002.0, 8003.0], ["8002", "8003"]):
        np.testing.assert_array_equal(schema.encode(pd.DataFrame({"zip": zips})).features, [[0, 1, 0], [0, 0, 1]])


def test_numbers_that_are_new_codes_are_outside_and_not_refused():
    frame = pd.DataFrame({"zip": [8001, 8002, np.nan, 8001], "y": [1.5, 2.5, 3.5, 4.5]})
    schema = learn_schema(frame, "y", np.arange(4), categorical=["zip"])
    table = schema.encode(pd.DataFrame({"zip": [9000, 9001]}))
    np.testing.assert_array_equal(table.features, np.zeros((2, 3)))
    assert [table.outside_columns(row) for row in range(2)] == [("zip",), ("zip",)]
    dates = pd.DataFrame({"zip": pd.date_range("2024-01-01", periods=2)})
    refused(lambda: schema.encode(dates, "new.csv"), "'zip' must hold categories", "dates")


def test_an_empty_table_and_an_all_missing_column_can_be_encoded():
    schema = learn_schema(houses(), "price", ALL)
    assert schema.encode(houses().head(0)).features.shape == (0, 9)
    table = schema.encode(houses(city=None, area=np.nan))
    assert table.features[:, 6].tolist() == [1] * 8
    assert not table.outside.any()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"rooms": [2, 3, "many", 4, 5, 1, 2, 3]}, ["'rooms' must hold numbers but holds 'many'", "row 2"]),
        ({"rooms": ["2,5", "3", "4", "4", "5", "1", "2", "3"]}, ["'rooms'", "'2,5'", "decimal point"]),
        ({"rooms": [True, False] * 4}, ["'rooms' must hold numbers but holds 'True'", "row 0"]),
        ({"rooms": pd.date_range("2024-01-01", periods=8)}, ["'rooms' must hold numbers", "2024-01-01"]),
        ({"rooms": [1, 2, 3, np.inf, 5, 6, 7, 8]}, ["'rooms'", "infinite", "row 3"]),
        ({"city": [np.nan, 1, 2, 3, 4, 5, 6, 7]}, ["'city' must hold categories", "'Bern', 'Rom'", "row 1"]),
    ],
)
def test_columns_of_another_type_are_refused(columns, words):
    schema = learn_schema(houses(), "price", ALL)
    refused(lambda: schema.encode(houses(**columns), "new.csv"), "new.csv", *words)


def test_missing_and_repeated_columns_are_refused():
    schema = learn_schema(houses(), "price", ALL)
    less = houses().drop(columns="city").rename(columns={"area": "Area"})
    refused(lambda: schema.encode(less, "new.csv"), "columns 'area', 'city' are not in", "new.csv", "'Area'")
    twice = pd.concat([houses(), houses()[["city"]]], axis=1)
    refused(lambda: schema.encode(twice), "'city' appears more than once")
    refused(lambda: learn_schema(twice, "price", ALL), "'city' appears more than once")
    refused(lambda: learn_schema(pd.DataFrame(np.zeros((4, 2))), "0", ALL), "columns 1, 2 of 2 have no name")


def test_targets_that_do_not_fit_are_refused():
    numbers = learn_schema(houses(), "price", ALL)
    refused(lambda: numbers.encode_target(houses().rename(columns={"price": "prices"})), "'price'", "'prices'")
    refused(lambda: numbers.encode_target(houses(price=list("abcdefgh")), "new.csv"), "'price'", "'a'", "row 0")
    refused(lambda: numbers.encode_target(houses(price=[1, None] * 4)), "4 of 8 rows", "rows 1, 3, 5, 7")
    classes = learn_schema(houses(), "sold", ALL)
    np.testing.assert_array_equal(classes.encode_target(houses()), [1, 0, 1, 1, 0, 1, 0, 0])
    refused(lambda: classes.encode_target(houses(sold=["True", "maybe"] * 4)), "'maybe'", "row 1", "'False', 'True'")
    refused(lambda: classes.encode_target(houses(sold=["True", None] * 4)), "'sold' has no value in 4 of 8 rows")


# -------------------------------------------------------------------------------------------------------------- json


def test_a_schema_survives_json_and_encodes_the_same():
    frame = houses(area=houses()["area"] / 3, owner=list("aabbccdd"), fixed=1)
    for target in ("price", "sold"):
        schema = learn_schema(frame, target, ALL, group="owner", ignore=["rooms"])
        again = TableSchema.from_json(json.loads(json.dumps(schema.to_json())))
        assert again == schema
        np.testing.assert_array_equal(again.encode(frame).features, schema.encode(frame).features)


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("version",), 2, "version 2"),
        (("features", 0, "kind"), "embedding", "'embedding'"),
        (("target", "kind"), "numeric", "'numeric'"),
        (("target", "kind"), None, "None"),
        (("target",), [], "no dictionary"),
        (("features",), {}, "features"),
        (("features",), [], "features"),
        (("features", 0, "fill"), "60.5", "'fill'"),
        (("features", 0, "fill"), True, "'fill'"),
        (("features", 0, "low"), float("nan"), "'low'"),
        (("features", 0, "low"), 10**400, "'low'"),
        (("features", 0, "low"), 1e6, "range"),
        (("features", 0, "missing"), 1, "'missing'"),
        (("features", 0, "name"), 1, "'name'"),
        (("features", 0, "name"), "rooms", "twice"),
        (("features", 0, "name"), "price", "twice"),
        (("features", 0, "unit"), "m", "'unit'"),
        (("features", 2, "categories"), ["a", "a"], "repeated"),
        (("features", 2, "categories"), "ab", "'categories'"),
        (("features", 2, "categories"), ["a", 1], "'categories'"),
        (("rows",), 8.0, "'rows'"),
        (("group",), 3, "'group'"),
        (("more",), 3, "'more'"),
    ],
)
def test_damaged_schemas_are_refused(path, value, word):
    saved = learn_schema(houses(), "price", ALL).to_json()
    place = saved
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(DamagedError) as caught:
        TableSchema.from_json(saved, "model/schema.json")
    assert caught.value.exit_status == 2
    assert word in str(caught.value)
    assert "model/schema.json" in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "schema", {}, {"version": 1}])
def test_what_is_no_schema_is_refused(value):
    with pytest.raises(DamagedError):
        TableSchema.from_json(value)
