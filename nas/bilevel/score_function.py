"""Alpha trained by the score function of sampled paths."""

from __future__ import annotations

from torch import Tensor

from nas.bilevel.base import Alternating, ArchStep
from nas.relaxations.estimators import leave_one_out


class ScoreFunction(Alternating):
    """Learns alpha by the score function of sampled paths that are scored forward-only, at last while the weights rest.

    The objective at temperature tau is E[f] / s - entropy * tau * H: the mean score of the paths, and the entropy H of the distribution at
    tau. The score f of a path is the log of its loss on the arch split, and s the standard deviation of the scores. With ``entropy: 1``,
    the best distribution has probabilities proportional to exp(-f / (s * tau)): tau alone decides how sharp it is. A step draws paths
    x_i from the distribution at tau, and estimates the gradient by the mean of (r_i - mean of the other r_j) times the gradient of
    log p(x_i), with r = f / s + entropy * tau * log p: unbiased, without a backward pass through the network.

    After the warm-up and before `weight_epochs`, a step trains alpha and then the weights. It compares two paths on its arch batch: the one
    with the higher loss has score 1, the other -1. Afterwards the weights rest. A path then has the loss of its derived network, with
    inherited weights and recalibrated batch norms, on the whole arch split; an architecture is evaluated once.

    Args:
        num_paths: Number of paths of a step while the weights rest, at least 2.
        refit_head: Refit the head for each architecture while the weights rest; the last layer must be linear.
        num_batches: Batches of each split to evaluate while the weights rest; null: all.
        entropy: Factor of the entropy, at least 0.
        weight_epochs: Number of epochs at the start that train the weights; null: those of the warm-up.

    Raises:
        ValueError: A number out of range.

    Source: Williams 1992, "Simple Statistical Gradient-Following Algorithms"; Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline
    for Free!" (leave-one-out); Williams and Peng 1991, "Function Optimization Using Connectionist Reinforcement Learning Algorithms"
    (entropy).
    """

    accumulates = True
    draws_at_tau = True

    def __init__(
        self,
        num_paths: int = 5,
        refit_head: bool = False,
        num_batches: int | None = None,
        entropy: float = 1.0,
        weight_epochs: int | None = None,
    ) -> None:
        if num_paths < 2:
            raise ValueError(f"ScoreFunction: a leave-one-out baseline needs num_paths of at least 2, got {num_paths}")
        if num_batches is not None and num_batches < 1:
            raise ValueError(f"ScoreFunction: num_batches must be at least 1, got {num_batches}")
        if not entropy >= 0:
            raise ValueError(f"ScoreFunction: entropy must be at least 0, got {entropy}")
        self.num_paths = num_paths
        self.refit_head = refit_head
        self.num_batches = num_batches
        self.entropy = entropy
        self.weight_epochs = weight_epochs

    def num_weight_epochs(self, warmup_epochs: int) -> int:
        return warmup_epochs if self.weight_epochs is None else self.weight_epochs

    def arch_step(self, step: ArchStep) -> None:
        paths = step.draw_paths(2 if step.weights_move else self.num_paths)
        losses = step.path_losses(paths)
        scores = (losses - losses.flip(0)).sign() if step.weights_move else losses.log() / step.spread
        log_prob = step.log_prob(paths)
        scores = scores + self.entropy * step.tau * log_prob.detach()
        step.descend(score_loss(scores, log_prob) + step.arch_penalty(), "arch")


def score_loss(scores: Tensor, log_prob: Tensor) -> Tensor:
    """A scalar whose gradient estimates that of the expected score, without bias for independent paths.

    Shape:
        - scores, log_prob: (P,), P at least 2
    """
    return (leave_one_out(scores).to(log_prob.dtype) * log_prob).mean()
