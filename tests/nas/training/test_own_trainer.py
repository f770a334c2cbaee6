"""SearchModule in a Trainer of one's own, with its loggers and callbacks."""

import warnings

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import CSVLogger

import nas
from nas.data import SequentialDigits
from search_spaces.dilation import DilationNet1d


def fit(loader, tmp_path):
    module = nas.SearchModule(
        space=DilationNet1d(num_layers=2, channels=2, dilations=[1, 8]),
        relaxation=nas.relaxations.GumbelSoftmax(),
        tau=nas.tau.Constant(1.0),
        task=nas.tasks.Classification(10),
    )
    logger = CSVLogger(tmp_path, name="", version="")
    options = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=logger,
        callbacks=[EarlyStopping("arch/loss")],
        limit_train_batches=2,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's hints
        trainer.fit(module, loader)
    return trainer


def test_loggers_and_monitors_get_the_scalars(tmp_path):
    trainer = fit(SequentialDigits(batch_size=16).search_loader(0), tmp_path)
    assert {"arch/loss", "weight/accuracy", "search/tau"} <= set(trainer.callback_metrics)
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert "arch/loss" in header and len(rows) == 2


def test_batches_of_one_half_are_refused(tmp_path):
    with pytest.raises(ValueError, match="SearchModule needs pairs of batches"):
        fit(SequentialDigits(batch_size=16).retrain_loader(0), tmp_path)
