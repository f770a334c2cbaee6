"""Tasks: what is minimised and measured."""

from nas.tasks.base import Task
from nas.tasks.classification import Classification
from nas.tasks.regression import Regression

__all__ = ["Classification", "Regression", "Task"]
