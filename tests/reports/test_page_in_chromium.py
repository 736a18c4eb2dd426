"""The page in a browser: no complaint, no request, and all of it works by mouse, by keyboard and on a small screen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clipfit_cli.cli.app import app
from clipfit_cli.config import MethodChoice, ModelConfig, Request
from clipfit_cli.reports.page import report_to_html
from tests.reports.made_up import HOSTILE, benchmark, make_figure, make_report

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Chromium")]

NAMED = "input, button, a, summary, svg, table, [role=region]"
NAMELESS = f"""() => [...document.querySelectorAll("{NAMED}")].filter(one => {{
  const labels = one.labels ? [...one.labels].map(label => label.textContent).join("") : "";
  const caption = one.caption ? one.caption.textContent : "";
  return !(one.getAttribute("aria-label") || labels || caption || (one.tagName !== "svg" && one.textContent)).trim();
}}).map(one => one.outerHTML.slice(0, 100))"""
COLUMN = """(table, place) => [...table.tBodies[0].rows].map(row => row.cells[place].textContent.trim())"""
PALE = """() => {
  const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(part => {
    const x = part / 255; return x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; });
  const light = text => rgb(text).reduce((sum, x, place) => sum + x * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = one => { for (; one; one = one.parentElement) {
    const color = getComputedStyle(one).backgroundColor;
    if (!/, 0\\)$|transparent/.test(color)) return color; } return "rgb(255, 255, 255)"; };
  return [...document.querySelectorAll("p, li, td, th, dt, dd, a, summary, caption, h1, h2, h3, h4, abbr, .spread")]
    .filter(one => one.textContent.trim()).map(one => {
      const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), one.outerHTML.slice(0, 80)];
    }).filter(([contrast]) => contrast < 4.5);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of the command, on runs of three methods, two data sets, two shot counts and two seeds, with figures."""
    folder = tmp_path_factory.mktemp("report")
    request = Request(
        datasets=("dtd", "eurosat"),
        methods=tuple(map(MethodChoice, ("zero-shot", "clipfit", "bitfit", "coop"))),
        shots=(1, 16),
        seeds=(1, 2),
        model=ModelConfig(),
    )
    for protocol in ("few-shot", "base2new"):
        benchmark().make_runs(folder / "runs", request, protocol=protocol, images=200, classes=8)
    result = CliRunner().invoke(app, ["report", "--runs-dir", str(folder / "runs"), "--out", str(folder / "a.html")])
    assert result.exit_code == 0, result.stderr
    return folder / "a.html"


def opened(browser: Any, path: Path, *, width: int = 1440, scheme: str = "light", script: bool = True) -> Any:
    """Return a page on which nothing was complained of and nothing asked for."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script
    )
    page = context.new_page()
    page.heard = []
    for event in ("console", "pageerror"):
        page.on(event, lambda one: page.heard.append(str(getattr(one, "text", one))))
    page.on("request", lambda one: page.heard.append(one.url) if not one.url.startswith("data:") else None)
    page.goto(path.as_uri(), wait_until="load")
    return page


def test_it_opens_in_silence_with_a_name_for_everything(browser: Any, made: Path) -> None:
    page = opened(browser, made)
    assert page.locator("svg").count() >= 10
    assert page.evaluate(NAMELESS) == []
    assert page.heard == [made.as_uri()]


@pytest.mark.parametrize("name", ["H", "lead"])
def test_heads_sort_and_say_so(browser: Any, made: Path, name: str) -> None:
    page = opened(browser, made)
    table = page.locator("table.data").first
    heads = [text.strip() for text in table.locator("thead th").all_inner_texts()]
    place = next(i for i, head in enumerate(heads) if head.split("\n")[0].rstrip(" ↕") == name)
    head = table.locator("thead th").nth(place)
    assert head.get_attribute("aria-sort") == "none"
    orders = []
    for expected in ("descending", "ascending"):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == expected
        values = table.evaluate(f"table => ({COLUMN})(table, {place})")
        orders.append([float(text.split()[0]) for text in values if text != "–"])
    assert orders[0] == sorted(orders[0], reverse=True) and orders[1] == sorted(orders[1])
    other = table.locator("thead th").first
    other.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert other.get_attribute("aria-sort") == "ascending" and head.get_attribute("aria-sort") == "none"
    names = table.evaluate(f"table => ({COLUMN})(table, 0)")
    assert names == sorted(names)
    assert page.heard == [made.as_uri()]


