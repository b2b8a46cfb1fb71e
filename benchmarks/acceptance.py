"""How far drafts held, as columns of a bench's rows."""

from collections.abc import Mapping

from antiphon.benchmarks.report import Row


def acceptance(before: Mapping[str, int], after: Mapping[str, int]) -> Row:
    """Of the steps between two readings of an engine's counters; empty where nothing was drafted.

    `acceptance_%`: of the drafted tokens, those that held. `acceptance_length`: tokens that a
    sequence had of a step that verified drafts, with the one that it has without.
    """
    names = ("drafts", "draft_tokens", "accepted_draft_tokens")
    drafts, tokens, accepted = (after.get(name, 0) - before.get(name, 0) for name in names)
    if not tokens:
        return {}
    return {
        "draft_tokens": tokens,
        "acceptance_%": 100 * accepted / tokens,
        "acceptance_length": 1 + accepted / drafts,
    }
