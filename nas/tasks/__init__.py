"""Tasks: losses and metrics."""

from nas.tasks.base import Task
from nas.tasks.classification import Classification
from nas.tasks.distillation import Distillation
from nas.tasks.heads import Heads
from nas.tasks.multi_label import MultiLabel
from nas.tasks.regression import Regression
from nas.tasks.segmentation import Segmentation

__all__ = ["Classification", "Distillation", "Heads", "MultiLabel", "Regression", "Segmentation", "Task"]
