"""Hotwords bite as they do in FunASR on the same weights, whatever else is in the batch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.engines.base import Hints, Hotword, Pcm
from deployments.engines.hotword_tokens import TokenizedHotword
from deployments.engines.model_files import ModelFilesError
from deployments.engines.paraformer_seaco_whole import find_whole, write_whole
from deployments.engines.paraformer_torch import ParaformerTorchEngine
from tests.hotword_models import CHARACTERS, funasr_texts, speech_like, tiny_config, words, write_tiny

Generate = Callable[[Pcm, str | None], str]


def hints(*texts: str, weight: float | None = None) -> Hints:
    return Hints(tuple(Hotword(text, weight) for text in texts))


def some_hotwords(count: int, seed: int) -> list[str]:
    """Different ones, of two to four characters."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choice(list(CHARACTERS), int(rng.integers(2, 5))))] = None
    return list(found)


@pytest.fixture(scope="module", params=["SeacoParaformer", "ContextualParaformer"])
def tiny_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("hotwords") / "tiny", request.param)


@pytest.fixture(scope="module")
def engine(tiny_dir: Path) -> ParaformerTorchEngine:
    return ParaformerTorchEngine(tiny_dir, threads=1, precision="fp32")


@pytest.fixture(scope="module")
def funasr(tiny_dir: Path) -> Generate:
    return funasr_texts(tiny_dir)


def test_hotwords_do_what_they_do_in_funasr(engine: ParaformerTorchEngine, funasr: Generate) -> None:
    """Several segments in one batch, each with a list of its own; 49 hotwords and more are filtered."""
    lists = [some_hotwords(count, seed) for seed, count in enumerate((1, 3, 12, 49, 50, 51, 120))]
    lists += [["hello", "天地"], ["ab", "7月", "Hello"], []]
    segments = [speech_like(1.5 + seed, seed) for seed in range(len(lists))]
    results = engine.transcribe(segments, [hints(*given) for given in lists])
    changed = 0
    for segment, given, result in zip(segments, lists, results, strict=True):
        assert "".join(words(result)) == funasr(segment, " ".join(given) if given else None)
        changed += words(result) != words(engine.transcribe([segment])[0])
    assert changed >= 5, "the hotwords of this test should change something"


def test_without_hotwords_nothing_changes(engine: ParaformerTorchEngine) -> None:
    segments = [speech_like(2, 1), speech_like(3, 2)]
    plain = engine.transcribe(segments)
    assert engine.transcribe(segments, [Hints(), Hints()]) == plain
    one = engine.transcribe(segments, [hints(*some_hotwords(3, 0)), Hints()])
    assert words(one[1]) == words(plain[1])
    assert one[1].applied == ()


def test_the_result_of_a_segment_does_not_depend_on_the_lists_of_others(
    engine: ParaformerTorchEngine,
) -> None:
    segment, given = speech_like(3, 5), hints(*some_hotwords(5, 5))
    alone = engine.transcribe([segment], [given])[0]
    mates = [hints(*some_hotwords(70, 6)), Hints(), hints("宇宙", weight=90)]
    others = [speech_like(seconds, 7) for seconds in (4, 0.01, 2)]
    for place in range(4):
        segments, lists = [*others], [*mates]
        segments.insert(place, segment)
        lists.insert(place, given)
        together = engine.transcribe(segments, lists)[place]
        assert words(together) == words(alone)
        assert [word.log_prob for word in together.words] == pytest.approx(
            [word.log_prob for word in alone.words], abs=1e-3
        )


def test_applied_are_those_that_the_vocabulary_can_write(engine: ParaformerTorchEngine) -> None:
    given = hints("天地", "hello", "bonjour", "天空", "天 地", "月 HELLO", "", "<unk>", "7")
    applied = engine.transcribe([speech_like(1, 1), np.zeros(0, np.int16)], [given, given])
    assert [result.applied for result in applied] == [("天地", "hello", "月 HELLO", "7")] * 2


def test_hotwords_that_cannot_be_written_change_nothing(engine: ParaformerTorchEngine) -> None:
    segment = speech_like(3, 3)
    plain = engine.transcribe([segment])[0]
    assert engine.transcribe([segment], [hints("bonjour", "天空")])[0] == plain


def test_the_usual_weight_is_that_of_no_weight(engine: ParaformerTorchEngine) -> None:
    segment, texts = speech_like(4, 4), some_hotwords(4, 4)
    usual = engine.transcribe([segment], [hints(*texts, weight=20)])
    assert usual == engine.transcribe([segment], [hints(*texts)])


def test_hints_must_be_as_many_as_segments(engine: ParaformerTorchEngine) -> None:
    with pytest.raises(ValueError, match="zip"):
        engine.transcribe([speech_like(1, 1)], [Hints(), Hints()])


