"""Data modules: train and test sets, split and loaded so that a search resumes exactly."""

from nas.data.base import SearchDataModule
from nas.data.breast_cancer import BreastCancer
from nas.data.digits import DigitPairs, Digits, SequentialDigits
from nas.data.npz import Npz
from nas.data.streaming import StreamingDataModule
from nas.data.train_test import TrainTest
from nas.data.vision import Vision

__all__ = [
    "BreastCancer",
    "DigitPairs",
    "Digits",
    "Npz",
    "SearchDataModule",
    "SequentialDigits",
    "StreamingDataModule",
    "TrainTest",
    "Vision",
]
