"""``asr-serve transcribe --plot``: a picture of who speaks when, and what.

matplotlib is imported when a picture is drawn: the command does without it otherwise.
"""

import importlib.util
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve_app.cli.timeline import Timeline, Utterance, clock, fitted, read_timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")

_DPI = 150
_INCHES = 14.0
_PLOT_INCHES = 12.2
_ROW_INCHES = 0.52
_STRIP_INCHES = 0.42
_HEAD_INCHES = 0.9
_FONT_POINTS = 8.0
_LINES = 3
_BAR = 0.86
_UNSURE = 0.5
"""Below this confidence a bar is pale and dashed."""

_CJK = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uff00-\uffef]")
# File names of fonts with Chinese characters, those for simplified ones first.
_CJK_FONTS = (
    "NotoSansCJKsc|NotoSansSC|SourceHanSansSC|SourceHanSansCN",
    "NotoSansCJK|SourceHanSans",
    "wqy-microhei|wqy-zenhei|WenQuanYi",
    "msyh|simhei|PingFang|Hiragino Sans GB|STHeiti",
    "DroidSansFallback|ukai|uming|NotoSerifCJK|simsun|ArialUnicode",
)


def check(target: Path, sources: Sequence[Path], format_: str, speakers: bool | None) -> None:
    """Find out before anything is sent whether a picture of ``sources`` can be drawn.

    Args:
        format_: of the transcript that is wanted beside it; the picture and it come from one answer.
        speakers: whether they are wanted, if anything was said about that.

    Raises:
        ValueError: it cannot; the message says why, and what to do.
    """
    if target.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"a picture is a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, not {target.name}"
        )
    if len(sources) > 1:
        raise ValueError(f"--plot draws one file, not {len(sources)}")
    if format_ not in ("text", "verbose_json"):
        raise ValueError(f"--plot goes with --format text or verbose_json, not {format_}")
    if speakers is False:
        raise ValueError("--plot and --no-speakers contradict each other")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib: .venv/bin/pip install -c constraints.txt matplotlib")


def drawing(
    target: Path, title: str, render: Callable[[str], str], warn: Callable[[str], None]
) -> Callable[[str], str]:
    """``render``, which draws its answer too.

    Args:
        target: file to write.
        warn: is told what is wrong with the picture, if something is.
    """

    def draw_and_render(answer: str) -> str:
        draw(read_timeline(answer), target, title, warn)
        return render(answer)

    return draw_and_render


def draw(timeline: Timeline, target: Path, title: str, warn: Callable[[str], None]) -> None:
    """Write the picture: a row for each speaker in each strip of time.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    words = "".join((title, *timeline.speakers, *(one.text for one in timeline.utterances)))
    families = _families(words, warn)
    with (
        matplotlib.rc_context(
            {
                "font.family": families,
                "font.size": _FONT_POINTS,
                # Text stays text, so that one can search and copy it.
                "svg.fonttype": "none",
                "pdf.fonttype": 42,
            }
        ),
        warnings.catch_warnings(),
    ):
        # Said once already, and in a sentence.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        rows, strips = max(1, len(timeline.speakers)), timeline.strips()
        height = _HEAD_INCHES + len(strips) * (rows * _ROW_INCHES + _STRIP_INCHES)
        figure = Figure(figsize=(_INCHES, height), layout="constrained")
        figure.suptitle(f"{title} ({clock(timeline.duration)})", fontsize=_FONT_POINTS + 3)
        colors = _colors(timeline)
        for axes, strip in zip(figure.subplots(len(strips), squeeze=False)[:, 0], strips, strict=True):
            _draw_strip(axes, timeline, strip, colors)
        _add_legend(figure, timeline, colors)
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=_DPI)


def _colors(timeline: Timeline) -> dict[str, Any]:
    import matplotlib

    speakers = timeline.speakers
    palette = matplotlib.colormaps["tab10" if len(speakers) <= 10 else "tab20"]
    return {speaker: palette(number % palette.N) for number, speaker in enumerate(speakers)}


def _draw_strip(
    axes: "Axes", timeline: Timeline, strip: tuple[float, float], colors: Mapping[str, Any]
) -> None:
    begin, end = strip
    rows = {speaker: row for row, speaker in enumerate(timeline.speakers)}
    axes.set_xlim(begin, end)
    axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    axes.set_yticks(list(rows.values()), list(rows))
    axes.xaxis.set_major_formatter(lambda value, _: clock(value))
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if timeline.duration < end:
        axes.axvspan(timeline.duration, end, color="0.95", linewidth=0)
    inches = _PLOT_INCHES / (end - begin)
    for number, one in enumerate(timeline.utterances):
        if one.end > begin and one.begin < end:
            _draw_bar(axes, number, one, rows[one.speaker], strip, inches, colors[one.speaker])


def _draw_bar(
    axes: "Axes",
    number: int,
    one: Utterance,
    row: int,
    strip: tuple[float, float],
    inches: float,
    color: Any,
) -> None:
    """``inches``: of a second. The text is where most of the sentence is, if two strips share it."""
    from matplotlib.patches import Rectangle

    begin, end = max(one.begin, strip[0]), min(one.end, strip[1])
    bar = Rectangle((begin, row - _BAR / 2), end - begin, _BAR, linewidth=0.8)
    bar.set(facecolor=(*color[:3], 0.3), edgecolor=color)
    if one.confidence < _UNSURE:
        bar.set(facecolor=(*color[:3], 0.08), linestyle="--")
    bar.set_gid(f"bar-{row + 1}-{number}")
    axes.add_patch(bar)
    columns = (end - begin) * inches * 72 / _FONT_POINTS - 0.5
    text = fitted(one.text, columns, _LINES) if end - begin >= (one.end - one.begin) / 2 else ""
    if text:
        place = ((begin + end) / 2, row)
        axes.annotate(text, place, ha="center", va="center", linespacing=1.05, parse_math=False)


def _add_legend(figure: "Figure", timeline: Timeline, colors: Mapping[str, Any]) -> None:
    from matplotlib.patches import Patch

    total = sum(one.end - one.begin for one in timeline.utterances)
    handles = []
    for speaker, color in colors.items():
        seconds = timeline.seconds(speaker)
        name = f"{speaker}: {clock(seconds)} ({seconds / max(total, 1e-9):.0%})"
        handles.append(Patch(facecolor=(*color[:3], 0.3), edgecolor=color, label=name))
    if any(one.confidence < _UNSURE for one in timeline.utterances):
        handles.append(Patch(facecolor="white", edgecolor="0.4", linestyle="--", label="unsure"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False)


def _families(words: str, warn: Callable[[str], None]) -> list[str]:
    """Fonts to look for characters in, one after the other."""
    from matplotlib import font_manager

    plain = ["DejaVu Sans"]
    if not _CJK.search(words):
        return plain
    # Not from matplotlib's cache, which knows nothing of a font that was installed since.
    installed = font_manager.findSystemFonts()
    for names in _CJK_FONTS:
        for path in sorted(installed):
            if re.search(names, Path(path).name, re.IGNORECASE):
                font_manager.fontManager.addfont(path)
                return [font_manager.FontProperties(fname=path).get_name(), *plain]
    warn(
        "No font with Chinese characters was found, so the picture shows boxes in their place. "
        "On Debian and Ubuntu, apt install fonts-noto-cjk brings one."
    )
    return plain
