"""Beam search as callers see it: n best outputs, streams, stop strings, refusals, recordings."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer, T5ForConditionalGeneration

from antiphon import Engine, SamplingParams
from antiphon.config.errors import RequestRefused

PROMPTS = [f"in words: {number}" for number in (7, 42, 318, 9999)]


@pytest.fixture(scope="module")
def t5(t5_folder: Path) -> Iterator[Engine]:
    with Engine(str(t5_folder), device="cpu", ray=False, max_num_seqs=8) as engine:
        yield engine


def test_the_n_best_come_best_first(t5: Engine) -> None:
    params = SamplingParams(beam_size=4, n=3, logprobs=1)
    outputs = t5.generate(PROMPTS, params, use_tqdm=False)
    greedy = t5.generate(PROMPTS, use_tqdm=False)
    for output, plain in zip(outputs, greedy, strict=True):
        assert [one.index for one in output.outputs] == [0, 1, 2]
        scores = [one.score for one in output.outputs]
        assert scores == sorted(scores, reverse=True)
        assert len({tuple(one.token_ids) for one in output.outputs}) == 3
        assert output.outputs[0].text == plain.outputs[0].text  # a trained model is sure
        assert plain.outputs[0].score is None
        for one in output.outputs:
            chosen = [
                entry[token].logprob
                for entry, token in zip(one.logprobs, one.token_ids, strict=True)
            ]
            assert one.cumulative_logprob == pytest.approx(sum(chosen), abs=1e-4)


def test_a_stream_gives_the_whole_text_at_its_end(t5: Engine) -> None:
    params = SamplingParams(beam_size=3)
    deltas = list(t5.stream(PROMPTS[1], params))
    (output,) = t5.generate([PROMPTS[1]], params, use_tqdm=False)
    assert "".join(delta.text for delta in deltas) == output.outputs[0].text
    assert [delta.finish_reason for delta in deltas] == ["stop"]


@pytest.mark.parametrize("stop", [["hundred", "teen"], ["and n", "ty"], ["e"]])
def test_stop_strings_end_sequences_as_in_transformers(
    stop: list[str], t5: Engine, t5_folder: Path
) -> None:
    """Within the search: what ends there makes room for others."""
    model = T5ForConditionalGeneration.from_pretrained(t5_folder)
    tokenizer = AutoTokenizer.from_pretrained(t5_folder)
    params = SamplingParams(beam_size=3, n=3, stop=stop, max_tokens=20)
    kept = replace(params, include_stop_str_in_output=True)
    outputs = t5.generate(PROMPTS, params, use_tqdm=False)
    with_stops = t5.generate(PROMPTS, kept, use_tqdm=False)
    num_stopped = 0
    for prompt, output, with_stop in zip(PROMPTS, outputs, with_stops, strict=True):
        found = model.generate(
            **tokenizer(prompt, return_tensors="pt"), num_beams=3, num_return_sequences=3,
            max_new_tokens=20, stop_strings=stop, tokenizer=tokenizer,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        assert len(output.outputs) == 3
        for one, longer, ids, score, beams in zip(
            output.outputs, with_stop.outputs, found.sequences.tolist(), found.sequences_scores,
            found.beam_indices, strict=True,
        ):  # fmt: skip
            wanted = ids[1 : 1 + int((beams >= 0).sum())]  # it fills up with what ends texts
            assert one.token_ids == longer.token_ids == wanted
            assert one.score == pytest.approx(float(score), abs=1e-3)
            text = tokenizer.decode(wanted, skip_special_tokens=True)
            ends = [(text.find(each), each) for each in stop if each in text]
            is_whole = bool(ends) or wanted[-1] == tokenizer.eos_token_id
            assert one.finish_reason == ("stop" if is_whole else "length")
            if not ends:
                assert one.text == longer.text == text
                continue
            num_stopped += 1
            place, first = min(ends)
            assert (one.text, longer.text) == (text[:place], text[:place] + first)
    assert num_stopped


def test_stop_strings_in_a_search_by_the_rule_of_openai(t5: Engine, t5_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(t5_folder)
    params = SamplingParams(beam_size=3, n=2, patience=1.5, stop=" ")
    (output,) = t5.generate([PROMPTS[3]], params, use_tqdm=False)
    for one in output.outputs:
        assert one.text
        assert " " not in one.text
        assert one.finish_reason == "stop"
        before = tokenizer.decode(one.token_ids[:-1], skip_special_tokens=True)
        assert " " not in before  # it ended as soon as it could


def test_a_search_that_no_step_has_room_for_is_refused(t5: Engine) -> None:
    with pytest.raises(RequestRefused, match="beam_size=9 is over the 8 sequences of a step"):
        t5.generate([PROMPTS[0]], SamplingParams(beam_size=9), use_tqdm=False)[0].outputs  # noqa: B018


def test_recordings(whisper_folder: Path) -> None:
    recording = whisper_folder.parent / "recordings" / "call.wav"
    with Engine(str(whisper_folder), device="cpu", ray=False) as engine:
        plain = engine.transcribe(recording)
        searched = engine.transcribe(recording, beam_size=3, temperature=[0.0, 0.5])
        assert searched.text.split()[:3] == plain.text.split()[:3]
        assert searched.segments[0].avg_logprob >= plain.segments[0].avg_logprob - 1e-4
        assert engine.detect_language(recording)


@pytest.mark.slow
def test_words_of_a_checkpoint_that_searches_by_itself(
    whisper_folder: Path, tmp_path: Path
) -> None:
    """The request that aligns a search's text is none itself."""
    folder = tmp_path / "searching"
    shutil.copytree(whisper_folder, folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "num_beams": 3}))
    recording = whisper_folder.parent / "recordings" / "call.wav"
    with Engine(str(folder), device="cpu", ray=False) as engine:
        result = engine.transcribe(recording, word_timestamps=True)
    words = [word for segment in result.segments for word in segment.words or ()]
    assert "".join(word.text for word in words).strip() == result.text == "call seven nine zero"
