"""A profile encloses its estimate also where the floor is at zero and an exponent at its bound."""

import numpy as np
import pandas as pd
import pytest

from analysis.fit import LawRegressor
from analysis.laws import Additive
from analysis.profiles import profile

# The demo's twenty sighted runs (simulated robot data): policy size, episodes, domains, error.
RUNS = pd.DataFrame(
    [
        (373400, 40, 1, 0.0217), (373400, 40, 1, 0.0223), (373400, 80, 2, 0.0249),
        (373400, 80, 2, 0.0261), (1239384, 280, 7, 0.0274), (373400, 160, 4, 0.0280),
        (1239384, 280, 7, 0.0285), (373400, 160, 4, 0.0288), (373400, 280, 7, 0.0304),
        (373400, 140, 7, 0.0308), (373400, 140, 7, 0.0321), (373400, 70, 7, 0.0325),
        (373400, 280, 7, 0.0325), (373400, 70, 7, 0.0331), (373400, 35, 7, 0.0346),
        (137432, 280, 7, 0.0349), (59592, 280, 7, 0.0370), (137432, 280, 7, 0.0371),
        (373400, 35, 7, 0.0381), (59592, 280, 7, 0.0460),
    ],
    columns=["N", "episodes", "domains", "error"],
)  # fmt: skip


@pytest.mark.parametrize("name", ["E", "alpha_N", "alpha_domains"])
def test_a_profile_encloses_its_estimate(name: str) -> None:
    law = Additive(("N", "episodes", "domains"))
    reg = LawRegressor(law).fit(RUNS[["N", "episodes", "domains"]], RUNS["error"])
    found = profile(reg, name)
    low, high = found.interval
    assert low <= found.estimate <= high
    assert low < high
    assert float(np.min(found.cost)) == pytest.approx(reg.cost_, rel=1e-2)
