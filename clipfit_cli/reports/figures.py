"""Figures for the column of a paper: type and colours that survive print and colour blindness, bytes that repeat."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from clipfit_cli.errors import ConfigError, ResultsError, UnknownNameError, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Form = Literal["pdf", "svg", "png"]
FORMS: tuple[str, ...] = get_args(Form)

PALETTE = ("#0048c0", "#a26600", "#c0183c", "#1e908a", "#7e066c", "#2a3c06", "#a884cc", "#3c1e2a")
"""Of eight lightnesses, L* of 16 to 61 in steps of 6.4, found by search: in grey neighbours are told apart, under
each kind of colour blindness (Machado et al. 2009, severity 1) all pairs; the lightest has a contrast of 3 on white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.2)),
    (0, (1.2, 1)),
    (0, (5, 1, 1.2, 1)),
    (0, (8, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (2.5, 1)),
    (0, (8, 1, 1, 1)),
)
REST, BASELINE, FRAME = "#b4b4b4", "#000000", "#6e6e6e"
"""Colours of what is not highlighted, of what trains nothing, and of axes."""

MOST_HIGHLIGHTED = len(PALETTE)
DEFAULT_WIDTH_IN = 3.3
TEXT_PT, SMALL_PT = 7.0, 6.0
LINE_PT = 8.0
"""Height of a line of small text."""

_LETTER = 0.56
"""Mean width of a letter in heights of the type."""

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": TEXT_PT,
    "axes.titlesize": TEXT_PT,
    "axes.labelsize": TEXT_PT,
    "xtick.labelsize": SMALL_PT,
    "ytick.labelsize": SMALL_PT,
    "legend.fontsize": SMALL_PT,
    "figure.titlesize": TEXT_PT,
    "axes.edgecolor": FRAME,
    "xtick.color": FRAME,
    "ytick.color": FRAME,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "axes.linewidth": 0.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2.0,
    "ytick.major.size": 2.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.4,
    "text.parse_math": False,  # a class may be called $5
    "axes.unicode_minus": True,
    "pdf.fonttype": 42,  # TrueType, as journals ask
    "svg.fonttype": "path",
    "svg.hashsalt": "clipfit",
    "figure.constrained_layout.h_pad": 0.02,
    "figure.constrained_layout.w_pad": 0.02,
}
_NO_DATES: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {"Software": "Matplotlib"},
}


@dataclass(frozen=True)
class Look:
    """How a figure looks, whatever it shows.

    Attributes:
        width_in: Inches, 2 to 20.
        highlight: Methods that are coloured, at most eight; empty = the first eight by the alphabet.
    """

    width_in: float = DEFAULT_WIDTH_IN
    highlight: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.width_in <= 20:
            raise ConfigError(f"the width of a plot is 2 to 20 inches, got {self.width_in}")
        if len(self.highlight) > MOST_HIGHLIGHTED:
            raise ConfigError(
                f"at most {MOST_HIGHLIGHTED} methods can be highlighted, got {len(self.highlight)}: more colours look "
                "alike; the others are drawn in grey"
            )


@dataclass(frozen=True)
class Style:
    """How one method is drawn.

    Attributes:
        color: Of lines, markers and bars.
        marker, dash: As matplotlib takes them.
        order: What has more lies above.
    """

    color: str
    marker: str
    dash: Any
    order: int = 2

    @property
    def is_rest(self) -> bool:
        """Whether the method is one of those in grey."""
        return self.color == REST


def styles_of(names: Sequence[str], baselines: Sequence[str], look: Look) -> dict[str, Style]:
    """Return the style of every method: colours go by the alphabet, so that plots of the same methods agree.

    Args:
        names: Of the methods of a table.
        baselines: Those that train nothing; they need no colour.
        look: Whose `highlight` holds labels, or methods whatever their settings.

    Raises:
        UnknownNameError: A method to highlight is not in the table.
    """
    trained = sorted({*names} - {*baselines})
    chosen: list[str] = []
    for word in look.highlight:
        meant = [name for name in trained if word in (name, _method(name))]
        if not meant and word not in (*baselines, *map(_method, baselines)):
            raise UnknownNameError("method to highlight", word, dict.fromkeys((*trained, *map(_method, trained))))
        chosen += meant
    coloured = (list(dict.fromkeys(chosen)) if look.highlight else trained)[:MOST_HIGHLIGHTED]
    styles = {
        name: Style(PALETTE[place], MARKERS[place], DASHES[place], order=3) for place, name in enumerate(coloured)
    }
    rest = Style(REST, ".", "-", order=1)
    return {
        name: Style(BASELINE, "*", "-", order=2) if name in baselines else styles.get(name, rest)
        for name in dict.fromkeys(names)
    }


