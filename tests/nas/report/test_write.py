"""Reports: whole, of one file, and with nothing in them that a browser would run or fetch."""

import re
from html.parser import HTMLParser

import pytest


class Page(HTMLParser):
    """Tags, addresses and text of a page."""

    VOID = ("meta", "br", "hr", "img", "link", "path", "use", "rect")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.text, self.captions = [], [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open[-1:] == ["figcaption"]:
            self.captions.append(data)


CAPTIONS = [
    "The architecture: chosen candidates are dark, with their final probability",
    "Probability of each candidate over time",
    "The loss of the supernet on the arch split (validation) and on the train split",
    "The accuracy of the supernet on the arch split (validation) and on the train split",
    "The temperature of the search",
    "The mean entropy of the choices",
    "The loss of the retrained network on its training data",
    "The accuracy of the retrained network on its training data",
]


def test_a_search_and_its_retraining(run_cli, config, tmp_path):
    fast = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.02}}  # so that the training accuracy changes
    path = config({"retrain.optimizer": fast, "model.arch_optimizer.init_args.lr": 0.1})
    assert run_cli("search", "--config", path, "--out", "run").code == 0
    assert run_cli("retrain", "--run", "run").code == 0
    assert run_cli("report", "--run", "run").out == f"{tmp_path}/run/report.html\n"
    page = Page((tmp_path / "run/report.html").read_text())
    assert not page.open
    assert [caption.split(".")[0] for caption in page.captions] == CAPTIONS
    assert "script" not in page.tags and all(
        address.startswith(("#", "data:image/png;base64,")) for address in page.addresses
    )
    for said in (
        "test set",
        "dilation_",
        "nas search --config run/config.yaml",
        "nas retrain --run run",
        "seed",
        "torch",
    ):
        assert said in page.text, said
    assert run_cli("report", "--run", "run", "--format", "md", "--out", "mine.md").code == 0
    markdown = (tmp_path / "mine.md").read_text()
    widths = [line.count("|") for line in markdown.splitlines() if line.startswith("|")]
    assert set(widths) == {3, 4} and "| layer1.conv |" in markdown
    again = run_cli("report", "--run", "run/retrain", "--json")
    assert again.code == 0 and "run/retrain/report.html" in again.result["report"]
    page = Page((tmp_path / "run/retrain/report.html").read_text())
    assert [caption.split(".")[0] for caption in page.captions] == CAPTIONS  # its search lies above it
    assert run_cli("retrain", "--genotype", "run/genotype.json", "--config", "tiny.yaml", "--out", "alone").code == 0
    assert run_cli("report", "--run", "alone").code == 0
    page = Page((tmp_path / "alone/report.html").read_text())
    assert [caption.split(".")[0] for caption in page.captions] == [CAPTIONS[0], *CAPTIONS[-2:]]
    assert "Pictures left out: probabilities (no probability was recorded)." in page.text


def test_commands_of_a_report_repeat_the_run(run_cli, run, tmp_path):
    assert run_cli("report", "--run", "run", "--format", "md").code == 0
    command = re.search(r"^nas (search .*)$", (tmp_path / "run/report.md").read_text(), re.MULTILINE)[1]
    assert run_cli(*command.split(), "--out", "again").code == 0
    assert (tmp_path / "again/metrics.csv").read_bytes() == (tmp_path / "run/metrics.csv").read_bytes()


def test_text_is_escaped(run_cli, config, tmp_path):
    name = "<script>alert(1)</script>&"
    path = config(name="tiny.yaml")
    assert run_cli("search", "--config", path, "--out", name.replace("/", "_")).code == 0
    assert run_cli("report", "--run", name.replace("/", "_"), "--out", "r.html").code == 0
    text = (tmp_path / "r.html").read_text()
    assert "<script" not in text and "&lt;script&gt;" in text and not Page(text).open


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("report", "--run", "nowhere"), "no such run folder"),
        (("report",), "--run"),
        (("report", "--run", "r", "--format", "pdf"), "invalid choice"),
        (("dashboard", "nowhere"), "no such folder"),
        (("dashboard", "."), "no run in it"),
        (("dashboard", ".", "--port", "99999"), "--port must lie in"),
    ],
)
def test_wrong_usage_is_one_line(run_cli, config, words, message):
    answer = run_cli(*words)
    assert answer.code == 2 and message in answer.complaint


def test_an_unfinished_run_is_refused(run_cli, run, tmp_path):
    (tmp_path / "run/manifest.json").unlink()
    assert "not finished" in run_cli("report", "--run", "run").complaint
