"""Pictures of architectures and of how a search came to them, in colours that everyone can tell apart."""

from nas.drawing.architecture import architecture_dot, draw_architecture
from nas.drawing.heat_map import draw_heat_map, probability_history
from nas.drawing.svg import svg_text

__all__ = ["architecture_dot", "draw_architecture", "draw_heat_map", "probability_history", "svg_text"]