class TestWholeHotwords:
    """Tokens 0 to 4; 5 means that there is no hotword."""

    NO_BIAS = 5

    def scores(self, *rows: dict[int, float]) -> torch.Tensor:
        """Log-probabilities of -9 but for those given; that of no hotword is -1 everywhere."""
        scores = torch.full((len(rows), 6), -9.0)
        scores[:, self.NO_BIAS] = -1.0
        for place, row in enumerate(rows):
            for token, value in row.items():
                scores[place, token] = value
        return scores

    def found(self, scores: torch.Tensor, *hotwords: TokenizedHotword) -> list[tuple[int, str]]:
        places = find_whole(scores, self.NO_BIAS, hotwords)
        return sorted((place, hotword.text) for place, hotword in places)

    def test_sure_tokens_make_up_for_an_unsure_one(self) -> None:
        name = TokenizedHotword("name", (1, 2, 3))
        assert self.found(self.scores({}, {1: -0.1}, {2: -1.5}, {3: -0.2}, {}), name) == [(1, "name")]
        assert self.found(self.scores({}, {1: -0.1}, {2: -5.0}, {3: -0.2}, {}), name) == []

    def test_part_of_a_hotword_is_none(self) -> None:
        name = TokenizedHotword("name", (1, 2, 3))
        assert self.found(self.scores({1: -0.1}, {2: -0.1}), name) == []
        assert self.found(self.scores({1: -0.1}, {2: -0.1}, {}), name) == []

    def test_of_two_in_one_place_the_likelier_one_is_taken(self) -> None:
        one, other = TokenizedHotword("one", (1, 2)), TokenizedHotword("other", (1, 3))
        scores = self.scores({1: -0.1}, {2: -0.3, 3: -0.2}, {}, {1: -0.1}, {2: -0.2, 3: -0.3})
        assert self.found(scores, one, other) == [(0, "other"), (3, "one")]

    def test_weight_multiplies_the_odds(self) -> None:
        scores = self.scores({1: -1.2}, {2: -1.2})
        assert self.found(scores, TokenizedHotword("name", (1, 2), 20)) == []
        assert self.found(scores, TokenizedHotword("name", (1, 2), 31)) == [(0, "name")]
        assert self.found(scores, TokenizedHotword("name", (1, 2), 29)) == []

    def test_the_bonus_is_for_each_token_after_the_first(self) -> None:
        scores = self.scores({1: -1.2}, {2: -1.2}, {3: -1.2})
        name = TokenizedHotword("name", (1, 2, 3))
        assert find_whole(scores, self.NO_BIAS, [name], 0.32) == [(0, name)]
        assert find_whole(scores, self.NO_BIAS, [name], 0.28) == []
        assert find_whole(scores, self.NO_BIAS, [TokenizedHotword("one", (1,))], 9.0) == []

    def test_only_the_rows_of_a_hotword_change(self) -> None:
        scores = self.scores({1: -0.1}, {2: -0.2}, {})
        heard = torch.log_softmax(torch.randn(3, 6), -1)
        written = write_whole(heard, scores, self.NO_BIAS, [TokenizedHotword("name", (1, 2))])
        assert written.max(dim=-1).indices[:2].tolist() == [1, 2]
        assert written.max(dim=-1).values[:2].tolist() == pytest.approx([-0.1, -0.2])
        assert torch.equal(written[2], heard[2])


class TestSeaco:
    @pytest.fixture
    def config(self) -> dict[str, dict[str, object]]:
        return tiny_config("SeacoParaformer")

    def test_weights_make_hotwords_bite_more_or_less(self, tmp_path: Path) -> None:
        """How many tokens of hotwords are written grows with their weight."""
        engine = ParaformerTorchEngine(write_tiny(tmp_path, "SeacoParaformer"), threads=1, precision="fp32")
        segments = [speech_like(4, seed) for seed in range(6)]
        lists = [some_hotwords(4, seed) for seed in range(6)]
        written = []
        for weight in (1, 20, 100):
            results = engine.transcribe(segments, [hints(*given, weight=weight) for given in lists])
            pairs = zip(results, lists, strict=True)
            written.append(sum(word in "".join(given) for result, given in pairs for word in words(result)))
        assert written[0] < written[1] < written[2]

    def test_both_ways(self, tmp_path: Path, config: dict[str, dict[str, object]]) -> None:
        """An LSTM that reads hotwords from both ends, as some checkpoints have it."""
        config["model_conf"]["bias_encoder_bid"] = True
        directory = write_tiny(tmp_path, "SeacoParaformer", config)
        engine = ParaformerTorchEngine(directory, threads=1, precision="fp32")
        generate = funasr_texts(directory)
        for seed in range(3):
            segment, given = speech_like(3, seed), some_hotwords(5, seed)
            assert "".join(words(engine.transcribe([segment], [hints(*given)])[0])) == generate(
                segment, " ".join(given)
            )

    def test_a_class_that_means_nothing_is_refused(
        self, tmp_path: Path, config: dict[str, dict[str, object]]
    ) -> None:
        config["model_conf"]["NO_BIAS"] = 8377
        directory = write_tiny(tmp_path, "SeacoParaformer", config)
        with pytest.raises(ModelFilesError, match="NO_BIAS"):
            ParaformerTorchEngine(directory, threads=1)

    def test_another_encoder_of_hotwords_is_refused(
        self, tmp_path: Path, config: dict[str, dict[str, object]]
    ) -> None:
        directory = write_tiny(tmp_path, "SeacoParaformer", config)
        text = (directory / "config.yaml").read_text("utf-8")
        (directory / "config.yaml").write_text(
            text.replace("bias_encoder_type: lstm", "bias_encoder_type: mean")
        )
        with pytest.raises(ModelFilesError, match="bias_encoder_type mean"):
            ParaformerTorchEngine(directory, threads=1)