def test_rows_are_filtered_and_counted(browser: Any, made: Path) -> None:
    page = opened(browser, made)
    results = page.locator(".results").nth(1)
    whole = results.locator("tbody tr").count()
    results.get_by_label("Show rows with").fill("BITFIT 16")
    shown = results.locator("tbody tr:visible")
    assert 0 < shown.count() < whole
    assert all("bitfit" in text and "16" in text for text in shown.all_inner_texts())
    assert f" of {whole} rows" in results.get_by_role("status").inner_text()
    results.get_by_label("Show rows with").fill("no such row")
    assert shown.count() == 0 and results.get_by_role("status").inner_text() == f"0 of {whole} rows"
    results.get_by_label("Show rows with").fill("")
    assert results.locator("tbody tr:not([hidden])").count() == whole


def test_the_keyboard_reaches_the_results_and_the_numbers_of_a_figure(browser: Any, made: Path) -> None:
    page = opened(browser, made)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    summary = page.locator("figure summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("figure table").first.is_visible()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_the_screen_and_can_be_read_on_it(browser: Any, made: Path, width: int, scheme: str) -> None:
    page = opened(browser, made, width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(PALE) == []
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")


def test_without_scripts_all_of_it_is_there(browser: Any, made: Path) -> None:
    page = opened(browser, made, script=False)
    assert page.locator("tbody tr").count() > 20 and page.locator("th button").count() == 0
    assert not page.locator(".filter").first.is_visible()


def test_it_prints(browser: Any, made: Path, tmp_path: Path) -> None:
    page = opened(browser, made)
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("nav").is_visible() and not page.locator("td.again").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    page.pdf(path=str(tmp_path / "page.pdf"))
    assert (tmp_path / "page.pdf").stat().st_size > 20_000


def test_texts_that_mean_harm_do_none(browser: Any, tmp_path: Path) -> None:
    figure = make_figure("shots", HOSTILE, "clipfit", text=HOSTILE)
    path = tmp_path / "hostile.html"
    path.write_text(report_to_html(make_report(HOSTILE, "clipfit", text=HOSTILE, figures=(figure,))), encoding="utf-8")
    page = opened(browser, path)
    page.on("dialog", lambda _: page.heard.append("a dialog"))
    page.locator("table.data button").first.click()
    page.wait_for_timeout(100)
    assert page.heard == [path.as_uri()] and page.locator("script").count() == 1
    assert page.locator("img").count() == 0 and page.evaluate(NAMELESS) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 1440


def test_scripts_of_others_are_refused(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "changed.html"
    text = report_to_html(make_report("clipfit"))
    path.write_text(text.replace("</main>", "<script>document.title = 'taken'</script></main>"), encoding="utf-8")
    page = opened(browser, path)
    assert page.title() != "taken" and any("Content Security Policy" in text for text in page.heard)


def test_a_page_of_four_times_the_rows_takes_about_four_times_as_long(browser: Any, tmp_path: Path) -> None:
    names, took_s = [f"method {number}" for number in range(20)], dict[int, float]()
    for count in (15, 15, 60):  # the first finds a browser that has yet to warm up
        path = tmp_path / f"{count}.html"
        text = report_to_html(make_report(*names, datasets=tuple(f"set {number}" for number in range(count))))
        path.write_text(text, encoding="utf-8")
        started = time.perf_counter()
        page = opened(browser, path)
        page.evaluate("document.body.offsetHeight")
        took_s[count] = time.perf_counter() - started
        assert page.locator("tbody tr").count() == (count + 1) * 20 + 1
    assert took_s[60] < 12 * took_s[15], "16 times, if each row asked for all others"
