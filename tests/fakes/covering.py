"""Parametrizing over a product of which a part is enough to run often."""

from itertools import combinations, product
from typing import Any

import pytest


def covering(**axes: list[Any]) -> pytest.MarkDecorator:
    """`parametrize` over the product of `axes`, from each test parameter to its values.

    So many combinations are fast that any two values of two axes meet in one of them (pairwise
    testing: Cohen et al., 1997); the others have the mark `slow`.
    """
    assert len(axes) > 1, "one axis has no pairs"
    rows = list(product(*(range(len(values)) for values in axes.values())))
    fast, missing = set[tuple[int, ...]](), set[Any]().union(*map(_pairs, rows))
    while missing:
        row = max(rows, key=lambda row: len(_pairs(row) & missing))
        fast.add(row)
        missing -= _pairs(row)
    cases = []
    for row in rows:
        values = [axis[place] for axis, place in zip(axes.values(), row, strict=True)]
        marks = () if row in fast else pytest.mark.slow
        cases.append(pytest.param(*values, marks=marks, id="-".join(map(str, values))))
    return pytest.mark.parametrize(list(axes), cases)


def _pairs(row: tuple[int, ...]) -> set[Any]:
    """Which values of which two axes meet in `row`."""
    return set(combinations(enumerate(row), 2))
