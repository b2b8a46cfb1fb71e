"""Whether an engine's workers fit what a cluster has free: decided before anything starts."""

from typing import Any

import pytest

from antiphon.actors.placement import Node, Placement, decide
from antiphon.config.errors import ConfigurationError
from antiphon.config.options import resolve

CPUS = [Node("10.0.0.1", 0, 0, 4)]


def placed(nodes: list[Node], **options: Any) -> Placement:
    return decide(resolve("model", options), nodes)


def node(free: float, gpus: float = 2, name: str = "10.0.0.1") -> Node:
    return Node(name, gpus, free, 16)


@pytest.mark.parametrize(
    ("nodes", "options", "expected"),
    [
        (CPUS, {}, Placement(False, 2, 0.0, 1.0)),
        (CPUS, {"placement": "colocated"}, Placement(True, 1, 0.0, 1.0)),
        (
            [Node("a", 0, 0, 1)],
            {},
            Placement(False, 2, 0.0, 0.0),
        ),  # too few CPUs keep nobody from starting
        ([node(2)], {}, Placement(False, 2, 1.0, 1.0)),
        ([node(1, 1)], {}, Placement(True, 1, 1.0, 1.0)),
        ([node(1)], {}, Placement(True, 1, 1.0, 1.0)),  # the other GPU is another engine's
        ([node(2)], {"device": "cpu"}, Placement(False, 2, 0.0, 1.0)),
        (
            [node(2)],
            {"encoder_replicas": 2},
            Placement(False, 3, 0.5, 1.0),
        ),  # never 0.66: that fits two workers alone
        ([node(1), node(2, name="b")], {"encoder_replicas": 2}, Placement(False, 3, 1.0, 1.0)),
        ([node(1, 1)], {"placement": "disaggregated"}, Placement(False, 2, 0.5, 1.0)),
        (
            [node(0.5, 1), node(1.5, 2, "b")],
            {},
            Placement(True, 1, 1.0, 1.0),
        ),  # shares of GPUs are left to their engines
    ],
)
def test_what_fits(nodes: list[Node], options: dict[str, Any], expected: Placement) -> None:
    assert placed(nodes, **options) == expected


@pytest.mark.parametrize("processes", range(1, 9))
@pytest.mark.parametrize("gpus", range(1, 5))
def test_shares_always_fit_the_gpus(processes: int, gpus: int) -> None:
    placement = placed(
        [node(gpus, gpus)],
        decoder_replicas=processes,
        encoder_replicas=processes,
        placement="colocated",
    )
    on_one_gpu = int(1 / placement.gpu_share + 1e-9)
    assert on_one_gpu * gpus >= processes


