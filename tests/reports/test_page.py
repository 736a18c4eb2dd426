"""The page as it is written: one file that asks for nothing, escapes everything, and can be read by anybody."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from clipfit_cli.errors import ResultsError, printable
from clipfit_cli.reports.page import grid_of, report_to_html, svg_of
from clipfit_cli.reports.tables import Table
from tests.reports.made_up import COLUMNS, HOSTILE, make_figure, make_report, rows

VOID = {"meta", "input", "img", "br", "hr", "link"}


class Page(HTMLParser):
    """Every element of a page with its attributes and the text in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {[tag for tag, *_ in self.open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        one = (tag, dict(attrs), list[str]())
        self.found.append(one)
        if tag not in VOID:
            self.open.append(one)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for one in self.open:
            one[2].append(data)

    def all(self, *tags: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, "".join(text).strip()) for tag, attributes, text in self.found if tag in tags]


@pytest.fixture(scope="module")
def hostile() -> str:
    figures = (make_figure("shots", "clipfit", HOSTILE, text=HOSTILE),)
    return report_to_html(make_report("clipfit", HOSTILE, text=HOSTILE, datasets=("dtd", HOSTILE), figures=figures))


def test_texts_are_escaped_everywhere(hostile: str) -> None:
    page = Page(hostile)
    assert len(page.all("script")) == 1 and len(page.all("style")) == 1
    assert not page.all("img", "iframe", "object", "link", "a ") and "49" not in page.all("title")[0][1]
    allowed = {
        "href",
        "id",
        "class",
        "content",
        "charset",
        "lang",
        "name",
        "type",
        "role",
        "tabindex",
        "scope",
        "title",
    }
    allowed |= {"http-equiv", "hidden", "autocomplete", "spellcheck"}
    for tag, attributes, _ in Page(re.sub("<svg.*?</svg>", "", hostile, flags=re.S)).found:
        others = {name for name in attributes if not name.startswith(("aria-", "data-"))} - allowed
        assert not others, f"<{tag}> has {others}"
    assert not [one for _, one, _ in page.found if any(name.startswith("on") for name in one)]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", hostile)
    shown = printable(HOSTILE)
    heads = [text for _, text in page.all("h1", "h2", "h3", "h4", "li", "dt", "dd", "th", "summary", "code", "p")]
    assert sum(shown in text for text in heads) > 10
    assert any(caption for _, caption in page.all("caption") if shown in caption)


def test_nothing_is_asked_of_any_network(hostile: str) -> None:
    page = Page(hostile)
    assert all(str(one["href"]).startswith("#") for _, one, _ in page.found if "href" in one)
    assert not [one for _, one, _ in page.found if {"src", "srcset", "action", "poster", "data"} & set(one)]
    style = page.all("style")[0][1]
    assert "@import" not in style and "url(" not in style
    policies = [one["content"] for one, _ in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    rules = dict(rule.split(" ", 1) for rule in str(policies[0]).split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    script = re.search(r"<script>(.*?)</script>", hostile, re.S)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'"


def test_it_can_be_read_out(hostile: str) -> None:
    page = Page(hostile)
    levels = [int(tag[1]) for tag, *_ in page.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [one["id"] for _, one, _ in page.found if "id" in one]
    assert len(set(ids)) == len(ids)
    assert {str(one["href"])[1:] for one, _ in page.all("a")} <= {*ids}
    assert {str(one["aria-labelledby"]) for _, one, _ in page.found if "aria-labelledby" in one} <= {*ids}
    labels = [text for _, text in page.all("label")]
    assert len(labels) == len(page.all("input")) == 1 and labels[0]
    assert all(one.get("scope") in ("col", "row") and text for one, text in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) and all(text for _, text in page.all("caption"))
    assert all(text for _, text in page.all("summary", "a", "button", "dt"))
    assert {tag for tag, *_ in page.found} >= {"header", "nav", "main", "section"}
    assert all(one.get("aria-label") and one.get("tabindex") == "0" for one, _ in page.all("div") if one.get("role"))
    assert [one["lang"] for one, _ in page.all("html")] == ["en"]


def test_numbers_and_marks_are_those_of_the_table() -> None:
    page = Page(report_to_html(make_report("clipfit", "bitfit")))
    cells = [(one.get("data-v"), text) for one, text in page.all("td")]
    assert ("90", "90.00 ± 0.25") in cells and ("86.5", "86.50 ± 0.25 ≈") in cells
    assert [text for _, text in page.all("b")] == ["90.00"]
    assert [one["title"] for one, _ in page.all("abbr")] == ["unclear"]
    assert [text for _, text in page.all("code")] == [
        "clipfit train --dataset 'dtd' --method 'clipfit'",
        "clipfit train --dataset 'dtd' --method 'bitfit'",
    ]


def test_long_tables_are_folded_by_data_set() -> None:
    names = tuple(f"method {number}" for number in range(15))
    page = Page(report_to_html(make_report(*names, datasets=("dtd", "eurosat"))))
    folded = [text for _, text in page.all("summary") if text in ("dtd", "eurosat")]
    assert folded == ["dtd", "eurosat"]
    assert [text.split(" · ")[0] for _, text in page.all("caption")][:3] == [
        "averages over data sets",
        "dtd",
        "eurosat",
    ]
    assert len(page.all("code")) == 3 * 15


def test_what_all_rows_share_stands_in_the_caption() -> None:
    grid = grid_of(Table("A title", COLUMNS, rows("clipfit", "bitfit")))
    assert grid.caption == "data set dtd · A title" and grid.heads[0][0] == "method"
    both = grid_of(Table("A title", COLUMNS, rows("clipfit", datasets=("dtd", "eurosat"))))
    assert both.caption == "A title" and both.heads[0][0] == "data set"
    empty = grid_of(Table("A title", COLUMNS, ()))
    assert not empty.rows and empty.heads


def test_a_number_that_is_none_is_refused() -> None:
    report = make_report("clipfit")
    (section,) = report.sections
    row = {**section.table.rows[0], "accuracy_pct": float("nan")}
    wrong = replace(report, sections=(replace(section, table=replace(section.table, rows=(row,))),))
    with pytest.raises(ResultsError, match="accuracy_pct holds nan"):
        report_to_html(wrong)


def test_figures_are_named_and_keep_to_themselves() -> None:
    figure = make_figure("shots", "clipfit", "bitfit", text=HOSTILE)
    one, other = (svg_of(figure, prefix) for prefix in ("s1f0", "s1f1"))
    pages = [Page(str(text)) for text in (one, other)]
    ids = [{str(attributes["id"]) for _, attributes, _ in page.found if "id" in attributes} for page in pages]
    assert ids[0] and not ids[0] & ids[1]
    (attributes, _), *others = pages[0].all("svg")
    assert not others and attributes["role"] == "img"
    assert printable(HOSTILE) in str(attributes["aria-label"])
    assert not {"width", "height"} & set(attributes) and "viewbox" in attributes
    targets = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', str(one)))
    assert targets and {first or second for first, second in targets} <= ids[0]
