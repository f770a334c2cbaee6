"""Trains a small BERT with random weights on made-up sentences by transformers.Trainer: the script before a search."""

import sys

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, EvalPrediction, Trainer, TrainingArguments

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
    return BertForSequenceClassification(config)


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
    trainer.train()
    print(trainer.evaluate())


if __name__ == "__main__":
    main()