@pytest.mark.parametrize(
    ("nodes", "options", "message"),
    [
        (CPUS, {"device": "cuda"}, "this Ray cluster has no GPU"),
        (
            [node(0)],
            {},
            r"2 workers .* need a free GPU, and this Ray cluster has none: "
            r"10\.0\.0\.1 has 0 of 2 free",
        ),
        ([node(0.5, 1), node(0, 4, "b")], {}, r"10\.0\.0\.1 has 0\.5 of 1 free; b has 0 of 4 free"),
        (
            CPUS,
            {"placement": "colocated", "encoder_replicas": 2},
            "encoder_replicas=2 != decoder_replicas=1",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(
    nodes: list[Node], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        placed(nodes, **options)


@pytest.mark.parametrize(
    ("nodes", "options", "expected"),
    [
        ([node(4, 4)], {"tensor_parallel_size": 2}, Placement(False, 4, 1.0, 1.0)),
        (
            [node(2), node(2, name="b")],
            {"tensor_parallel_size": 2},
            Placement(False, 4, 1.0, 1.0),
        ),
        (CPUS, {"decoder_pipeline_parallel_size": 3}, Placement(False, 4, 0.0, 1.0)),
        # Two containers on one machine; and three groups that fit in one way alone.
        ([node(2), node(2)], {"tensor_parallel_size": 2}, Placement(False, 4, 1.0, 1.0)),
        (
            [node(4, 4), node(3, 3, "b")],
            {
                "decoder_tensor_parallel_size": 3,
                "encoder_tensor_parallel_size": 2,
                "encoder_replicas": 2,
            },
            Placement(False, 7, 1.0, 1.0),
        ),
        # GPUs for one half of a replica: each has an encoder beside it.
        ([node(2)], {"tensor_parallel_size": 2}, Placement(True, 2, 1.0, 1.0)),
        ([node(2)], {"decoder_tensor_parallel_size": 2}, Placement(True, 2, 1.0, 1.0)),
        ([node(2)], {"decoder_pipeline_parallel_size": 2}, Placement(True, 2, 1.0, 1.0)),
        ([node(3, 3)], {"decoder_tensor_parallel_size": 2}, Placement(False, 3, 1.0, 1.0)),
        (
            [node(4, 4)],
            {"decoder_tensor_parallel_size": 2, "encoder_replicas": 2, "decoder_replicas": 2},
            Placement(True, 4, 1.0, 1.0),
        ),
        (
            [node(2), node(1, name="b"), node(1, name="c")],
            {"tensor_parallel_size": 2},
            Placement(True, 2, 1.0, 1.0),
        ),
        (
            CPUS,
            {"decoder_tensor_parallel_size": 2, "placement": "colocated"},
            Placement(True, 2, 0.0, 1.0),
        ),
        # No CPU is asked for where Ray could not give one to each rank of a stage.
        (
            [Node("a", 0, 0, 1), Node("b", 0, 0, 1), Node("c", 0, 0, 1)],
            {"decoder_tensor_parallel_size": 2},
            Placement(False, 3, 0.0, 0.0),
        ),
        (
            [Node("a", 3, 3, 0), Node("b", 0, 0, 64)],
            {"decoder_tensor_parallel_size": 2},
            Placement(False, 3, 1.0, 0.0),
        ),
    ],
)
def test_each_rank_has_a_process(
    nodes: list[Node], options: dict[str, Any], expected: Placement
) -> None:
    assert placed(nodes, **options) == expected


@pytest.mark.parametrize(
    ("nodes", "options", "message"),
    [
        (
            [node(2), node(1, name="b")],
            {"decoder_tensor_parallel_size": 2, "decoder_pipeline_parallel_size": 2},
            r"1 encoder x tensor 1 x pipeline 1 \+ 1 decoder x tensor 2 x pipeline 2 = 5 ranks "
            r"\(colocated: 4\) need a free GPU each, and this Ray cluster has 3: "
            r"10\.0\.0\.1 has 2 of 2 free; b has 1 of 2 free",
        ),
        (
            [node(1), node(1, name="b"), node(1, name="c")],
            {"decoder_tensor_parallel_size": 2},
            "the 2 ranks that share a layer need free GPUs of one node",
        ),
        (
            CPUS,
            {"pipeline_parallel_size": 2, "placement": "colocated"},
            r"it has no stages there \(encoder_pipeline_parallel_size=2\): leave that out, "
            "and give decoder_pipeline_parallel_size for the decoder alone",
        ),
        (
            CPUS,
            {
                "decoder_tensor_parallel_size": 2,
                "encoder_tensor_parallel_size": 3,
                "placement": "colocated",
            },
            "encoder_tensor_parallel_size=3, and the decoder has 2 ranks: leave it out, or give as",
        ),
        (
            CPUS,
            {"encoder_tensor_parallel_size": 2, "placement": "colocated"},
            "encoder_tensor_parallel_size=2, and the decoder has 1 rank: ",
        ),
        (
            CPUS,
            {
                "tensor_parallel_size": 2,
                "encoder_tp_mode": "weights",
                "placement": "colocated",
            },
            "with encoder_tp_mode='weights' the sums of both halves could wait for each other",
        ),
        (
            [node(1)],
            {"tensor_parallel_size": 2, "placement": "colocated"},
            "1 decoder with an encoder beside it x tensor 2 x pipeline 1 = 2 ranks need a free GPU",
        ),
        (
            [node(2)],
            {"tensor_parallel_size": 2, "encoder_tp_mode": "weights"},
            r"tensor 2 x pipeline 1 \+ 1 decoder x tensor 2 x pipeline 1 = 4 ranks need a free GPU",
        ),
    ],
)
def test_layouts_that_do_not_fit_are_refused_with_their_equation(
    nodes: list[Node], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        placed(nodes, **options)
