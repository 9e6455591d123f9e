"""A study's file: found, read without being run, run, and refused with the user's own line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import thalweg as tw
from thalweg.errors import UserError
from thalweg.settings import Settings
from thalweg.study.catalogue import built_in, copy_study, entries, find_study, parse
from thalweg.study.definition import Study, study
from thalweg.study.files import StudyFailed, open_study, source_files

HEAD = "import thalweg as tw\n\nclass Settings(tw.Settings):\n    throws: int = tw.setting(8, 'throws', ge=1)\n\n"


def coin(name: str = "coin", function: str = "coin", body: str = "return []") -> str:
    head = f"@tw.study({name!r}, question='Is it fair?', systems=['S08'])\n"
    return f"{head}def {function}(settings: Settings, run: tw.Run) -> list[tw.Claim]:\n    {body}\n\n"


def write(folder: Path, text: str | bytes, name: str = "coin.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(path: Path | str, error: type[Exception] = UserError) -> str:
    with pytest.raises(error) as caught, open_study(path):
        pass
    return " ".join([str(caught.value), *getattr(caught.value, "__notes__", [])])


# ------------------------------------------------------------------------------------------------- thalweg's own
@pytest.mark.parametrize("name", built_in())
def test_every_study_of_thalwegs_own(name: str) -> None:
    """Its name is its file's, it says its question in plain text, and it is written with the public face alone."""
    path = built_in()[name]
    (entry,) = entries(parse(path))
    assert entry.name == name
    assert entry.question
    with open_study(name) as file:
        assert (file.study.name, file.study.question, file.study.systems) == (name, entry.question, entry.systems)
        assert file.asked == name
        assert file.sources == [path]
        for one in file.study.settings.described():
            assert one.description
    text = path.read_text()
    assert "from thalweg" not in text
    assert "import thalweg." not in text
    assert text.count("\n") <= 420  # a file to read from top to bottom, and to copy


def test_the_public_names_stay_what_they_are() -> None:
    """The face's `study` and the package `thalweg.study` share a name; the decorator must win in any order."""
    program = "import thalweg.study.runner, thalweg as tw; assert callable(tw.study), tw.study; assert tw.Run"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    assert callable(tw.study)


def test_listing_runs_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "raise SystemExit\n" + HEAD + coin())
    assert [(one.name, one.question, one.systems) for one in entries(parse(path))] == [
        ("coin", "Is it fair?", ("S08",))
    ]


# ------------------------------------------------------------------------------------------------------- finding
def test_finding_by_name_and_file(tmp_path: Path) -> None:
    assert find_study("digits") == (built_in()["digits"], "digits")
    path = write(tmp_path, HEAD + coin())
    assert find_study(path) == (path, None)
    assert find_study(f"{path}::coin") == (path, "coin")


def test_an_unknown_study_is_refused_with_the_nearest() -> None:
    assert "Did you mean 'digits'?" in refused("digit")
    assert "digits" in refused("quantum-gravity")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "nowhere.py")
    assert "no such file" in refused("nowhere.py")
    assert "folder" in refused(tmp_path)


def test_copying(tmp_path: Path) -> None:
    target = copy_study("digits", tmp_path / "my.py")
    assert target.read_bytes() == built_in()["digits"].read_bytes()
    target.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        copy_study("digits", target)
    assert target.read_text() == "mine"
    with pytest.raises(UserError, match="Did you mean 'digits'"):
        copy_study("digit", tmp_path / "other.py")
    with pytest.raises(UserError, match=r"Name it other\.py"):
        copy_study("digits", tmp_path / "other.txt")
    with pytest.raises(UserError, match="No such file"):
        copy_study("digits", tmp_path / "nowhere" / "other.py")
    with pytest.raises(UserError, match="thalweg's own"):
        copy_study(str(write(tmp_path, HEAD + coin())), tmp_path / "other.py")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["coin.py", "my.py"]


# ------------------------------------------------------------------------------------------------------- loading
def test_a_users_file(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + coin())
    before = set(sys.modules)
    with open_study(path) as file:
        assert isinstance(file.study, Study)
        assert file.asked == str(path)
        assert file.study.settings.checked({"throws": "3"}, where="here").throws == 3
        assert str(tmp_path) in sys.path
    assert str(tmp_path) not in sys.path
    assert "study_coin" not in sys.modules
    assert not {key for key in set(sys.modules) - before if key.startswith("study_")}


def test_helper_modules_go_with_the_study(tmp_path: Path) -> None:
    """Imported at the top, inside a function, from a package, through one another; but nothing else of the folder."""
    path = write(tmp_path, "import helper\n" + HEAD + coin(body="from parts.deep import VALUE; return [VALUE]"))
    write(tmp_path, "import other\nNAME = other.NAME", "helper.py")
    write(tmp_path, "NAME = 'first'", "other.py")
    write(tmp_path, "", "parts/__init__.py")
    write(tmp_path, "from .sub import VALUE", "parts/deep.py")
    write(tmp_path, "VALUE = 3", "parts/sub.py")
    write(tmp_path, "1/0", "unrelated.py")
    names = [one.relative_to(tmp_path).as_posix() for one in source_files(path)]
    assert names == ["coin.py", "helper.py", "parts/__init__.py", "parts/deep.py", "parts/sub.py", "other.py"]
    with open_study(path) as file:
        assert file.study.function(None, None) == [3]
    assert not {"helper", "other", "parts", "parts.deep"} & set(sys.modules)
    shutil.copytree(tmp_path, tmp_path / "second")
    write(tmp_path / "second", "VALUE = 4", "parts/sub.py")
    with open_study(tmp_path / "second" / "coin.py") as file:  # the first one's helpers are not in the way
        assert file.study.function(None, None) == [4]


