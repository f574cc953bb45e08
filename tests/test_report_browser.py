"""The report in a real browser: nothing is loaded, and everything answers."""

import re

import numpy as np
import pytest
from PIL import Image

import featpipe

pytest.importorskip("bokeh", reason="the extra `report` is not installed")
browser = pytest.importorskip("browser", reason="tornado is not installed")

pytestmark = pytest.mark.skipif(
    browser.executable() is None, reason="there is no Chromium to drive"
)

# Where point i of the map is on the screen, whatever the figure's ranges are.
WHERE = """(() => {
  const plot = Object.values(Bokeh.index.roots ? Bokeh.index.roots : Bokeh.index)[0];
  const box = document.querySelector('#plot .bk-Figure').getBoundingClientRect();
  const source = Bokeh.documents[0].get_model_by_name('points');
  const frame = plot.frame;
  const x = frame.x_scale.compute(source.data.x[%d]);
  const y = frame.y_scale.compute(source.data.y[%d]);
  return [box.left + x, box.top + y];
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of forty real images, open in a browser."""
    folder = tmp_path_factory.mktemp("browser")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 16)):
        for k in range(count):
            name = ("<b>red</b>", "blue 🐝")[k % 2]
            pixels = rng.integers(0, 90, (24, 24, 3), dtype=np.uint8)
            pixels[..., 0 if k % 2 == 0 else 2] += 120
            path = folder / "images" / split / name.replace("/", "∕") / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    codes = featpipe.extract(folder / "images", folder / "codes.h5", backbone="mini")
    comparison = featpipe.compare(codes, classifiers=["logistic"])
    made = featpipe.report.make_report(codes, comparison.scores)
    made.write(folder / "report.html")
    try:
        opened = browser.Page(folder / "profile")
    except browser.BrowserError as err:
        pytest.skip(str(err))
    try:
        opened.open(folder / "report.html")
        opened.wait("!!window.Bokeh && Bokeh.documents.length === 1")
        opened.wait("document.querySelector('#plot .bk-Figure') !== null")
        yield opened
    finally:
        opened.close()


def test_nothing_is_loaded_and_nothing_goes_wrong(page):
    page.wait("!!document.querySelector('.pic')")
    assert page.problems == []
    outside = [url for url in page.requests if not url.startswith(("file:", "data:"))]
    assert outside == []


def test_hovering_shows_the_picture_and_its_labels(page):
    page.run("document.querySelector('#plot').scrollIntoView({block: 'center'})")
    x, y = page.run(WHERE.replace("%d", "7"))
    page.move_mouse(x - 40, y - 40)
    page.move_mouse(x, y)
    page.wait("document.querySelector('#seen .pic') !== null", 20)
    shown = int(page.run("document.querySelector('#seen').dataset.index"))
    path = page.run("JSON.parse(document.querySelector('#data').textContent)")["path"]
    assert path[shown] in page.run("document.querySelector('#seen').innerText")
    style = page.run(
        "getComputedStyle(document.querySelector('#seen .pic')).backgroundImage"
    )
    assert style.startswith('url("data:image/webp')
    # The sheet decodes, and what is shown of it is not blank.
    size = page.run(
        "new Promise(done => { const image = new Image();"
        "image.onload = () => done([image.naturalWidth, image.naturalHeight]);"
        "image.onerror = () => done(null);"
        "image.src = getComputedStyle(document.querySelector('#seen .pic'))"
        ".backgroundImage.slice(5, -2); })"
    )
    assert size
    assert size[0] % 96 == 0


def test_the_filter_hides_the_others(page):
    page.run("document.querySelector('#by-class').value = '0'")
    page.run("document.querySelector('#by-class').dispatchEvent(new Event('change'))")
    kept = page.run("Bokeh.documents[0].get_model_by_name('shown').booleans")
    group = page.run("JSON.parse(document.querySelector('#data').textContent).group")
    assert kept == [own == 0 for own in group]
    assert page.run("document.querySelector('#count').textContent") == (
        f"{sum(kept)} of 40 images"
    )
    page.run("document.querySelector('#by-right').value = 'wrong'")
    page.run("document.querySelector('#by-right').dispatchEvent(new Event('change'))")
    data = page.run("JSON.parse(document.querySelector('#data').textContent)")
    wrong = [g == 0 and p != g
             for g, p in zip(group, data["predicted"], strict=True)]  # fmt: skip
    assert page.run("Bokeh.documents[0].get_model_by_name('shown').booleans") == wrong
    for name in ("by-class", "by-right"):
        page.run(f"document.querySelector('#{name}').value = ''")
    page.run("document.querySelector('#by-class').dispatchEvent(new Event('change'))")


def test_the_keyboard_reaches_everything(page):
    page.run("document.activeElement.blur()")
    page.run("window.scrollTo(0, 0)")
    reached = []
    for _ in range(60):
        page.press("Tab", 9)
        reached.append(
            page.run("document.activeElement.id || document.activeElement.tagName")
        )
        if reached[-1] == "plot":
            break
    assert {"A", "by-class", "by-right", "before", "next", "plot"} <= set(reached)
    page.press("ArrowRight", 39)
    first = page.run("document.querySelector('#seen').dataset.index")
    page.press("ArrowRight", 39)
    assert page.run("document.querySelector('#seen').dataset.index") != first


CONTRAST = """(() => {
  const style = getComputedStyle(document.documentElement);
  return ['ink', 'quiet', 'accent', 'bad'].map(name =>
    ['paper', 'panel'].map(ground => [style.getPropertyValue('--' + name).trim(),
      style.getPropertyValue('--' + ground).trim()])).flat();
})()"""


def luminance(colour):
    digits = re.fullmatch("#(..)(..)(..)", colour)
    channels = [int(pair, 16) / 255 for pair in digits.groups()]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
              for c in channels]  # fmt: skip
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(page, scheme):
    page.send(
        "Emulation.setEmulatedMedia",
        features=[{"name": "prefers-color-scheme", "value": scheme}],
    )
    for ink, ground in page.run(CONTRAST):
        bright, dark = sorted([luminance(ink), luminance(ground)], reverse=True)
        # WCAG 2.1 AA, 1.4.3
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, (scheme, ink, ground)


@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_is_no_wider_than_the_screen(page, width):
    page.size(width, 900)
    page.wait(f"window.innerWidth === {width}")
    assert page.run("document.documentElement.scrollWidth") <= width
    page.size(1400, 1000)


def test_names_are_not_markup(page):
    assert page.run("document.querySelector('main b, header b') === null") or page.run(
        "[...document.querySelectorAll('main b')].every(b => b.textContent === '')"
    )
    assert "<b>red<∕b>" in page.run("document.body.innerText")
