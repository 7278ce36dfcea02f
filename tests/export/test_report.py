from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kernelmill.export import charts
from kernelmill.export.folding import fold
from kernelmill.export.report import Report, render, write_report
from kernelmill.export.words import bounded, duration, headline, is_gain, times
from kernelmill.schema import Candidate, Interval, Measured, Proposed
from tests.export import stories, winners

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">&"\'{{ 7 * 7 }}</svg></pre>'


class Tags(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "link", "circle", "line", "rect", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("circle", "line", "rect", "path"):
            assert self.open.pop() == tag


def test_the_headline_names_the_hardest_baseline_first_then_the_others_and_the_limit() -> None:
    assert headline(winners.passed()) == (
        "2.9x [2.8, 3.0] faster than torch.compile, 4.1x than eager; 71 % of this machine's memory roofline"
    )


def test_less_than_five_percent_is_no_gain_and_says_so() -> None:
    close = winners.passed(ratio=1.06)
    assert not is_gain(close)
    assert headline(close).startswith("No gain: 1.06x")
    assert headline(None) == "No candidate passed; the reference stays."


@pytest.mark.parametrize(("ratio", "text"), [(0.94, "0.94x"), (1.04, "1.04x"), (2.94, "2.9x"), (140.2, "140x")])
def test_a_ratio_is_written_as_people_read_it(ratio: float, text: str) -> None:
    assert times(ratio) == text


def test_times_and_intervals_are_written_with_units() -> None:
    assert [duration(v) for v in (0.5, 840.2, 1240.0, 2.1e6)] == ["0.5 us", "840 us", "1.24 ms", "2.1 s"]
    assert bounded(Interval(ratio=2, low=1.5, high=2.5, pairs=3)) == "2.0x [1.5, 2.5]"


def test_the_report_of_a_gain_tells_the_whole_story_without_the_network(tmp_path: Path) -> None:
    text = render(stories.gain(tmp_path))
    tags = Tags(text)
    assert not tags.open
    assert "script" not in tags.seen
    assert not [v for k, v in tags.attributes if k in ("src", "href") and not (v or "").startswith("data:")]
    assert "http://" not in text
    assert "https://" not in text
    for expected in (
        headline(winners.passed()),
        "held-out R=7, C=33",
        "guard: user net ipc landlock seccomp",
        "aten.convolution.default",
        "reject by dedup",
        "lost",
        "with an algorithmic rewrite",
        "2 dropped as contaminated",
        "kernelmill resume 2026-affine-7f3a",
        "extern &#34;C&#34; void kernel",
    ):
        assert expected.replace("'", "&#39;") in text, expected
    labels = [v for k, v in tags.attributes if k == "aria-label"]
    assert tags.seen.count("svg") == len([v for v in labels if v and v.endswith(".")])


def test_the_report_of_no_gain_says_keep_the_reference(tmp_path: Path) -> None:
    text = render(stories.no_gain(tmp_path))
    assert "No gain: 1.01x [0.98, 1.04] against torch.compile" in text
    assert "Keep the reference" in text


def test_the_report_of_a_run_without_a_passing_candidate_shows_why_each_failed(tmp_path: Path) -> None:
    text = render(stories.nothing(tmp_path))
    assert "No candidate passed" in text
    assert "was not declared in this scope" in text


def test_an_unpromoted_best_is_called_so(tmp_path: Path) -> None:
    task = winners.affine(tmp_path).task
    report = Report(task=task, run=stories.run_info(), events=stories.events([1.5, 2.0], promoted=False))
    assert "Not promoted:" in render(report)


def test_hostile_text_is_shown_and_never_acted_on(tmp_path: Path) -> None:
    base = stories.gain(tmp_path)
    task = base.task.model_copy(update={"name": HOSTILE, "source": HOSTILE, "doc": HOSTILE})
    log = [
        e.model_copy(update={"candidate": e.candidate.model_copy(update={"note": HOSTILE})})
        if isinstance(e, Proposed)
        else e
        for e in base.events
    ]
    result = winners.passed().results[0]
    result = result.model_copy(
        update={
            "workload": HOSTILE,
            "profile": {HOSTILE: 1.0},
            "comparisons": tuple(c.model_copy(update={"baseline": HOSTILE + c.baseline}) for c in result.comparisons),
        }
    )
    promotion = winners.passed().model_copy(update={"results": (result, result), "labels": (HOSTILE,)})
    winner = Candidate(language=HOSTILE, source=HOSTILE, point={"k": HOSTILE})
    run = base.run.model_copy(update={"id": HOSTILE, "environment": {HOSTILE: HOSTILE}, "task_path": HOSTILE})
    text = render(Report(task, run, log, winner, promotion, commands={HOSTILE: HOSTILE}))
    tags = Tags(text)
    assert not tags.open
    assert not {"script", "img"} & set(tags.seen)
    assert not [k for k, _ in tags.attributes if k.startswith("on")]
    assert "49" not in re.findall(r"(?<=\{\{ )\d+|\d+(?= \}\})", text)
    assert "{{ 7 * 7 }}" in text


def test_folding_keeps_the_deepest_pass_and_counts_the_lost() -> None:
    story = fold(stories.events([1.2, 1.5, None, 2.1, 1.9, 2.0, 2.9, 2.5]))
    trial = next(t for t in story.trials.values() if t.ratio is not None)
    shallow = Measured(candidate=trial.candidate.id, level="screening", evaluation=winners.passed(ratio=9.0))
    again = fold([*stories.events([1.2]), shallow.model_copy(update={"evaluation": _level("screening")})])
    assert next(iter(again.trials.values())).ratio == pytest.approx(1.2)
    assert story.lost == 1
    assert story.promoted is not None
    assert story.promoted.ratio == pytest.approx(2.9)
    assert {t.outcome for t in story.trials.values()} == {"passed", "build", "reject by dedup", "lost"}


def _level(level: str) -> object:
    return winners.passed(ratio=9.0).model_copy(update={"level": level})


@pytest.mark.parametrize("ratios", [[1.0], [0.001, 900.0], [1.3, 1.3], [5.0]])
def test_charts_draw_any_range_inside_their_frame(ratios: list[float]) -> None:
    drawn = charts.progress([charts.Point(i + 1, r, "a", True) for i, r in enumerate(ratios)], "trial")
    drawn += charts.intervals([charts.Row("b", r, r * 0.9, r * 1.1) for r in ratios])
    for value in re.findall(r'c[xy]="([-\d.]+)"', drawn):
        assert 0 <= float(value) <= charts.WIDTH


def test_a_lineage_with_a_missing_or_circular_parent_is_still_drawn() -> None:
    drawn = charts.lineage({"a": "gone", "b": "a", "c": "d", "d": "c"}, "c", {"a": 1.0})
    assert drawn.count("<circle") == 4


@pytest.mark.browser
def test_a_browser_shows_the_headline_and_has_nothing_to_complain_about(tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("needs chromium")
    write_report(tmp_path / "report.html", stories.gain(tmp_path))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 800})
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.goto((tmp_path / "report.html").as_uri())
        assert "2.9x [2.8, 3.0] faster than torch.compile" in page.inner_text("h1")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        browser.close()
    assert complaints == []
