import hashlib
import json
from pathlib import Path

import pytest

from calibration import file
from calibration.file import Calibration, CalibrationError

SECTIONS = {"latency": {"delay_s": 0.03, "joints": {"pan": [1, 2.5, None, True, "x"]}}}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "new" / "calibration.json"
    file.save(path, "arm", SECTIONS, created="2026-11-23T13:00:00+00:00")
    return path


def test_what_was_saved_is_loaded(path):
    got = Calibration.load(path)
    assert (got.robot, got.sections, got.schema_version) == ("arm", SECTIONS, 1)
    assert [p.name for p in path.parent.iterdir()] == ["calibration.json"]


def test_the_hash_is_that_of_the_canonical_json(path):
    text = (
        '{"created":"2026-11-23T13:00:00+00:00","robot":"arm","schema_version":1,'
        '"sections":{"latency":{"delay_s":0.03,"joints":{"pan":[1,2.5,null,true,"x"]}}}}'
    )
    assert Calibration.load(path).sha256 == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.03", "0.04"),
        ('"arm"', '"leg"'),
        ("13:00", "14:00"),
        ('"delay_s"', '"delay"'),
        ("true", "false"),
    ],
)
def test_a_changed_file_is_refused(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(CalibrationError, match="was changed after it was written"):
        Calibration.load(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused_in_files(path, number):
    path.write_text(path.read_text().replace("0.03", number))
    with pytest.raises(CalibrationError, match="must be finite"):
        Calibration.load(path)


def test_numbers_that_are_not_finite_are_not_saved(path):
    before = path.read_text()
    said = r"sections\.latency\.x\[1\] is nan; every number must be finite"
    with pytest.raises(CalibrationError, match=said):
        file.save(path, "arm", {"latency": {"x": [1.0, float("nan")]}})
    assert path.read_text() == before
    assert len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema_version": 2}, "schema_version 2, this program reads 1"),
        ({"extra": 1}, r"has the fields .*'extra'"),
        ({"robot": 5}, "robot is 5, expected str"),
        ({"sections": {"latency": 3}}, "section 'latency' is 3"),
        ({"created": "2026-11-23T13:00:00"}, "expected a UTC time"),
        ({"created": "yesterday"}, "expected a UTC time"),
    ],
)
def test_another_schema_is_refused(path, change, reason):
    document = json.loads(path.read_text()) | change
    document["sha256"] = file.content_hash(document)
    path.write_text(json.dumps(document))
    with pytest.raises(CalibrationError, match=reason):
        Calibration.load(path)


def test_foreign_files_are_refused(tmp_path):
    with pytest.raises(CalibrationError, match="cannot read"):
        Calibration.load(tmp_path / "none.json")
    (tmp_path / "a").write_text("not json")
    with pytest.raises(CalibrationError, match="is not JSON"):
        Calibration.load(tmp_path / "a")
    (tmp_path / "b").write_text("[1]")
    with pytest.raises(CalibrationError, match="holds a list"):
        Calibration.load(tmp_path / "b")


def test_a_section_is_added_beside_the_others(path):
    old = Calibration.load(path)
    new_hash = file.update(path, "arm", "joints", {"pan": 1})
    new = Calibration.load(path)
    assert new.sections == SECTIONS | {"joints": {"pan": 1}}
    assert new.sha256 == new_hash != old.sha256
    with pytest.raises(CalibrationError, match="belongs to robot 'arm', not 'leg'"):
        file.update(path, "leg", "joints", {})
    with pytest.raises(CalibrationError, match=r"no section 'x' .* there are joints, latency"):
        new.section("x")


def test_an_interrupted_write_leaves_the_old_file(path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = path.read_text()
    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        file.save(path, "arm", {"latency": {"delay_s": 1.0}})
    assert path.read_text() == before
    assert len(list(path.parent.iterdir())) == 1
