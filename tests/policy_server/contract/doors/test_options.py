import pytest

from policy_server.contract.doors.options import call_with_options


def part(name: str, *, rate_hz: "float | None" = None, n: int = 1, dry: bool = False, port="a"):
    return name, rate_hz, n, dry, port


def test_options_are_converted_by_their_annotations():
    made = call_with_options(part, "arm", query="rate_hz=2.5&n=3&dry=1&port=COM1=x")
    assert made == ("arm", 2.5, 3, True, "COM1=x")
    assert call_with_options(part, "arm", query="") == ("arm", None, 1, False, "a")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("n", "expected option=value"),
        ("n=1&n=2", "each option once"),
        ("n=1.5", "n='1.5': expected int"),
        ("m=1", r"no option 'm'; the options are rate_hz \(float\), n \(int\), dry \(bool\)"),
        ("name=arm", "no option 'name'"),
    ],
)
def test_bad_options_are_refused(query, message):
    with pytest.raises(ValueError, match=message):
        call_with_options(part, "arm", query=query)


def test_a_type_that_text_cannot_give_is_refused():
    def factory(joints: list[str]):
        return joints

    with pytest.raises(ValueError, match=r"joints is a list\[str\]: expected one of float, int"):
        call_with_options(factory, query="joints=a")


def test_a_missing_option_is_refused():
    with pytest.raises(ValueError, match="missing a required argument: 'name'; the options are"):
        call_with_options(part, query="n=1")
