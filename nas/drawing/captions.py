"""What the curves of a search and of a retraining show."""

from __future__ import annotations

SPLITS = {
    "arch": "arch split (validation)",
    "weight": "train split",
    "train": "training data",
}
"""Level of a tag -> what its lines were measured on."""
OTHERS = {
    "search/tau": ("tau", "The temperature of the search."),
    "search/entropy": ("entropy (nats)", "The mean entropy of the choices."),
    "search/joint_entropy": ("joint entropy (nats)", "The entropy of the distribution over architectures."),
    "search/mode_probability": ("probability", "The probability of the most probable architecture."),
}
"""Tag -> label of the axis, and caption."""


def caption_of(tag: str) -> str:
    """What a curve of a search shows."""
    level, _, name = tag.partition("/")
    return OTHERS[tag][1] if tag in OTHERS else f"The {name} on the {SPLITS[level]}."