@contextmanager
def own_style() -> Iterator[None]:
    """Draw and write with our settings alone, whatever the user's own say; they are as before afterwards.

    Raises:
        ResultsError: Matplotlib finds no folder for its list of fonts.
    """
    try:
        import matplotlib.font_manager
        import matplotlib.style
    except OSError as error:
        raise ResultsError(
            "matplotlib finds no folder to write its list of fonts to; set MPLCONFIGDIR to one that you may write to"
        ) from error

    with matplotlib.style.context(_STYLE, after_reset=True):
        yield


def new_figure(look: Look, height_in: float, title: str) -> Figure:
    """Return an empty figure with its title, folded at the parts that it has; to be called within `own_style`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [""]
    most = letters(look.width_in)
    for part in shown(title).split(" · "):
        joined = f"{lines[-1]} · {part}" if lines[-1] else part
        lines = [*lines[:-1], joined] if len(joined) <= most else [*lines, part]
    text = "\n".join(shortened_to(line, most) for line in lines if line)
    figure = Figure(figsize=(look.width_in, height_in + text.count("\n") * 0.13), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(text, x=0.01, ha="left", linespacing=1.25)
    return figure


def add_panels(figure: Figure, titles: Sequence[str], *, most_columns: int = 3, share_y: bool = False) -> list[Axes]:
    """Return an axis system a title; a single one goes without."""
    columns = min(len(titles), most_columns)
    rows = math.ceil(len(titles) / columns)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=False, sharey=share_y).ravel().tolist()
    for axes, title in zip(grid, titles, strict=False):
        if len(titles) > 1:
            axes.set_title(shortened_to(shown(title), letters(figure.get_figwidth() / columns)), loc="left")
    for axes in grid[len(titles) :]:
        axes.remove()
    return list(grid[: len(titles)])


def add_legend(figure: Figure, entries: Sequence[tuple[Any, str]]) -> None:
    """Put a legend below the panels, and make room for it, in as many columns as fit."""
    if not entries:
        return
    most = letters(figure.get_figwidth())
    texts = [shortened_to(shown(text), most - 8) for _, text in entries]
    columns = max(1, min(len(texts), most // (max(map(len, texts)) + 7)))
    figure.set_figheight(figure.get_figheight() + 0.13 * math.ceil(len(texts) / columns) + 0.06)
    figure.legend(
        [handle for handle, _ in entries],
        texts,
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        borderpad=0.1,
        handlelength=2.6,
        columnspacing=1.0,
        labelspacing=0.25,
    )


def to_bytes(figure: Figure, form: Form, *, text_as_paths: bool = True) -> bytes:
    """Return a figure as a file: the same figure gives the same bytes, PNG with 300 dots an inch.

    Args:
        figure: Drawn.
        form: Of the file.
        text_as_paths: Whether an SVG has its letters as outlines, which look alike everywhere, whatever fonts are
            there; else as text, which is smaller, and can be searched and read out. A PDF has both: its fonts are
            embedded.
    """
    import io

    import matplotlib

    target = io.BytesIO()
    with own_style(), matplotlib.rc_context({"svg.fonttype": "path" if text_as_paths else "none"}):
        figure.savefig(target, format=form, dpi=300, metadata=_NO_DATES[form])
    return target.getvalue()


def letters(width_in: float, size_pt: float = TEXT_PT) -> int:
    """Return about how many letters stand side by side in a width."""
    return max(4, int(width_in * 72 / (size_pt * _LETTER)))


def shown(text: str) -> str:
    """Return a text with escapes for what drives a terminal and for letters that the font lacks."""
    return "".join(
        one if ord(one) in _glyphs() else one.encode("ascii", "backslashreplace").decode() for one in printable(text)
    )


def shortened_to(text: str, most: int) -> str:
    """Return a text of at most so many letters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    with own_style():
        return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def _method(label: str) -> str:
    return label.split(" (", 1)[0]