def test_two_names_in_one_file(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + coin() + coin("dice", "dice"))
    assert f"{path}::coin" in refused(path)
    with open_study(f"{path}::dice") as file:
        assert file.study.name == "dice"
        assert file.asked == f"{path}::dice"
    assert "There are coin, dice" in refused(f"{path}::card")


def test_a_study_imported_from_elsewhere_is_not_this_files(tmp_path: Path) -> None:
    write(tmp_path, HEAD + coin("dice", "dice"), "dice.py")
    path = write(tmp_path, "from dice import dice\n" + HEAD + coin())
    with open_study(path) as file:
        assert file.study.name == "coin"


# ------------------------------------------------------------------------------------------------------ bad input
def test_a_syntax_error_shows_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "throws = = 3\n")
    said = refused(path)
    assert f"{path}, line 6: throws = = 3" in said
    assert "invalid syntax" in said


def test_a_syntax_error_in_a_helper_names_the_helper(tmp_path: Path) -> None:
    path = write(tmp_path, "import helper\n" + HEAD + coin())
    helper = write(tmp_path, "def f(:\n", "helper.py")
    assert f"{helper}, line 1" in refused(path)


@pytest.mark.parametrize("text", [b"\x00\x01\x02", b"\xff\xfe\x00", b"# coding: no-such\n"])
def test_what_is_no_python(tmp_path: Path, text: bytes) -> None:
    path = write(tmp_path, text)
    said = refused(path)
    assert "no Python" in said
    assert str(path) in said


def test_a_file_without_a_study_is_not_run(tmp_path: Path) -> None:
    path = write(tmp_path, f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    assert "holds no study, and was not run" in refused(path)
    assert not (tmp_path / "ran").exists()
    assert "no study" in refused(write(tmp_path, "", "empty.py"))


def test_two_studies_of_one_name(tmp_path: Path) -> None:
    assert "2 studies are named 'coin'" in refused(write(tmp_path, HEAD + coin() + coin("coin", "other")))
    # of the same function's name too, where the second hides the first
    assert "2 studies are named 'coin'" in refused(write(tmp_path, HEAD + coin() + coin(), "again.py"))
    # and where the name is no plain text in the file
    computed = (HEAD + coin() + coin("coin", "other")).replace("tw.study('coin'", "tw.study('co' + 'in'")
    assert "2 studies are named 'coin'" in refused(write(tmp_path, computed, "computed.py"))


def test_a_file_that_raises_shows_the_users_line(tmp_path: Path) -> None:
    path = write(tmp_path, "import helper\n" + HEAD + coin() + "\nhelper.divide(0)\n")
    helper = write(tmp_path, "import json\n\ndef divide(by):\n    return json.loads(str(1 / by))\n", "helper.py")
    said = refused(path, StudyFailed)
    assert "ZeroDivisionError: division by zero" in said
    assert f"{helper}, line 4, in divide: return json.loads(str(1 / by))" in said
    said = refused(write(tmp_path, "import no_such_module\n" + HEAD + coin(), "b.py"), StudyFailed)
    assert "No module named 'no_such_module'" in said
    assert "line 1: import no_such_module" in said
    assert "SystemExit" in refused(write(tmp_path, HEAD + coin() + "raise SystemExit(0)\n", "c.py"), StudyFailed)
    assert str(tmp_path) not in sys.path


def test_a_decorator_used_wrongly_shows_the_users_line(tmp_path: Path) -> None:
    said = refused(write(tmp_path, HEAD + coin("Heat Plate")))
    assert "'Heat Plate' cannot be the name" in said
    assert "line 6" in said


class Throws(Settings):
    throws: int = 8


def only_settings(settings: Throws) -> list:
    return []


def unsaid(settings, run) -> list:
    return []


def of_another_type(settings: int, run) -> list:
    return []


def in_a_text(settings: "Throws", run) -> list:
    return []


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (only_settings, "takes settings and a run"),
        (unsaid, "type of the study's settings"),
        (of_another_type, "type of the study's settings"),
        (Throws, "made of a function"),
    ],
)
def test_a_function_that_is_no_study(function, message: str) -> None:
    with pytest.raises(UserError, match=message):
        study("coin", question="Is it fair?")(function)


def test_the_decorator() -> None:
    made = study("coin", question="Is it fair?", systems=["S08"])(in_a_text)
    assert (made.name, made.systems, made.settings) == ("coin", ("S08",), Throws)
    with pytest.raises(UserError, match="no question"):
        study("coin", question=" ")
    for name in ("", "Coin", "a/b", "..", "a b", "-a"):
        with pytest.raises(UserError, match="cannot be the name"):
            study(name, question="Is it fair?")
