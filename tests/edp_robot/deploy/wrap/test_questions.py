import math

import pytest
from support.foreign import known

from edp_robot.deploy.wrap.foreign_file import WrapError
from edp_robot.deploy.wrap.known_fields import Draft, Known
from edp_robot.deploy.wrap.questions import answered, ask_all, next_question

MAPS = ("none", "limits")


def talk(start, answers):
    """What is known at the end, the questions, and the complaints."""
    asked = []
    complaints = []
    lines = iter(answers)

    def ask(text):
        asked.append(text)
        return next(lines)

    return ask_all(start, MAPS, ask, complaints.append), asked, complaints


def test_nothing_is_asked_where_everything_is_known():
    assert next_question(known(), MAPS) is None


def test_defaults_alone_make_a_complete_policy():
    start = Known((Draft(size=3),), (Draft(size=2),), n_action_steps=1)
    done, asked, complaints = talk(start, [""] * 20)
    assert not done.missing()
    assert not complaints
    assert len(asked) == len(set(asked)) == 11
    assert (done.action_map, done.control_hz, done.sources["control_hz"]) == ("none", 50.0, "asked")
    (obs,) = done.obs
    (action,) = done.action
    assert (obs.name, obs.size, obs.unit) == ("obs", 3, "1")
    assert (obs.low, obs.high) == ((-math.inf,), (math.inf,))
    assert (action.low, action.high, action.max_rate) == ((-1.0,), (1.0,), (math.inf,))
    assert action.sources == ("asked",)


def test_a_joint_of_the_metadata_is_asked_in_rad_within_a_half_turn():
    joints = tuple(
        Draft(f"{name}.target", 1, sources=("metadata",)) for name in ("hip", "knee", "toe")
    )
    start = Known(known().obs, joints, 50.0, "none")
    done, asked, _ = talk(start, ["*", "-0.5, *", "-0.5 *", "0.5*", "3", "none *", ""])
    assert [d.unit for d in done.action] == ["rad"] * 3
    assert asked[0].endswith("hip.target: unit ('1' for none) [rad]: ") and "[-3.1416]" in asked[1]
    assert [d.low for d in done.action] == [(-0.5,)] * 3
    assert [d.max_rate for d in done.action] == [(3.0,), (math.inf,), (math.inf,)]
    assert {d.sources for d in done.action} == {("metadata", "asked")}


def test_an_answer_that_does_not_fit_is_explained_and_asked_again():
    start = Known((Draft(size=3),), known().action)
    answers = [
        "tanh",
        "limits",
        "-5",
        "20",
        "a:2",
        "a:2,b",
        "m",
        "1,2,3",
        "x",
        "0,-1",
        "none",
        "1",
        "0",
        "1",
    ]
    done, asked, complaints = talk(start, answers)
    assert (done.action_map, done.control_hz) == ("limits", 20.0)
    a, b = done.obs
    assert (a.name, a.low) == ("a", (0.0, -1.0))
    assert (b.name, b.high) == ("b", (1.0,))
    expected = [
        "'tanh': expected one of",
        "'-5': expected",
        "2 entries, the graph 3",
        "3 numbers for a",
        "'x': expected",
    ]
    assert all(part in said for part, said in zip(expected, complaints, strict=True))
    assert len(asked) == len(answers)


def test_known_values_are_not_overwritten_by_an_answer_for_all():
    start = Known((Draft("a", 1), Draft("b", 1, "m")), known().action, 50.0, "none")
    question = next_question(start, MAPS)
    assert question is not None
    assert [d.unit for d in answered(start, question, "rad *").obs] == ["rad", "m"]
    with pytest.raises(WrapError, match="expected NAME:SIZE"):
        blank = Known((Draft(size=3),), known().action, 50.0, "none")
        answered(blank, next_question(blank, MAPS), ":3")
