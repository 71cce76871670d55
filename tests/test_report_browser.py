"""The page in a browser: it fits every screen, answers to pointer and keyboard, asks for nothing, and prints."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache

import pytest

from mlc.gating import gate
from mlc.report import gate as gate_page
from mlc.report import html, side_by_side
from tests.report_sample import sample, validated
from tests.test_report_page import large

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), "")

pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine, by any of its names")

TRIED = """
const answer = {};
const settle = () => new Promise((done) => setTimeout(done, 30));
const centre = (shape) => {
  const box = shape.getBoundingClientRect();
  return { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, bubbles: true };
};
const tip = () => document.querySelector(".tip");
const said = () => (tip().hidden ? null : tip().innerText);
async function run() {
  const page = document.documentElement;
  answer.width = innerWidth;
  answer.overflow = page.scrollWidth - page.clientWidth;
  answer.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
  answer.background = getComputedStyle(document.body).backgroundColor;
  for (const theme of ["light", "dark"]) {
    document.getElementById(theme).checked = true;
    answer[theme] = getComputedStyle(document.body).backgroundColor;
  }
  document.getElementById("auto").checked = true;
  for (const svg of document.querySelectorAll("figure svg")) {
    svg.scrollIntoView({ block: "center", behavior: "instant" });
    const mark = [...svg.querySelectorAll("g > circle, g > rect")].find((shape) => shape.getBoundingClientRect().width);
    svg.dispatchEvent(new PointerEvent("pointermove", centre(mark)));
    const pointed = said();
    const box = tip().getBoundingClientRect();
    const inside = box.left >= 0 && box.right <= page.clientWidth;
    svg.dispatchEvent(new PointerEvent("pointerleave"));
    const left = said();
    svg.focus({ preventScroll: true });
    const focused = said();
    svg.blur();
    svg.dispatchEvent(new PointerEvent("pointerdown", { ...centre(mark), pointerType: "touch" }));
    const tapped = said();
    svg.dispatchEvent(new KeyboardEvent("keydown", { key: "Home", bubbles: true }));
    const first = said();
    svg.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
    const second = said();
    svg.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
    const escaped = said();
    (answer.plots ??= []).push({ pointed, inside, left, focused, tapped, first, second, escaped, focus: svg.tabIndex });
  }
  const rows = (table) => [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[0].innerText);
  const sorted = document.querySelector("#operators table[data-sort]");
  if (sorted) {
    const heading = sorted.tHead.rows[0].cells[2];
    answer.unsorted = rows(sorted);
    heading.querySelector("button").click();
    answer.falling = [rows(sorted), heading.ariaSort];
    heading.querySelector("button").click();
    answer.rising = [rows(sorted), heading.ariaSort];
  }
  const plan = document.querySelector("#plan .filter input");
  if (plan) {
    plan.value = answer.wanted = document.querySelector("#plan .group:nth-of-type(2) code").textContent;
    plan.dispatchEvent(new Event("input"));
    const open = [...document.querySelectorAll("#plan .group")].filter((group) => !group.hidden);
    answer.found = open.map((group) => [group.open, group.querySelectorAll("li:not([hidden])").length]);
    answer.count = document.querySelector("#plan .filter .note").textContent;
  }
  const folded = () => document.querySelectorAll("details:not([open])").length;
  answer.folded = [folded()];
  dispatchEvent(new Event("beforeprint"));
  answer.folded.push(folded());
  dispatchEvent(new Event("afterprint"));
  answer.folded.push(folded());
}
addEventListener("load", () =>
  run().catch((error) => (answer.error = String(error))).finally(() => parent.postMessage(JSON.stringify(answer), "*")),
);
"""
"""What a reader does, in a copy of the page whose policy lets this script run too."""


FRAME = """<!DOCTYPE html><body><script>
addEventListener("message", (event) => {
  document.body.append(Object.assign(document.createElement("pre"), { id: "answer", textContent: event.data }));
});
</script><iframe src="tried.html" style="border: 0; width: %dpx; height: 900px"></iframe></body>"""
"""A screen of any width: a window of the browser's own has a least one."""


