"""A result with named fields becomes JSON once: in order, flat where asked, open ends as null."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from analysis.document import ABSENT, FLAT, Document, jsonable


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner(Document):
    """Fields that stand in their owner's document, one under a word of Python's."""

    from_: float
    curve: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer(Document):
    """One field of each kind."""

    name: str
    inner: Inner | None = field(metadata=FLAT)
    missing: float | None = None
    left_out: float | None = field(default=None, metadata=ABSENT)
    many: tuple[Inner, ...] = ()
    settings: dict[str, float] = field(default_factory=dict, metadata=FLAT)


INNER = Inner(from_=1.0, curve=np.array([1.0, np.inf]))


@pytest.mark.parametrize(
    ("found", "keys"),
    [
        (Outer(name="a", inner=None), ["name", "missing", "many"]),
        (Outer(name="a", inner=INNER), ["name", "from", "curve", "missing", "many"]),
        (Outer(name="a", inner=None, left_out=0.0), ["name", "missing", "left_out", "many"]),
        (Outer(name="a", inner=None, settings={"N": 2.0}), ["name", "missing", "many", "N"]),
    ],
)
def test_keys_stand_in_the_order_of_fields(found, keys):
    assert list(found.to_dict()) == keys


def test_documents_inside_of_data_are_plain_and_numbers_stay():
    found = Outer(name="a", inner=None, missing=float("nan"), many=(INNER,)).to_dict()
    assert np.isnan(found["missing"])
    assert found["many"] == ({"from": 1.0, "curve": [1.0, np.inf]},)


def test_strict_json_has_null_for_what_is_no_number():
    value = {1: [Outer(name="a", inner=INNER, missing=float("-inf"))], "b": np.float64(2.0)}
    wanted = {"name": "a", "from": 1.0, "curve": [1.0, None], "missing": None, "many": []}
    assert json.loads(json.dumps(jsonable(value), allow_nan=False)) == {"1": [wanted], "b": 2.0}
