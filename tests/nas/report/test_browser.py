"""The pages that people look at, in a real browser: TensorBoard's on a real run, and reports, narrow and wide, light and dark.

Screenshots go to the folder that the environment variable NAS_SCREENSHOTS names, if any.
"""

import json
import os
import shutil
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

import nas
from nas.drawing import Picture, architecture_picture, distribution_pictures, draw_cuts, probability_picture
from nas.genotype import Genotype
from nas.report.curves import curve_pictures
from nas.report.html import gallery, page
from nas.report.tensorboard import HOST, free_port, serve
from search_spaces.darts import DARTS_V2, Darts

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install -e '.[dev]'")
pytestmark = [
    pytest.mark.integrations,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="chromium and chromedriver are not installed (Debian: chromium-driver)",
    ),
]
OPTIONS = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-sync"


@pytest.fixture(scope="module")
def browser():
    from selenium.webdriver import Chrome
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM
    for word in [*OPTIONS.split(), "disable-component-update", "window-size=1400,1100"]:
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def keep(browser, name):
    if folder := os.environ.get("NAS_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def wait(condition, what, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except OSError:
            pass
        time.sleep(0.25)
    raise AssertionError(f"{what}: not there after {seconds} s")


def errors(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def run(original):
    return original


@contextmanager
def serving(run):
    """The address of TensorBoard on a run."""
    port = free_port()
    process = serve(run, port)
    address = f"http://{HOST}:{port}"
    try:
        wait(lambda: urllib.request.urlopen(f"{address}/data/plugins_listing").read(), "TensorBoard")
        wait(lambda: json.loads(urllib.request.urlopen(f"{address}/data/runs").read()), "the run")
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def served(run):
    with serving(run) as address:
        yield address


# what must be drawn: a script that counts it in the page and its shadow trees, and how many there must be at least
SEEN = """
    const all = [];
    const walk = root => { for (const node of root.querySelectorAll('*')) {
        all.push(node); if (node.shadowRoot) walk(node.shadowRoot); } };
    walk(document);
"""
PAGES = {
    "scalars": (
        "return all.filter(n => n.tagName === 'path' && n.closest('svg') && n.getAttribute('d')?.length > 20).length",
        3,
    ),
    "custom_scalars": ("return all.filter(n => n.tagName === 'path' && n.getAttribute('d')?.length > 20).length", 5),
    "images": ("return all.filter(n => n.tagName === 'IMG' && n.complete && n.naturalWidth > 100).length", 2),
    "histograms": ("return all.filter(n => n.tagName === 'path' && n.getAttribute('d')?.length > 20).length", 1),
    "hparams": ("return all.filter(n => n.textContent?.includes('final/arch_accuracy')).length", 1),
    "text": ("return all.filter(n => n.tagName === 'TABLE' || n.tagName === 'PRE').length", 2),
}


def look_at(browser, address, page, name):
    count, least = PAGES[page]
    browser.get_log("browser")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(f"{address}/#{page}")
    browser.refresh()
    wait(lambda: browser.execute_script(SEEN + count) >= least, f"what {page} shows")
    keep(browser, name)
    assert not errors(browser)


@pytest.mark.parametrize("page", PAGES)
def test_tensorboard_draws(browser, served, page):
    look_at(browser, served, page, f"tensorboard_{page}")


def test_a_run_of_own_training_code_has_scalars_and_pictures(browser, tmp_path, recwarn):
    choices = [nas.choice(name, {"plain": nn.ReLU, "smooth": nn.Tanh}) for name in ("a", "b")]
    searcher = nas.Searcher(nn.Sequential(nn.Linear(3, 4), *choices), num_steps=4, out=tmp_path / "run")
    for _ in range(4):
        searcher.arch_step(lambda: searcher.network(torch.ones(2, 3)).square().mean())
        with searcher.sampled():
            searcher.network(torch.ones(2, 3))
    searcher.finish()
    with serving(tmp_path / "run") as address:
        for page in ("scalars", "images"):
            look_at(browser, address, page, f"own_{page}")
        empty = "return all.filter(n => n.textContent?.trim() === 'Matches (0)').length"
        look_at(browser, address, "custom_scalars", "own_custom_scalars")
        wait(lambda: browser.execute_script(SEEN + empty) == 0, "lines in every chart")


def test_all_pictures_are_kept(run_cli, config, tmp_path):
    assert run_cli("search", "--config", config({"trainer.num_images": 10}), "--out", "run").code == 0
    with serving(tmp_path / "run") as served:
        address = f"{served}/data/plugin/images/images?run=.&tag=search/architecture&sample=0"
        wait(lambda: len(json.loads(urllib.request.urlopen(address).read())) == 3, "a picture of each epoch")


def show(browser, path, width, scheme="light"):
    """Opens a page in a window of that width."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    screen = {"width": width, "height": 1100, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get_log("browser")
    browser.get(path.as_uri())


TEXTS = """return [...document.querySelectorAll('svg')].flatMap(svg =>
    [...svg.querySelectorAll('text, tspan')].filter(text => text.textContent.trim()).map(text => {
        const matrix = text.getScreenCTM();
        const [box, whole] = [text.getBoundingClientRect(), svg.getBoundingClientRect()];
        const out = Math.max(whole.left - box.left, box.right - whole.right, whole.top - box.top, box.bottom - whole.bottom);
        return [parseFloat(getComputedStyle(text).fontSize) * Math.hypot(matrix.a, matrix.b), text.textContent, out];
    }))"""
"""For each text of a picture: its size in CSS pixels, the text, and how many pixels of it lie outside the picture."""


def smallest_text(browser):
    texts = browser.execute_script(TEXTS)
    assert not [text for text in texts if text[2] > 1]
    return min(texts)[0]


def large_pictures():
    """Pictures of large searches: cells of DARTS, 20 and 70 choices, 150 candidates, ten architectures, 200 scores, 130 cuts."""
    space = Darts()
    cells = space.parse_genotype(DARTS_V2)
    yield architecture_picture(cells, space.cells(cells.choices))
    labels = {f"separable_conv_{i}x{i}": 0.2 for i in (1, 3, 5, 7, 9)}
    for num in (20, 70):
        names = [f"encoder.layer.{i}.attention.self.heads" for i in range(num)]
        found = Genotype(dict.fromkeys(names, "separable_conv_3x3"), probabilities=dict.fromkeys(names, labels))
        moments = [
            (s, {f"choice/{n}/{label}": p * (s + 1) / 5000 for n in names for label, p in labels.items()})
            for s in range(0, 5000, 50)
        ]
        yield from (architecture_picture(found, {}), probability_picture(moments, found))
        ten = [{**found.choices, names[i]: "separable_conv_9x9"} for i in range(10)]
        listed = [
            {"batch": s, "most_probable": [{"choices": c, "probability": s / 10 ** (i + 3)} for i, c in enumerate(ten)]}
            for s in (10, 20, 800)
        ]
        scored = [{"choices": ten[i % 10], "loss": 0.1 + i / 99, "macs": 1.5e9 + i} for i in range(200)]
        yield from distribution_pictures(listed, scored, {"chosen": ten[1], "runner-up": ten[2]})
    cuts = draw_cuts(
        [{"name": f"encoder.layer.{i}.attention.self.heads.of.all", "kept": i % 2, "all": 1} for i in range(130)]
    )
    yield Picture("cuts", "cuts", cuts, "")
    yield from curve_pictures(
        [(10**i, {"arch/an_error_with_a_very_long_name": 10.0**-i, "weight/loss": i}) for i in range(9)]
    )


@pytest.mark.parametrize("width", [1280, 400])
def test_text_of_large_pictures_is_legible(browser, tmp_path, width):
    path = tmp_path / "page.html"
    path.write_text(page("large", gallery(large_pictures())))
    show(browser, path, width)
    keep(browser, f"large_{width}")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return document.querySelectorAll('svg').length") == 12
    assert smallest_text(browser) >= (11 if width == 1280 else 9.5)


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_fits(browser, run, tmp_path, run_cli, width, scheme):
    path = tmp_path / "report.html"
    assert run_cli("report", "--run", run, "--out", path).code == 0
    show(browser, path, width, scheme)
    keep(browser, f"report_{width}_{scheme}")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    pictures = browser.execute_script(
        "return [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().width)"
    )
    assert len(pictures) == 6 and min(pictures) > 250
    assert smallest_text(browser) >= (11 if width == 1280 else 9.5)
    light = browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    assert not errors(browser)
