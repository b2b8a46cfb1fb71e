"""Parametrizing over a product of which a part is enough to run often."""

from itertools import combinations, product
from typing import Any

import pytest


def covering(ways: int = 2, **axes: list[Any]) -> pytest.MarkDecorator:
    """`parametrize` over the product of `axes`, from each test parameter to its values.

    So many combinations are fast that any `ways` values of as many axes meet in one of them
    (pairwise testing: Cohen et al., 1997); the others have the mark `slow`. One way: each value is
    in one of them.
    """
    assert len(axes) > ways - 1 > -1, f"{len(axes)} axes have no {ways} values that meet"
    rows = list(product(*(range(len(values)) for values in axes.values())))
    fast, missing = set[tuple[int, ...]](), set[Any]().union(*(_meeting(row, ways) for row in rows))
    while missing:
        row = max(rows, key=lambda row: len(_meeting(row, ways) & missing))
        fast.add(row)
        missing -= _meeting(row, ways)
    cases = []
    for row in rows:
        values = [axis[place] for axis, place in zip(axes.values(), row, strict=True)]
        marks = () if row in fast else pytest.mark.slow
        cases.append(pytest.param(*values, marks=marks, id="-".join(map(str, values))))
    return pytest.mark.parametrize(list(axes), cases)


def _meeting(row: tuple[int, ...], ways: int) -> set[Any]:
    """Which values of which axes meet in `row`, so many at a time."""
    return set(combinations(enumerate(row), ways))
