from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire_sync.failures import Failure, classify

# Read off Meta's pages on error handling, rate limiting and Messenger errors: what each means.
TABLE: list[tuple[Failure, list[tuple[int, int | None]], int]] = [
    (
        Failure.TRANSIENT,
        [(1, None), (1, 99), (1, 1357046), (2, None), (960, None), (1200, 2018024)],
        500,
    ),
    (Failure.TRANSIENT, [(2, None), (960, None)], 400),
    (Failure.APP_THROTTLED, [(4, None)], 403),
    (Failure.VERSION, [(2635, None)], 400),
    (Failure.THROTTLED, [(17, None), (32, None), (80001, None), (80006, None), (80002, None)], 400),
    (
        Failure.THROTTLED,
        [(80000, None), (80003, None), (80004, None), (80005, None), (80008, None), (80009, None)],
        400,
    ),
    (Failure.THROTTLED, [(80014, None)], 400),
    (
        Failure.THROTTLED,
        [(613, None), (613, 1996), (613, 2534040), (613, 2018338), (613, 1893016)],
        400,
    ),
    (
        Failure.SUSPENDED,
        [(341, None), (368, None), (9, 2018352), (10, 1893063), (2022, None), (100, 2534029)],
        400,
    ),
    (
        Failure.TOKEN,
        [
            (190, None),
            (190, 458),
            (190, 459),
            (190, 460),
            (190, 463),
            (190, 464),
            (190, 467),
            (190, 492),
            (190, 493),
            (102, None),
        ],
        400,
    ),
    (
        Failure.PERMISSION,
        [(3, None), (10, None), (200, None), (230, None), (299, None), (10, 2534077)],
        403,
    ),
    (Failure.PERMISSION, [(200, 2534041)], 400),
    (Failure.SECRET, [(104, None)], 400),
    (Failure.WINDOW, [(10, 2018278), (10, 2018065)], 400),
    (Failure.WINDOW, [(10, 2534022)], 403),
    (Failure.NOT_OWNER, [(2018300, None), (2018321, None), (100, 2534037), (10, 2018336)], 400),
    (Failure.RECIPIENT, [(551, None), (551, 1545041), (200, 1545041), (10, 2018108)], 400),
    (Failure.RECIPIENT, [(100, 2018001), (100, 2534014)], 400),
    (
        Failure.PARAMETER,
        [
            (100, None),
            (100, 33),
            (100, 2534013),
            (100, 2534015),
            (100, 2018047),
            (100, 2018109),
            (100, 2018034),
            (100, 2018074),
        ],
        400,
    ),
    (Failure.FETCH, [(100, 2018008), (100, 2018294)], 400),
    (Failure.PRIVATE_REPLY, [(100, 2534025), (10900, None)], 400),
    (Failure.TERMS, [(2, 2018344)], 400),
    (Failure.GONE, [(9000001, None), (803, None), (2500, None)], 400),
    (Failure.DUPLICATE, [(506, None)], 400),
]


def answered(code: int, subcode: int | None = None, **more: Any) -> dict[str, Any]:
    error = {"message": f"(#{code}) Something", "type": "OAuthException", "code": code} | more
    return {"error": error if subcode is None else error | {"error_subcode": subcode}}


@pytest.mark.parametrize(
    ("failure", "code", "subcode", "status"),
    [(failure, *codes, status) for failure, listed, status in TABLE for codes in listed],
)
def test_each_code_of_the_table_has_its_class(
    failure: Failure, code: int, subcode: int | None, status: int
) -> None:
    error = classify(status, answered(code, subcode))

    assert error.failure is failure
    assert (error.code, error.subcode, error.http_status) == (code, subcode or 0, status)


def test_too_much_data_is_told_from_other_unknown_errors() -> None:
    message = "Please reduce the amount of data you're asking for, then retry your request"

    error = classify(500, answered(1, message=message))

    assert error.failure is Failure.SHRINK


@pytest.mark.parametrize(
    "message",
    [
        "API calls from the server require an appsecret_proof argument",
        "Invalid appsecret_proof provided in the API argument",
    ],
)
def test_a_wrong_proof_is_no_wrong_parameter(message: str) -> None:
    error = classify(400, answered(100, message=message))

    assert error.failure is Failure.SECRET


def test_the_type_of_an_error_means_nothing() -> None:
    error = classify(403, answered(10, 2534022, type="IGApiException"))

    assert error.failure is Failure.WINDOW


def test_an_unknown_code_goes_by_is_transient_before_the_status() -> None:
    assert classify(400, answered(987654, is_transient=True)).failure is Failure.TRANSIENT
    assert classify(400, answered(987654, is_transient=False)).failure is Failure.PARAMETER
    assert classify(500, answered(987654)).failure is Failure.TRANSIENT


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (200, Failure.TRANSIENT),
        (302, Failure.TRANSIENT),
        (400, Failure.PARAMETER),
        (401, Failure.TOKEN),
        (404, Failure.PARAMETER),
        (408, Failure.TRANSIENT),
        (429, Failure.THROTTLED),
        (500, Failure.TRANSIENT),
        (503, Failure.TRANSIENT),
    ],
)
def test_an_answer_without_an_error_object_goes_by_its_status(
    status: int, failure: Failure
) -> None:
    error = classify(status, None)

    assert error.failure is failure
    assert error.reason == f"http_{status}"


def test_the_reason_is_the_code_with_its_subcode() -> None:
    assert classify(400, answered(551)).reason == "graph_551"
    assert classify(400, answered(10, 2018278)).reason == "graph_10_2018278"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    st.integers(100, 599),
    st.fixed_dictionaries(
        {"error": st.fixed_dictionaries({}, optional={"code": json_values, "message": json_values})}
    )
    | json_values,
)
def test_no_answer_makes_the_reading_fail_and_codes_fit_32_bits(status: int, body: Any) -> None:
    error = classify(status, body)

    assert 0 <= error.code < 2**31
    assert 0 <= error.subcode < 2**31
