"""The plans whose way from rank to rank is measured."""

from antiphon.benchmarks.plan_channel import plans


def test_a_step_that_only_decodes_and_one_with_a_new_clip() -> None:
    decodes, admits = plans(4).values()
    assert len(decodes.slots) == len(admits.slots) == 4
    assert not decodes.admissions
    assert len(admits.admissions) == len(admits.cross_writes) == 1
