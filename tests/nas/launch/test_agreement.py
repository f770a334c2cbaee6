"""What seeds chose: labels in the order of the seeds, and the share of the most frequent one."""

from nas.launch.agreement import Chosen, chosen_of


def test_labels_and_shares():
    genotypes = [{"depth": "2", "edge": ["a", "b"]}, {"depth": "2"}, {"depth": "1"}, {"depth": "2", "edge": ["a", "b"]}]
    assert chosen_of([{"genotype": genotype} for genotype in genotypes]) == [
        Chosen("depth", ["2", "2", "1", "2"], 0.75),
        Chosen("edge", ["a, b", "-", "-", "a, b"], 0.5),  # a choice that some architectures do not reach
    ]
