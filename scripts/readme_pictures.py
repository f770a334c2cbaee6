"""The pictures of README: TensorBoard's custom scalars of a real search, and the cells of DARTS_V2.

Command: python scripts/readme_pictures.py

The script runs a search that trains alpha (configs/dilation_gumbel_digits.yaml) in a temporary folder and opens it in headless Chromium. It
has the requirements of tests/nas/report/test_browser.py: chromium and chromedriver (Debian: chromium-driver), and selenium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
import urllib.request
from pathlib import Path

import nas
from nas.drawing import draw_architecture, svg_text
from nas.report.tensorboard import HOST, free_port, serve
from search_spaces.darts import DARTS_V2, Darts

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "scripts" / "pictures"
OPTIONS = "headless=new no-sandbox disable-gpu no-first-run disable-background-networking window-size=1400,1000"
SECONDS = 20  # until charts are drawn


def draw_cells(path: Path) -> None:
    """The architecture picture."""
    space = Darts()
    genotype = space.parse_genotype(DARTS_V2)
    path.write_text(svg_text(draw_architecture(genotype, space.cells(genotype.choices))))


def photograph(run: Path, path: Path) -> None:
    """The dashboard picture."""
    from selenium.webdriver import Chrome
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        raise SystemExit("readme_pictures: chromium and chromedriver are needed (Debian: chromium-driver)")
    options = Options()
    options.binary_location = chromium
    for word in OPTIONS.split():
        options.add_argument(f"--{word}")
    port = free_port()
    server = serve(run, port)
    browser = Chrome(options=options, service=Service(driver))
    try:
        for _ in range(SECONDS * 2):
            try:
                urllib.request.urlopen(f"http://{HOST}:{port}/data/runs").read()
                break
            except OSError:
                time.sleep(0.5)
        browser.get(f"http://{HOST}:{port}/#custom_scalars")
        browser.refresh()
        time.sleep(SECONDS)
        browser.save_screenshot(str(path))
    finally:
        browser.quit()
        server.terminate()
        server.wait()


def main(argv: list[str] | None = None) -> int:
    """Draws both pictures."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    draw_cells(PICTURES / "architecture.svg")
    config = ROOT / "configs" / "dilation_gumbel_digits.yaml"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        nas.search(config, out=Path("runs") / config.stem)
        photograph(Path("runs"), PICTURES / "dashboard.png")  # a relative path, since the page shows it
        os.chdir(ROOT)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
