"""Sources of methods without branches that are never taken."""

import textwrap

from hypothesis import given
from hypothesis import strategies as st

from nas.export.python.read import PRESENT, fold

METHOD = '''
def forward(self, x):
    """What it does."""
    if self.a is None:
        x = x + 1  # a comment stays
    elif self.flag and self.number > 2:
        x = x + 2
    elif self.unknown:
        x = x + 3
    else:
        x = x + 4
    if not self.flag or self.number == 7:
        return x * (10 if self.a is not None else 20)
    elif self.child is not None:
        x = x * 30
    for step in range(2):
        if self.flag:
            pass
        if self.number != 7:
            x = x * 2 if not self.unknown else x * 3
        if self.flag and self.unknown:
            continue
        x = x - 1
    else:
        if self.a is None:
            x = x + 0.5
    return x
'''


@given(
    st.fixed_dictionaries(
        {"a": st.sampled_from([None, PRESENT]), "flag": st.booleans(), "number": st.sampled_from([1, 3, 7])}
    ),
    st.booleans(),
    st.sampled_from([None, PRESENT]),
    st.sets(st.sampled_from(["a", "flag", "number", "child"])),
)
def test_a_folded_method_computes_the_same(values, unknown, child, hidden):
    """Whatever is known beforehand: `unknown` never, and not what is hidden."""
    values = {**values, "child": child}
    folded = fold(textwrap.dedent(METHOD).lstrip(), {k: v for k, v in values.items() if k not in hidden})
    target = type("Target", (), {**values, "unknown": unknown})()
    results = []
    for source in (METHOD, folded):
        scope = {}
        exec(source, scope)
        results.append(scope["forward"](target, 1.0))
    assert results[0] == results[1]
    if not hidden:
        assert "self.flag or" not in folded and "is None" not in folded and "is not None" not in folded
        assert "self.number" not in folded
