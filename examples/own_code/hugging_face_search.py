"""Trains a small BERT with random weights on made-up sentences by transformers.Trainer: the script before a search."""

import sys
from itertools import cycle

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, EvalPrediction, Trainer, TrainingArguments

import nas

NUM_WORDS, LENGTH = 20, 13
FOLDER = sys.argv[1] if len(sys.argv) > 1 else "runs/hugging_face"


class Sentences(Dataset):
    """Sequences of words; the label is whether most words have even numbers."""

    def __init__(self, number: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.words = torch.randint(NUM_WORDS, (number, LENGTH), generator=generator)
        self.labels = (self.words % 2 == 0).sum(1).gt(LENGTH // 2).long()

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.words[index], "labels": self.labels[index]}


def network() -> nn.Module:
    """Two layers of 32 features."""
    config = BertConfig(
        vocab_size=NUM_WORDS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=LENGTH,
    )
    layers = [{"full": nn.Linear(32, 64), "small": nn.Sequential(nn.Linear(32, 4), nn.Linear(4, 64))} for _ in range(2)]
    names = [f"bert.encoder.layer.{i}.intermediate.dense" for i in range(2)]
    return nas.replace(BertForSequenceClassification(config), dict(zip(names, layers, strict=True)))


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of correct labels."""
    logits, labels = torch.tensor(prediction.predictions), torch.tensor(prediction.label_ids)
    return {"accuracy": (logits.argmax(-1) == labels).float().mean().item()}


def main() -> None:
    torch.manual_seed(0)
    model = network()
    options = TrainingArguments(
        FOLDER,
        num_train_epochs=8,
        per_device_train_batch_size=50,
        learning_rate=2e-3,
        weight_decay=0.01,
        seed=0,
        logging_steps=40,
        dataloader_drop_last=True,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        max_grad_norm=1.0,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model,
        options,
        train_dataset=Sentences(2000, 0),
        eval_dataset=Sentences(500, 1),
        compute_metrics=accuracy,
    )
    batches = cycle(trainer.get_eval_dataloader())
    searcher = nas.Searcher(model, num_steps=8 * 40, limits={"params": 18_000}, out=f"{FOLDER}/search")
    trainer.training_step = searcher.around(trainer.training_step, lambda batch: model(**batch).loss, batches)  # type: ignore[method-assign]
    trainer.train()
    print(trainer.evaluate(), searcher.genotype.choices)


if __name__ == "__main__":
    main()
