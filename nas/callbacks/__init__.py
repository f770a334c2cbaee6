"""Lightning callbacks of a run: checkpoints, metrics, progress, signals."""

from nas.callbacks.checkpoints import Checkpoints
from nas.callbacks.dashboard import Dashboard
from nas.callbacks.guards import Guards as Guards
from nas.callbacks.interruption import Interrupted, Interruption
from nas.callbacks.metrics import MetricsWriter
from nas.callbacks.progress import Progress
from nas.callbacks.system import SystemWriter

__all__ = ["Checkpoints", "Dashboard", "Interrupted", "Interruption", "MetricsWriter", "Progress", "SystemWriter"]
