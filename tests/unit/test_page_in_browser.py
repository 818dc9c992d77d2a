"""The page in a real browser: a step is chosen, by mouse and keyboard, and its state read."""

import pytest
from browser import BROWSER, DRIVER, Browser
from test_picture import states
from test_report_html import PAYLOAD, poisoned, result

from spfreplay.report.html import page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BROWSER and DRIVER),
        reason="needs a browser: apt-get install chromium chromium-driver",
    ),
]

DASH = "\u2013"
#: the state that the page shows: cell -> (before, after)
READ_STATE = """
return [...document.querySelectorAll(arguments[0] + " .state tr[data-cell]")]
    .map(row => [row.dataset.cell, row.cells[1].textContent, row.cells[2].textContent,
                 row.className]);
"""


@pytest.fixture(scope="module")
def browser():
    started = Browser()
    yield started
    started.close()


@pytest.fixture
def show(browser, tmp_path):
    def opened(results, at=""):
        path = tmp_path / "page.html"
        path.write_text(page(results), encoding="utf-8")
        browser.open("about:blank")
        browser.complaints()
        browser.requests()
        browser.open(f"{path.as_uri()}{at}")
        return browser

    return opened


@pytest.fixture(scope="module")
def race():
    return result().orders.races[0]


def expected(picture, number):
    """What the page must show of a step, from the picture itself."""
    before, after = states(picture)[number : number + 2]
    return {
        "/".join(cell): (before[cell] or DASH, after[cell] or DASH, before[cell] != after[cell])
        for cell in picture.cells
        if (before[cell] or after[cell]) and cell.name != "content"  # told in other words
    }


def shown(browser, where="#t0r0"):
    return {
        cell: (before, after, "changed" in kind)
        for cell, before, after, kind in browser.run(READ_STATE, where)
        if not cell.endswith("/content")
    }


def test_a_click_on_a_step_shows_the_state_before_and_after_it(show, race):
    browser = show([result()])
    picture = race.picture
    written = [
        each.step.number
        for each in picture.steps
        if each.matters and each.changes and each.step.kind in ("WRITE", "LOCK", "RMW")
    ]
    assert written
    for number in written:
        browser.click(f'#t0r0 tr[data-step="{number}"] .step')
        assert shown(browser) == expected(picture, number)
        assert any(changed for _, _, changed in shown(browser).values())
    assert f"Step {written[-1]} " in browser.text("#t0r0 .state h4")


def test_the_keyboard_goes_from_step_to_step(show, race):
    browser = show([result()])
    steps = [each.step.number for each in race.picture.steps if each.matters]
    browser.click(f'#t0r0 tr[data-step="{steps[0]}"] .step')
    browser.press("ArrowDown", "ArrowDown", "ArrowUp")
    assert browser.run("return location.hash") == f"#t0r0s{steps[1]}"
    assert shown(browser) == expected(race.picture, steps[1])
    focused = browser.run("return document.activeElement.closest('tr').dataset.step")
    assert focused == str(steps[1])


def test_all_steps_are_shown_on_demand_and_can_be_chosen(show, race):
    browser = show([result()])
    count = "return [...document.querySelectorAll('#t0r0 tr[data-step]')]"
    visible = f"{count}.filter(row => row.offsetParent !== null).length"
    few = sum(each.matters for each in race.picture.steps)
    assert browser.run(visible) == few
    browser.click("#t0r0 .everything")
    assert browser.run(visible) == len(race.picture.steps) > few
    minor = next(each.step.number for each in race.picture.steps if not each.matters)
    browser.click(f'#t0r0 tr[data-step="{minor}"] .step')
    assert shown(browser) == expected(race.picture, minor)


def test_an_address_with_a_step_opens_there(show, race):
    number = race.told.decisive[1]
    browser = show([result()], f"#t0r0s{number}")
    assert f"Step {number} " in browser.text("#t0r0 .state h4")


def test_the_deciding_pair_is_shown_at_first(show, race):
    browser = show([result()])
    assert f"Step {race.told.decisive[0]} " in browser.text("#t0r0 .state h4")
    browser.click("#t0r0 .decide")
    assert f"Step {race.told.decisive[1]} " in browser.text("#t0r0 .state h4")


def test_of_a_long_execution_the_steps_keep_their_numbers(show, monkeypatch):
    monkeypatch.setattr("spfreplay.engines.picturing._DRAWN", 20)
    found = result.__wrapped__()
    picture = found.orders.races[0].picture
    browser = show([found])
    assert f"The first {picture.skipped} steps are left out" in browser.text("#t0r0 .play")
    browser.click("#t0r0 .everything")
    number = picture.steps[7].step.number
    browser.click(f'#t0r0 tr[data-step="{number}"] .step')
    assert f"Step {number} " in browser.text("#t0r0 .state h4")
    assert shown(browser) == expected(picture, 7)


def test_nothing_is_fetched_and_nothing_complained_of(show):
    browser = show([result(), result("fault-read-read"), result("mremap-source-fault")])
    asked = [address for address in browser.requests() if not address.startswith("data:")]
    assert len(asked) == 1 and asked[0].endswith("/page.html")
    assert browser.complaints() == []


def test_names_that_bite_do_nothing(show):
    browser = show([poisoned(result())])
    alien = "return document.querySelectorAll('img, svg[onload], iframe, [onerror]').length"
    assert browser.run(alien) == 0
    assert browser.requests()[1:] == []
    assert PAYLOAD[:9] in browser.text("h1, .about")
    assert PAYLOAD[:60] in browser.run("return document.title")
    browser.click("#t0r0 .on")
    assert browser.run("return document.querySelectorAll('.state img').length") == 0


@pytest.mark.parametrize("width", [1500, 900, 420])
def test_nothing_is_wider_than_the_window(show, width):
    browser = show([result()])
    browser._ask("POST", f"{browser.session}/window/rect", {"width": width, "height": 900})
    wide, room = browser.run(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    browser._ask("POST", f"{browser.session}/window/rect", {"width": 1500, "height": 1000})
    assert wide <= room


#: contrast of every text against what is behind it, by the formula of WCAG 2.2
CONTRAST = """
const parse = text => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
const behind = node => {
  for (; node; node = node.parentElement) {
    const colour = parse(getComputedStyle(node).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const found = [];
for (const node of document.querySelectorAll("body *")) {
  if (node.closest("svg") || node.offsetParent === null) continue;
  if (![...node.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
  const style = getComputedStyle(node);
  const [a, b] = [light(parse(style.color)), light(behind(node))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) found.push([node.tagName, node.className, ratio]);
}
return found;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_light_and_dark(show, browser, scheme):
    media = {"media": "", "features": [{"name": "prefers-color-scheme", "value": scheme}]}
    command = {"cmd": "Emulation.setEmulatedMedia", "params": media}
    browser._ask("POST", f"{browser.session}/goog/cdp/execute", command)
    show([result()])
    background = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(252, 251, 248)") == (scheme == "light")
    assert browser.run(CONTRAST) == []


def test_without_scripts_all_steps_are_there(tmp_path, race):
    path = tmp_path / "page.html"
    path.write_text(page([result()]), encoding="utf-8")
    plain = Browser(script=False)
    try:
        plain.open(path.as_uri())
        text = plain.text("#t0r0 .cpus")
    finally:
        plain.close()
    for each in race.picture.steps:
        assert f"{each.step.kind} {each.step.cell}" in text
