"""Pictures of architectures, and of probabilities during a search, with colors for color-blind readers."""

from nas.drawing.architecture import architecture_dot, draw_architecture
from nas.drawing.cuts import draw_cuts
from nas.drawing.distribution import draw_most_probable, draw_scores
from nas.drawing.heat_map import draw_heat_map, probability_history
from nas.drawing.pictures import (
    Picture,
    architecture_picture,
    distribution_pictures,
    picture,
    probability_picture,
    search_pictures,
)
from nas.drawing.svg import svg_text

__all__ = [
    "Picture",
    "architecture_dot",
    "architecture_picture",
    "distribution_pictures",
    "draw_architecture",
    "draw_cuts",
    "draw_heat_map",
    "draw_most_probable",
    "draw_scores",
    "picture",
    "probability_history",
    "probability_picture",
    "search_pictures",
    "svg_text",
]
