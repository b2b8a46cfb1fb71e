"""What each rank holds of a checkpoint: its share, and nothing else is read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from thread_group import ThreadGroup, run_ranks
from tiny_decoders import make_decoder

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import resolve
from antiphon.config.parallel import Parallel
from antiphon.decoder.models import build
from antiphon.families.checkpoint import ModelConfig
from antiphon.layers.checkpoint import Checkpoint
from antiphon.layers.embeddings import OutputHead
from antiphon.layers.random_weights import fill_randomly
from antiphon.layers.shard import Part, Shard, Span, check_parallel
from antiphon.layers.weights import check_unused, load_part
from antiphon.runtime.groups import Group


class Loaded:
    """`part` of the decoder in a folder."""

    def __init__(self, folder: Path, part: Part) -> None:
        config = ModelConfig.load(resolve(str(folder), {"device": "cpu"}).model)
        self.half, self.checkpoint = config.decoder, Checkpoint(folder)
        tied = config.raw.get("tie_word_embeddings", True)
        head = self.half.head_tensors(self.checkpoint, tied)
        self.model = build(self.half, head, part)
        names = self.half.checkpoint_names
        load_part(self.model, self.checkpoint, names, part, lambda: build(self.half, head))
        check_unused(self.checkpoint, "decoder", config.family)


def num_layers(folder: Path) -> int:
    return ModelConfig.load(resolve(str(folder), {"device": "cpu"}).model).decoder.num_layers


def parts_of(folder: Path, group: Group, stages: int) -> list[Part]:
    layers = num_layers(folder)
    spans = [Span.share(layers, stage, stages) for stage in range(stages)]
    return [Part(range(span.first, span.end), layers, Shard(group)) for span in spans]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    make_decoder("llama", folder)
    return folder


@pytest.mark.parametrize("name", ["bart", "bart_untied", "t5_gated_untied", "whisper", "llama"])
def test_ranks_together_read_each_matrix_once(
    name: str, checkpoints: Any, llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = llama if name == "llama" else checkpoints(name)[0]
    whole = Loaded(folder, Part.whole(num_layers(folder)))
    groups = ThreadGroup.make(2)
    loaded = [Loaded(folder, part) for group in groups for part in parts_of(folder, group, 2)]
    read = sum(each.checkpoint.bytes_read for each in loaded)
    largest = max(each.checkpoint.bytes_read for each in loaded)
    # Norms, positions and, where they are tied, the words of both ends are read more than once.
    assert whole.checkpoint.bytes_read * 0.99 <= read <= whole.checkpoint.bytes_read * 1.6
    assert largest < whole.checkpoint.bytes_read * 0.62
    assert "not used" not in caplog.text


def test_a_share_is_the_slice_of_the_whole(checkpoints: Any) -> None:
    folder, _ = checkpoints("bart")
    whole = Loaded(folder, Part.whole(num_layers(folder))).model
    for group in ThreadGroup.make(2):
        heads = Shard(group).heads(3, 3, 16).query_features
        (part,) = parts_of(folder, group, 1)
        own, all_ = Loaded(folder, part).model.layers[1], whole.layers[1]
        torch.testing.assert_close(
            own.self_attn.out_proj.weight, all_.self_attn.out_proj.weight[:, heads.slice]
        )
        keys, _ = all_.self_attn.qkv.tensors_of("k_proj")
        torch.testing.assert_close(own.self_attn.qkv.tensors_of("k_proj")[0], keys[heads.slice])
        bias = all_.fc2.bias if group.rank == 0 else torch.zeros(48)
        torch.testing.assert_close(own.fc2.bias, bias)


def test_a_later_stage_has_neither_embedding_nor_the_first_layers(checkpoints: Any) -> None:
    folder, _ = checkpoints("bart")
    group = ThreadGroup.make(1)[0]
    first, last = (Loaded(folder, part).model for part in parts_of(folder, group, 2))
    assert (len(first.layers), len(last.layers)) == (2, 1)
    assert first.lm_head is None
    assert last.embedding is None
    whole = Loaded(folder, Part.whole(3)).model
    torch.testing.assert_close(last.lm_head.weight, whole.embedding.embed_tokens.weight)
    torch.testing.assert_close(last.layers[0].fc1.weight, whole.layers[2].fc1.weight)
    norm = last.before["final_layer_norm"]  # bounds what float8 keys are made of
    torch.testing.assert_close(norm.weight, whole.layers[1].final_layer_norm.weight)


def test_a_layer_more_than_configured_is_still_refused(checkpoints: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from antiphon.config.errors import CheckpointError

    folder, _ = checkpoints("bart")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    extra = "model.decoder.layers.3.fc1.bias"
    save_file({**tensors, extra: torch.zeros(72)}, tmp_path / "model.safetensors")
    group = ThreadGroup.make(1)[0]
    for part in parts_of(tmp_path, group, 2):
        with pytest.raises(CheckpointError, match="a layer more than config"):
            Loaded(tmp_path, part)


def test_ranks_agree_on_random_weights_that_all_of_them_hold(checkpoints: Any) -> None:
    half = ModelConfig.load(resolve(str(checkpoints("bart")[0]), {}).model).decoder
    from antiphon.families.halves import HeadTensors

    models = []
    for group in ThreadGroup.make(2):
        model = build(half, HeadTensors(True, False), Part(range(3), 3, Shard(group)))
        fill_randomly(model)
        models.append(model)
    first, second = (model.embedding.embed_positions.weight for model in models)
    assert first.std() > 0
    assert first.equal(second)


def test_embedded_words_are_the_same_on_every_rank(checkpoints: Any) -> None:
    folder, _ = checkpoints("bart")
    ids, positions = torch.arange(99), torch.arange(99)
    wanted = Loaded(folder, Part.whole(3)).model.embed(ids, positions)

    def embed(group: ThreadGroup) -> torch.Tensor:
        (part,) = parts_of(folder, group, 1)
        return Loaded(folder, part).model.embed(ids, positions)

    for embedded in run_ranks(3, embed):
        torch.testing.assert_close(embedded, wanted)


@pytest.mark.parametrize(
    ("parallel", "message"),
    [
        (Parallel(4), "decoder_tensor_parallel_size=4: the decoder has 3 heads .*: at most 3"),
        (Parallel(1, 4), "decoder_pipeline_parallel_size=4: the decoder has 3 layers"),
        (
            Parallel(1, 2, layers=(2, 2)),
            r"decoder_pipeline_layers: 2 \+ 2 = 4 layers, and the decoder has 3",
        ),
    ],
)
def test_more_ranks_than_there_is_to_share_are_refused(
    parallel: Parallel, message: str, checkpoints: Any
) -> None:
    half = ModelConfig.load(resolve(str(checkpoints("bart")[0]), {}).model).decoder
    with pytest.raises(ConfigurationError, match=message):
        check_parallel(half, parallel)
    check_parallel(half, Parallel(3, 3))


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 9])
def test_logits_of_few_rows_are_those_of_many(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    head = OutputHead(16, 51, Shard(), None)
    head.weight.data.copy_(torch.randn(51, 16, generator=generator))
    hidden = torch.randn(rows, 16, generator=generator)
    logits = head(hidden)
    assert logits.shape == (rows, 51)
    assert logits.stride(1) == 1
    torch.testing.assert_close(logits, hidden @ head.weight.t())