def browse(folder, page, *flags):
    """Open a page without a screen; return what the browser wrote to stdout and stderr."""
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    usual = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking",
        f"--user-data-dir={folder}/browser", "--virtual-time-budget=4000", "--enable-logging=stderr", "--no-first-run",
    ]  # fmt: skip
    done = subprocess.run(
        [*usual, *flags, file.as_uri()], capture_output=True, text=True, timeout=90, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr


def tried(folder, page, width=1280, *flags):
    """Let a reader try a copy of the page; return what was seen."""
    without = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    copy = without.replace("</body>", f"<script>{TRIED}</script></body>")
    (folder / "tried.html").write_text(copy, encoding="utf-8")
    out, _ = browse(folder, FRAME % width, "--window-size=1400,1000", "--dump-dom", *flags)
    found = re.search(r'<pre id="answer">(.*?)</pre>', out, re.DOTALL)
    assert found, out[-2000:]
    answer = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert "error" not in answer, answer["error"]
    return answer


PAGES = {
    "report": lambda: html.render(sample()),
    "validation": lambda: html.render(validated()),
    "gate": lambda: html.render_sheet(gate_page.sheet(gate(sample(), sample(), ("a/" + "long" * 30, "b")))),
    "side by side": lambda: html.render_sheet(
        side_by_side.sheet(side_by_side.compare_runs(["a", "b"], [sample(), validated()]))
    ),
}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Return a function that says what a reader sees on a page at a width; each is tried once."""
    return cache(lambda name, width: tried(tmp_path_factory.mktemp("page"), PAGES[name](), width))


@pytest.fixture
def desk(reader):
    """Return what a reader of the report sees at a desk."""
    return reader("report", 1280)


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_the_screen(reader, name, width):
    seen = reader(name, width)
    assert (seen["width"], seen["overflow"], seen["requests"]) == (width, 0, [])
    assert all(plot["inside"] for plot in seen.get("plots", []))


@pytest.mark.parametrize("name", ["report", "gate"])
def test_the_page_as_it_is_runs_its_script_and_complains_of_nothing(tmp_path, name):
    out, err = browse(tmp_path, PAGES[name](), "--dump-dom")
    assert '<div class="tip"' in out
    assert "CONSOLE" not in err, err


def test_plots_answer_to_pointer_finger_and_keyboard(desk):
    drop, noise, int8, exact, operators, layers = desk["plots"]
    for plot in desk["plots"]:
        assert (plot["left"], plot["escaped"], plot["focus"]) == (None, None, 0)
        assert plot["pointed"]
        assert plot["focused"] == plot["pointed"]
        assert plot["tapped"] == plot["pointed"]
        assert plot["first"] != plot["second"] or plot is drop
    assert drop["pointed"].startswith("loss of top1: 0.0015 (-0.0006 to 0.0036)")
    assert re.match(
        r"process \d, round \d+: 2\.\d+x\nint8-static: 2.41 \(2.35 to 2.47\) times as fast", int8["pointed"]
    )
    assert "noise 0.986 to 1.017" in noise["pointed"]
    assert "exact" in exact["pointed"]
    assert re.match(r"\w+, (int8-static \(written\)|unmodified export): \S+ ms in \d+ node", operators["pointed"])
    assert layers["first"].startswith("stem (Conv): equal")


def test_the_colours_follow_the_system_and_the_switch(tmp_path, desk):
    dark = tried(tmp_path, PAGES["report"](), 1280, "--blink-settings=preferredColorScheme=0")
    assert desk["background"] == desk["light"] == dark["light"] == "rgb(255, 255, 255)"
    assert dark["background"] == dark["dark"] == desk["dark"] != desk["light"]


def test_tables_sort_by_value_and_keep_their_total(desk):
    times = ["Conv", "Relu", "Gemm", "GlobalAveragePool", "QLinearConv", "QLinearAdd", "QuantizeLinear"]
    assert desk["falling"] == [times, "descending"]
    assert sorted(desk["unsorted"]) == sorted(times)
    assert desk["rising"][0][-1] == "Conv"
    assert desk["rising"][1] == "ascending"


def test_a_filter_opens_the_groups_that_hold_what_was_typed(desk):
    assert desk["found"] == [[True, 1]]
    assert desk["count"] == "1 of 12"


def test_all_that_is_folded_is_printed(desk, tmp_path):
    before, printing, after = desk["folded"]
    assert printing == 0
    assert before == after > 0
    browse(tmp_path, PAGES["report"](), f"--print-to-pdf={tmp_path}/page.pdf")
    content = (tmp_path / "page.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) > 3


def test_a_large_network_is_a_page_like_any_other(tmp_path):
    seen = tried(tmp_path, html.render(large(sample())), 360)
    assert seen["overflow"] == 0
    assert seen["count"] == "1 of 3,000"
