from nas.callbacks.progress import describe

SCALARS = {
    "weight/loss": 1.25,
    "weight/accuracy": 0.5,
    "arch/loss": 1.5,
    "arch/accuracy": 0.75,
    "lr/weight": 0.1,
    "search/tau": 0.2,
    "search/entropy": None,
    "choice/a/b": 0.3,
}


def test_a_line_names_levels_and_leaves_out_what_is_many_or_missing():
    assert describe(SCALARS) == "weight loss 1.25  weight accuracy 0.5  arch loss 1.5  arch accuracy 0.75  tau 0.2"


def test_beside_a_bar_the_arch_halfs_metric_alone_is_shown():
    assert describe(SCALARS, brief=True) == "accuracy 0.75  tau 0.2"
