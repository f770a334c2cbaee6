"""The pictures of README: TensorBoard's custom scalars of a real search, the cells of DARTS_V2, and the pages of a launch.

Commands: python scripts/readme_pictures.py
          python scripts/readme_pictures.py --launch runs/digits_methods

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nas
from nas.drawing import draw_architecture, svg_text
from nas.report.launch import write_launch_report
from nas.report.tensorboard import HOST, free_port, pages_of, serve
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


@contextmanager
def opened() -> Iterator[Any]:
    """A headless browser."""
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
    browser = Chrome(options=options, service=Service(driver))
    try:
        yield browser
    finally:
        browser.quit()


def photograph(folder: Path, path: Path) -> None:
    """The page of custom scalars of the runs in a folder."""
    port = free_port()
    server = serve(folder, port)
    try:
        with opened() as browser:
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
        server.terminate()
        server.wait()


def photograph_launch(launch: Path) -> None:
    """The pages of a finished launch: report and dashboard."""
    with tempfile.TemporaryDirectory() as folder, opened() as browser:
        report = write_launch_report(launch, "html", Path(folder) / "report.html")
        browser.get(report.as_uri())
        browser.save_screenshot(str(PICTURES / "launch_report.png"))
    photograph(pages_of(launch)[0], PICTURES / "launch_dashboard.png")


def main(argv: list[str] | None = None) -> int:
    """Draws the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launch", type=Path, help="a finished launch, whose pages are photographed instead")
    if (launch := parser.parse_args(argv).launch) is not None:
        photograph_launch(launch)
        return 0
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
