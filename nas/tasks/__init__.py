"""Tasks: losses and metrics."""

from nas.tasks.base import Task
from nas.tasks.classification import Classification
from nas.tasks.regression import Regression
from nas.tasks.segmentation import Segmentation

__all__ = ["Classification", "Regression", "Segmentation", "Task"]
