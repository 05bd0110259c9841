"""The report's page in a real browser: no request, no complaint, every control works, accessible everywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import describe
from pipeline.sparse import SparseTensor
from tests.browser import Browser, axe, chromium
from tests.test_report import make_report, write_params, write_runs

SMALL = {
    "neukron": {"datasets": ["flights", "kjv-4gram"]},
    "matrix_baselines": {"datasets": ["flights"], "methods": ["t-svd", "cp", "truncation", "lossless"]},
    "tensor_baselines": {"datasets": ["kjv-4gram"], "methods": ["cp", "truncation"]},
}
SIZES = "size-error-equal-flights"
TABLE = "document.querySelector('[data-table=compression-flights]')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Path:
    """A report on two tensors, networks and samples, with several seeds; made only where there is a browser."""
    world = tmp_path_factory.mktemp("world")
    params = write_params(root, world, SMALL)
    write_runs(params, world / "runs")
    return make_report(params, world / "runs", world / "demo")


@pytest.fixture
def live(browser: Browser, folder: Path) -> Browser:
    """The page as a reader with a wide window first sees it."""
    browser.look()
    browser.open(folder / "report.html")
    return browser


def choose(browser: Browser, name: str, value: str) -> None:
    """Set a control to a value, as a reader does."""
    browser.run(
        f"(() => {{ const c = document.getElementById({name!r}); c.value = {value!r};"
        " for (const kind of ['input', 'change']) c.dispatchEvent(new Event(kind, {bubbles: true})); })()"
    )


def drawing(browser: Browser, name: str) -> str:
    """What a figure shows; the names of its clipping areas aside."""
    shown = browser.run(f"document.querySelector('[data-figure={name}] .drawing').innerHTML")
    return re.sub(r"clip\d+", "clip", shown)


def test_no_request_and_no_complaint(live: Browser) -> None:
    live.run("document.querySelectorAll('.tools a').forEach((a) => a.dispatchEvent(new Event('focus')))")
    assert [url for url in live.requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in live.requests if url.startswith("file:")]) == 1
    assert live.complaints == []
    assert live.run("document.documentElement.classList.contains('live')")


@pytest.mark.parametrize(
    ("width", "dark", "media"),
    [(1280, False, ""), (1280, True, ""), (390, False, ""), (390, True, ""), (1000, False, "print")],
    ids=["light", "dark", "phone", "dark phone", "print"],
)
def test_accessible(browser: Browser, folder: Path, width: int, dark: bool, media: str) -> None:
    source = axe()
    browser.look(width, dark=dark, media=media)
    browser.open(folder / "report.html")
    browser.run(f"{source}; 0")
    found = browser.run(
        "axe.run(document, {resultTypes: ['violations']}).then((result) => result.violations.map((each) =>"
        " each.id + ': ' + each.nodes.map((node) => node.html.slice(0, 120)).join(' ')))"
    )
    assert found == []


def test_fits_a_phone_with_readable_figures(browser: Browser, folder: Path) -> None:
    browser.look(390, 800)
    browser.open(folder / "report.html")
    assert browser.run("document.documentElement.scrollWidth") <= 390
    sizes = browser.run(
        "[...document.querySelectorAll('.drawing text')].filter((t) => t.getBoundingClientRect().width).map((t) =>"
        " parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a)"
    )
    assert len(sizes) > 50
    assert min(sizes) >= 11
    outside = browser.run(
        "[...document.querySelectorAll('.drawing svg text')].filter((t) => { const r = t.closest('svg')"
        ".getBoundingClientRect(), q = t.getBoundingClientRect(); return q.width && (q.right > r.right + 4 ||"
        " q.left < r.left - 2); }).map((t) => t.textContent)"
    )
    assert outside == []


@pytest.mark.parametrize("width", [390, 1280])
def test_labels_of_a_figure_do_not_overlap(browser: Browser, folder: Path, width: int) -> None:
    browser.look(width)
    browser.open(folder / "report.html")
    overlaps = browser.run(
        """[...document.querySelectorAll('.drawing svg')].flatMap((svg) => {
          const boxes = [...svg.querySelectorAll('text.name')].map((t) => [t.textContent, t.getBoundingClientRect()]);
          return boxes.flatMap(([one, p], i) => boxes.slice(i + 1).filter(([, q]) => p.left < q.right - 1 &&
            q.left < p.right - 1 && p.top + 2 < q.bottom - 2 && q.top + 2 < p.bottom - 2)
            .map(([other]) => [one, other]));
        })"""
    )
    assert overlaps == []


def test_stands_without_script(browser: Browser, folder: Path) -> None:
    browser.look(script=False)
    browser.open(folder / "report.html")
    browser.look()  # what is asked of the page now runs
    assert browser.run("[...document.querySelectorAll('form')].every((e) => !e.offsetParent)")
    assert browser.run("document.querySelectorAll('.drawing svg g > title').length") > 50
    # what several elements look like stands in the page's style sheet; ids are unique, and references find them
    assert browser.run("getComputedStyle(document.querySelector('.drawing svg text')).fontSize") in ("8.5px", "9px")
    assert (
        browser.run("[...document.querySelectorAll('[id]')].filter((e) => document.getElementById(e.id) !== e)") == []
    )
    ids = "new Set([...document.querySelectorAll('[id]')].map((e) => `#${e.id}`))"
    uses = "[...document.querySelectorAll('svg use')].map((e) => e.getAttribute('href'))"
    assert browser.run(f"{uses}.length") > 50
    assert browser.run(f"((ids) => {uses}.filter((name) => !ids.has(name)))({ids})") == []
    assert browser.run("document.querySelectorAll('.tools, .legend button').length") == 0


@pytest.mark.parametrize(
    ("control", "value", "name"),
    [
        ("accounting", "1", SIZES),
        ("accounting", "3", "size-error-equal-kjv-4gram"),
        ("error", "absolute", "error-epochs-flights"),
        ("error", "absolute", SIZES),
        ("axes", "linear", SIZES),
        ("axes", "log", "error-epochs-flights"),
        ("axes", "linear", "scaling"),
        ("axes", "linear", "cost-digits"),
        ("axes", "log", "accuracy-epochs-digits"),
    ],
)
def test_a_switch_changes_all_figures_and_the_address(live: Browser, control: str, value: str, name: str) -> None:
    before = drawing(live, name)
    choose(live, control, value)
    after = drawing(live, name)
    assert after != before
    fragment = str(live.run("location.hash"))
    assert len(fragment) > 1
    live.run("document.getElementById('restore').click()")
    assert drawing(live, name) == before
    arrived = "new Promise((done) => addEventListener('hashchange', () => done(0)))"
    live.run(f"(() => {{ const arrived = {arrived}; location.hash = {fragment!r}; return arrived; }})()")
    assert drawing(live, name) == after
    assert live.complaints == []


def test_a_damaged_address_is_read_as_far_as_it_makes_sense(browser: Browser, folder: Path) -> None:
    browser.look()
    browser.open(folder / "report.html")
    plain = browser.run("document.getElementById('chosen').textContent")
    wrong = "100%&zoom:x=a&data=nowhere&goal=both&limit=much&sort:runs=99u&page:runs=-4&e=none&x=none&a=77&off=toString"
    browser.open(folder / "report.html", f"#{wrong}")
    assert browser.complaints == []
    values = "['error', 'axes', 'choose-data', 'choose-goal'].map((id) => document.getElementById(id).value)"
    assert browser.run(values) == ["relative", "auto", "flights", "bytes"]
    for limits in ("1,1,1,1", "9,1,0,1", "-5,0,0,1", "1e-320,1e308,0,1e308", "1,2,3,3"):
        browser.open(folder / "report.html", f"#limit=0x10&zoom:{SIZES}={limits}")
        assert browser.run(f"document.querySelector('[data-figure={SIZES}] [aria-label^=Reset]').disabled"), limits
        assert browser.complaints == []
    browser.open(folder / "report.html", "#e=none&limit=-1")
    assert browser.run("document.getElementById('chosen').textContent") == plain


def test_the_accounting_is_that_of_all_comparisons(live: Browser) -> None:
    rows = "[...document.querySelectorAll('.duel tbody tr')].filter((r) => r.offsetParent)"
    assert set(live.run(f"{rows}.map((r) => r.cells[0].textContent)")) == {"equal"}
    choose(live, "accounting", "2")
    assert set(live.run(f"{rows}.map((r) => r.cells[0].textContent)")) == {"as published"}


def test_a_caption_is_that_of_the_accounting_shown(live: Browser) -> None:
    figure = f"document.querySelector('[data-figure={SIZES}]')"
    words = f"[{figure}.querySelector('figcaption').textContent, {figure}.querySelector('svg').ariaLabel]"
    caption, alt = live.run(words)
    assert caption.startswith("Every method pays 4 bytes") and "bytes in equal accounting" in alt
    choose(live, "accounting", "2")
    caption, alt = live.run(words)
    assert caption.startswith("What the method's own publication charges") and "bytes as published" in alt


def test_the_legend_filters_all_linked_figures(live: Browser) -> None:
    count = "document.querySelectorAll('.drawing .mark[aria-label^=NeuKron]').length"
    assert live.run(count) > 10
    live.run("document.querySelector('.legend button[data-method=neukron]').click()")
    assert live.run(count) == 0
    pressed = "[...document.querySelectorAll('.legend button[data-method=neukron]')].map((b) => b.ariaPressed)"
    assert set(live.run(pressed)) == {"false"}
    assert "off=neukron" in live.run("location.hash")


def test_zoom_by_mouse_and_by_button_and_back(live: Browser) -> None:
    before = drawing(live, SIZES)
    left, top, width, height = live.run(
        f"(() => {{ const f = document.querySelector('[data-figure={SIZES}]'); f.scrollIntoView({{block: 'center'}});"
        " const r = f.querySelector('.drawing svg > rect').getBoundingClientRect();"
        " return [r.left, r.top, r.width, r.height]; })()"
    )
    live.drag((left + 0.15 * width, top + 0.2 * height), (left + 0.3 * width, top + 0.9 * height))
    assert drawing(live, SIZES) != before
    assert f"zoom:{SIZES}=" in live.run("location.hash")
    button = f"document.querySelector('[data-figure={SIZES}] [aria-label^={{}}]')"
    live.run(button.format("Reset") + ".click()")
    assert drawing(live, SIZES) == before
    assert live.run(button.format("Reset") + ".disabled")
    live.run(button.format('"Zoom in"') + ".click()")
    assert drawing(live, SIZES) != before
    for way in ("Zoom out", "Zoom in"):  # as far as numbers go, and no further
        live.run(f"for (let i = 0; i < 90; i++) {button.format(json.dumps(way))}.click()")
        assert "NaN" not in drawing(live, SIZES) and "Infinity" not in drawing(live, SIZES)
    live.run(button.format("Reset") + ".click()")
    assert drawing(live, SIZES) == before and live.complaints == []


def test_points_say_their_exact_values_on_focus_and_arrows_walk_through_them(live: Browser, folder: Path) -> None:
    live.run(f"document.querySelector('[data-figure={SIZES}] .mark[tabindex=\"0\"]').focus()")
    first = live.run("document.getElementById('tip').textContent")
    assert not live.run("document.getElementById('tip').hidden")
    live.key("ArrowRight")
    assert live.run("document.getElementById('tip').textContent") != first
    assert live.run(f"document.querySelectorAll('[data-figure={SIZES}] .mark[tabindex=\"0\"]').length") == 1
    metrics = pd.read_csv(folder / "metrics.csv")
    own = metrics[(metrics["dataset"] == "flights") & (metrics["method"] == "neukron") & (metrics["setting"] == "h8")]
    tips = live.run(f"[...document.querySelectorAll('[data-figure={SIZES}] .mark')].map((m) => m.ariaLabel)")
    tip = next(text for text in tips if text.startswith("NeuKron h8"))
    assert f"{int(own['bytes_equal'].iloc[0]):,} B" in tip
    assert f"{own['relative_error'].mean():.6g}" in tip
    assert "(2 seeds)" in tip
    live.key("Escape")
    assert live.run("document.getElementById('tip').hidden")


def test_tables_sort_and_filter(live: Browser) -> None:
    column = f"[...{TABLE}.querySelectorAll('tbody tr')].map((r) => Number(r.cells[2].dataset.v))"
    live.run(f"{TABLE}.querySelectorAll('.sort')[2].click()")
    rising = live.run(column)
    assert rising == sorted(rising)
    assert len(set(rising)) > 5
    live.run(f"{TABLE}.querySelectorAll('.sort')[2].click()")
    assert live.run(column) == sorted(rising, reverse=True)
    assert live.run(f"{TABLE}.querySelectorAll('th')[2].ariaSort") == "descending"
    board = "document.querySelector('[data-table=reproduction]')"
    published = f"[...{board}.querySelectorAll('tbody tr')].map((r) => r.cells[3].textContent.trim())"
    for _ in ("ascending", "descending"):  # what is not known is last either way
        live.run(f"{board}.querySelectorAll('.sort')[3].click()")
        blank = [text in ("", "\N{EN DASH}") for text in live.run(published)]
        assert any(blank) and not all(blank) and blank == sorted(blank)
    live.run(
        f"(() => {{ const box = {TABLE}.previousElementSibling.querySelector('input'); box.value = 't-svd r4';"
        " box.dispatchEvent(new Event('input')); })()"
    )
    assert live.run(f"[...{TABLE}.querySelectorAll('tbody tr')].map((r) => r.cells[1].textContent)") == ["r4"]
    assert live.run("location.hash").count("compression-flights") == 2


def test_all_runs_are_listed_by_pages(live: Browser, folder: Path) -> None:
    live.run("document.getElementById('all-runs').open = true")
    runs = len(pd.read_csv(folder / "metrics.csv"))
    assert runs <= 50
    holder = "document.querySelector('[data-table=runs]')"
    assert live.run(f"{holder}.querySelectorAll('tbody tr').length") == runs
    assert live.run(f"[...{holder}.previousElementSibling.querySelectorAll('button')].every((b) => b.disabled)")
    commands = live.run(f"[...{holder}.querySelectorAll('code')].map((c) => c.textContent)")
    assert sorted(commands) == sorted(pd.read_csv(folder / "tables" / "runs.csv")["command"])


def test_the_chooser_takes_the_best_that_fits_and_gives_its_command(live: Browser, folder: Path) -> None:
    metrics = pd.read_csv(folder / "metrics.csv")
    columns = ["bytes_equal", "relative_error"]
    own = metrics[metrics["dataset"] == "flights"].groupby(["method", "setting"], as_index=False)[columns].mean()
    answer = "document.getElementById('chosen').textContent"
    choose(live, "choose-data", "flights")
    choose(live, "choose-limit", "4000")
    best = own[own["bytes_equal"] <= 4000].sort_values("relative_error").iloc[0]
    assert (best["method"], best["setting"]) == ("truncation", "k30")
    text = str(live.run(answer))
    assert text.startswith("truncation k30: 3.00 kB")
    assert "kronflow compress data/tensors/flights.parquet flights.truncation.safetensors --method truncation" in text
    assert "--set keep=0.3" in text
    choose(live, "choose-goal", "error")
    choose(live, "choose-limit", "0.25")
    best = own[own["relative_error"] <= 0.25].sort_values("bytes_equal").iloc[0]
    assert str(live.run(answer)).startswith(best["method"])
    choose(live, "choose-limit", "-1")
    assert "No run on flights has at most -1 relative error" in live.run(answer)
    choose(live, "choose-limit", "")
    assert str(live.run(answer)).startswith("Give a limit. The most accurate has")
    assert "goal=error" in live.run("location.hash")


def test_numbers_of_the_page_are_those_of_the_metrics(live: Browser, folder: Path) -> None:
    metrics = pd.read_csv(folder / "metrics.csv")
    columns = ["relative_error", "error", "fitness", "bytes_equal", "bytes_with_order", "bytes"]
    for dataset, name, method, setting in [
        ("flights", "NeuKron", "neukron", "h8"),
        ("flights", "T-SVD", "t-svd", "r16"),
        ("kjv-4gram", "CP", "cp", "r4"),
    ]:
        runs = metrics[
            (metrics["dataset"] == dataset) & (metrics["method"] == method) & (metrics["setting"] == setting)
        ]
        shown = live.run(
            f"[...[...document.querySelectorAll('[data-table=compression-{dataset}] tbody tr')].find((r) =>"
            f" r.cells[0].textContent.trim() === {name!r} && r.cells[1].textContent === {setting!r})"
            ".querySelectorAll('td.number')].map((c) => Number(c.dataset.v))"
        )
        for column, value in zip(columns, shown, strict=False):
            assert value == pytest.approx(runs[column].mean(), rel=1e-12), column


def test_figures_and_tables_go_with_the_page_as_data(live: Browser, folder: Path) -> None:
    links = f"[...document.querySelectorAll('[data-figure={SIZES}] .tools a')]"
    live.run(f"{links}.forEach((a) => a.dispatchEvent(new Event('focus')))")
    svg, table = live.run(f"{links}.map((a) => decodeURIComponent(a.href.split(',').slice(1).join(',')))")
    assert svg.startswith("<svg")
    assert "var(--" not in svg
    own = pd.read_csv(folder / "figures" / f"{SIZES}.csv")
    head, *rows = table.strip().splitlines()
    assert head.startswith("method,setting,seed,")
    assert sorted(row.split(",")[3] for row in rows) == sorted(str(int(value)) for value in own["bytes"])
    link = "document.querySelector('[data-table=reproduction]').previousElementSibling.querySelector('a')"
    live.run(f"{link}.dispatchEvent(new Event('focus'))")
    assert "target%20figure%20or%20table%2Ccase%2Cquantity" in live.run(f"{link}.href")


@pytest.mark.parametrize("width", [688, 710], ids=["A4", "Letter"])
def test_print_cuts_nothing_and_hides_controls(browser: Browser, folder: Path, width: int) -> None:
    browser.look(width, media="print", dark=True)
    browser.open(folder / "report.html")
    hidden = ".tools, .controls, .choose, .command button, .drawer, nav"
    assert browser.run(f"[...document.querySelectorAll('{hidden}')].every((e) => !e.offsetParent)")
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    inside = "[...document.querySelectorAll('figure, tr, thead, .card')].map((f) => getComputedStyle(f).breakInside)"
    assert set(browser.run(inside)) == {"avoid"}
    # a head that holds buttons is not repeated on the next page
    assert set(browser.run("[...document.querySelectorAll('.sort')].map((b) => getComputedStyle(b).display)")) == {
        "contents"
    }
    words = browser.run(
        "[...document.querySelectorAll('main :not(sup)')].filter((e) => e.offsetParent &&"
        " [...e.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim()))"
        ".map((e) => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(words) >= 6 * 96 / 72
    rows = "[...document.querySelectorAll('[data-table=reproduction] tbody tr')].filter((r) => r.offsetParent)"
    verdicts = browser.run(f"{rows}.map((r) => r.cells[6].textContent)")
    assert "not at hand" in verdicts
    assert "ours alone" not in verdicts
    assert browser.run("document.querySelector('.on-paper').checkVisibility()")


def test_figures_are_drawn_anew_for_paper_and_back(live: Browser) -> None:
    widths = "[...document.querySelectorAll('figure:not([hidden]) .drawing svg')].map((s) => s.viewBox.baseVal.width)"
    notes = "[...document.querySelectorAll('details.notes')].map((d) => d.open)"
    before = live.run(widths)
    live.run("dispatchEvent(new Event('beforeprint'))")
    # their words are 12 px high; a column of two is 312 px wide on A4
    assert set(live.run(widths)) <= {312, 388, 660}
    assert all(live.run(notes))
    live.run("dispatchEvent(new Event('afterprint'))")
    assert live.run(widths) == before
    assert not any(live.run(notes))


def test_the_page_about_a_data_set_fits_a_phone_in_both_schemes(browser: Browser, tmp_path: Path) -> None:
    coords = np.stack(np.meshgrid(np.arange(9), np.arange(7), np.arange(3)), axis=-1).reshape(-1, 3)
    tensor = SparseTensor(coords, 1.0 + coords.sum(axis=1) ** 3, (9, 7, 3))
    tensor.write_parquet(tmp_path / "cubes.parquet")
    describe.main([str(tmp_path / "cubes.parquet"), str(tmp_path / "cubes.html")])
    grounds = set()
    for dark in (False, True):
        browser.look(390, 800, dark=dark)
        browser.open(tmp_path / "cubes.html")
        assert browser.run("document.documentElement.scrollWidth") <= 390
        grounds.add(browser.run("getComputedStyle(document.body).backgroundColor"))
        sizes = browser.run(
            "[...document.querySelectorAll('svg text')].map((t) =>"
            " parseFloat(getComputedStyle(t).fontSize) * Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b))"
        )
        assert min(sizes) >= 11
        assert browser.complaints == []
    assert len(grounds) == 2
