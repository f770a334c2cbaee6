import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.genotype import Genotype
from nas.io.errors import UsageError
from nas.io.reading import MAX_JSON_BYTES

GOOD = Genotype(
    choices={"a": "x", "edges": ["p", "q"]},
    space={"class_path": "my.Space", "init_args": {"n": 3}},
    probabilities={"a": {"x": 0.75, "y": 0.25}},
    cost={"macs": 10},
    provenance={"seed": 1},
)


def test_round_trip(tmp_path):
    GOOD.save(tmp_path / "g.json")
    assert Genotype.load(tmp_path / "g.json") == GOOD


def test_a_hand_written_file_needs_only_choices():
    text = '{"format": "gumbel-nas/genotype", "version": 1, "choices": {"a": "x"}}'
    assert Genotype.from_json(text) == Genotype({"a": "x"})


def test_a_file_may_be_edited_by_hand_also_one_that_has_a_checksum(tmp_path):
    GOOD.save(tmp_path / "g.json")
    content = json.loads((tmp_path / "g.json").read_text())
    assert "checksum" not in content
    content["choices"]["a"] = "y"
    for written in (content, {**content, "checksum": "0" * 64}):
        (tmp_path / "g.json").write_text(json.dumps(written))
        assert Genotype.load(tmp_path / "g.json").choices == {"a": "y", "edges": ["p", "q"]}


def changed(**changes):
    data = json.loads(GOOD.to_json()) | changes
    return json.dumps({key: value for key, value in data.items() if value != "DELETE"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not an object"),
        (changed(choices={"a": "x'); import os; os.system('touch pwned')#"}), "is not a label"),
        (changed(choices={"a": ["p", "q\n"]}), "is not a label"),
        (changed(choices={"a": "x" * 65}), "is not a label"),
        (changed(choices={"../a": "x"}), "is not the name of a choice"),
        (changed(choices={"a" * 300: "x"}), "is not the name of a choice"),
        (changed(space={"class_path": "os.system('x')"}), "dotted path of a class"),
        (changed(format="other"), "not a genotype"),
        (changed(version=2), "version 2 is not supported"),
        (changed(choices="DELETE"), "'choices' is missing"),
        (changed(choices=[]), "choices must be an object, got list"),
        (changed(choices={"a": 3}), "choice 'a' must be a label or a sorted list"),
        (changed(choices={"a": []}), "choice 'a' must be"),
        (changed(choices={"a": ["q", "p"]}), "choice 'a' must be"),
        (changed(choices={"a": ["p", "p"]}), "choice 'a' must be"),
        (changed(space={"init_args": {}}), "space.class_path must be the dotted path"),
        (changed(probabilities={"a": 1}), "probabilities of choice 'a'"),
        (changed(extra=1), "unknown key 'extra'"),
        ('{"format": 1, "format": 2}', "duplicate key 'format'"),
        (changed(probabilities={"a": {"x": 10**400}}), "'x' has a number that is out of range"),
        (changed(choices={f"c{number}": "x" for number in range(99_000)}), "choices has more than 20000 choices"),
    ],
)
def test_what_is_no_genotype_is_refused_in_one_line(text, message):
    with pytest.raises(UsageError, match=message) as error:
        Genotype.from_json(text, "file.json")
    assert str(error.value).startswith("file.json: ") and "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_bytes(b" " * (MAX_JSON_BYTES + 1))
    for name, message in (
        ("none", "No such file"),
        ("binary", "not UTF-8"),
        ("large", "larger than"),
        (".", "Is a dir"),
    ):
        with pytest.raises(UsageError, match=message):
            Genotype.load(tmp_path / name)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
@settings(max_examples=200, deadline=None)
def test_any_json_is_read_or_refused_with_our_error(value):
    for text in (json.dumps(value), changed(choices=value), changed(space=value), changed(probabilities=value)):
        try:
            Genotype.from_json(text)
        except UsageError:
            continue
