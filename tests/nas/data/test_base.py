import io
import zipfile

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset
from torchvision.transforms import v2

from nas.data import BreastCancer, DigitPairs, Digits, Npz, SearchDataModule, SequentialDigits, Vision
from nas.data.loader import collate
from nas.testing import check_data


@pytest.mark.parametrize(
    "data",
    [SequentialDigits(), Digits(batch_size=32, num_workers=2), BreastCancer()],
    ids=["sequence", "image", "table"],
)
def test_digits_keep_the_rules(data):
    check_data(data)


def test_digits_are_the_stated_split():
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0)).numpy()
    images, labels = load_digits(return_X_y=True)
    x, y = SequentialDigits().train_set(False).tensors
    assert x.shape == (1200, 1, 64) and y.shape == (1200,)
    np.testing.assert_array_equal(x[:, 0].numpy(), images[order[:1200]] / 16)
    x, y = Digits().test_set().tensors
    assert x.shape == (597, 1, 8, 8)
    np.testing.assert_array_equal(y.numpy(), labels[order[1200:]])


def test_halves_are_disjoint_and_do_not_depend_on_the_seed_of_the_run():
    data = SequentialDigits(arch_fraction=0.25)
    weight, arch = (set(loader.dataset.indices) for loader in (data.weight_loader(), data.arch_loader()))
    assert not weight & arch and len(weight) == 900 and len(arch) == 300
    other = SequentialDigits(arch_fraction=0.25, split_seed=1)
    assert set(other.arch_loader().dataset.indices) != arch


class Rows(SearchDataModule):
    """Samples that say who they are."""

    def __init__(self, size=64, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def train_set(self, augment):
        return TensorDataset(torch.arange(self.size), torch.arange(self.size))

    def test_set(self):
        return TensorDataset(torch.arange(3), torch.arange(3))


def seen(loader):
    return [[batch[0].tolist() for batch in pair] for pair in loader]


def test_an_epoch_shows_each_sample_once_and_epochs_differ():
    loader = Rows(batch_size=8).search_loader(seed=1)
    first, second = seen(loader), seen(loader)
    assert len(first) == len(loader) == 4 and first != second
    for epoch in (first, second):
        for half in (0, 1):
            shown = [i for pair in epoch for i in pair[half]]
            assert len(shown) == len(set(shown)) == 32
    assert seen(Rows(batch_size=8).search_loader(seed=1)) == first
    assert seen(Rows(batch_size=8).search_loader(seed=2)) != first


def test_the_smaller_half_is_repeated():
    loader = Rows(batch_size=4, arch_fraction=0.125).search_loader(seed=0)
    pairs = seen(loader)
    assert len(pairs) == 14
    assert [sorted(i for pair in pairs[k : k + 2] for i in pair[1]) for k in (0, 2)] == [
        sorted({*pairs[0][1], *pairs[1][1]})
    ] * 2


def test_ranks_share_each_batch():
    whole = seen(Rows(batch_size=8).search_loader(seed=1))
    ranks = [seen(Rows(batch_size=4).search_loader(seed=1, rank=r, world_size=2)) for r in (0, 1)]
    joined = [[a[half] + b[half] for half in (0, 1)] for a, b in zip(*ranks, strict=True)]
    assert joined == whole


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 5, 8, 9])
def test_resume_anywhere(stop):
    def stream(loader, num):
        batches = []
        while len(batches) < num:
            for pair in loader:
                batches.append([b[0].tolist() for b in pair])
                if len(batches) == num:
                    break
        return batches

    whole = stream(Rows(batch_size=8).search_loader(seed=5), 12)
    loader = Rows(batch_size=8).search_loader(seed=5)
    loader.load_state_dict({"num_done": stop})
    assert stream(loader, 12 - stop) == whole[stop:]


def test_an_epoch_left_early_counts_as_one():
    loader = Rows(batch_size=8).search_loader(seed=5)
    next(iter(loader))
    reference = Rows(batch_size=8).search_loader(seed=5)
    seen(reference)
    assert seen(loader) == seen(reference)


@pytest.mark.parametrize(
    ("size", "message"), [(0, "is empty"), (9, "has 4 samples, fewer than one batch of 5"), (8, "fewer than")]
)
def test_too_few_samples(size, message):
    with pytest.raises(ValueError, match=message):
        Rows(size, batch_size=5).search_loader(seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"arch_fraction": 1.0}, "arch_fraction"),
        ({"num_workers": -1}, "num_workers"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        Rows(**arguments)


def write(path, **changes):
    arrays = {
        "x_train": np.random.rand(40, 3),
        "y_train": np.arange(40) % 4,
        "x_test": np.random.rand(8, 3).astype(np.float32),
        "y_test": np.arange(8) % 4,
    } | changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return str(path)


def test_npz_keeps_the_rules(tmp_path):
    data = Npz(write(tmp_path / "d.npz"), batch_size=4)
    check_data(data)
    x, y = data.train_set(False).tensors
    assert x.dtype == torch.float32 and y.dtype == torch.int64


def npy(shape):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(shape))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "array 'y_test' is missing"),
        ({"x_train": np.full((40, 3), np.nan)}, r"'x_train' holds NaN or infinity \(120 of 120"),
        ({"y_train": np.array([0.5, np.inf] * 20)}, r"'y_train' holds NaN or infinity"),
        ({"x_test": np.full((8, 3), 1e300)}, r"'x_test' holds NaN or infinity \(24 of 24 values, as float32"),
        ({"x_train": np.array([{"a": 1}] * 40, dtype=object)}, "'x_train' holds Python objects"),
        ({"x_train": np.array(["a"] * 40)}, "'x_train' has type <U1"),
        ({"x_train": np.zeros((0, 3))}, "'x_train' is empty"),
        ({"y_train": np.arange(39)}, "x_train has 40 samples but y_train has 39"),
        ({"x_test": np.zeros((8, 4))}, r"samples of x_train have shape \(3,\) but samples of x_test have shape \(4,\)"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path, changes, message):
    path = write(tmp_path / "d.npz", **changes)
    with pytest.raises(ValueError, match=message) as error:
        Npz(path)
    assert str(error.value).startswith(f"{path}: ")


def test_files_that_are_no_npz(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "one.npz").write_bytes(npy((3,)))
    with zipfile.ZipFile(tmp_path / "cut.npz", "w") as file:
        file.writestr("x_train.npy", b"nothing")
    for name, message in (
        ("none.npz", "No such file"),
        ("text.npz", "not an"),
        ("one.npz", "not an"),
        ("cut.npz", "'y_train' is missing"),
    ):
        with pytest.raises(ValueError, match=message):
            Npz(str(tmp_path / name))


@pytest.fixture
def images(tmp_path):
    from PIL import Image

    for part, number in (("train", 12), ("test", 3)):
        for label in ("cat", "dog"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for i in range(number):
                pixels = np.random.default_rng(i).integers(0, 255, (6, 6, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_image_folder_with_augmentation_resumes_exactly(images, num_workers):
    data = Vision(
        "ImageFolder",
        str(images),
        train_transforms=[v2.RandomHorizontalFlip(), v2.RandomCrop(6, padding=2)],
        transforms=[v2.Normalize([0.5] * 3, [0.5] * 3)],
        batch_size=3,
        num_workers=num_workers,
    )
    check_data(data)
    loader = data.search_loader(seed=0)
    first, second = ([pair[0][0] for pair in loader] for _ in range(2))
    assert first[0].shape == (3, 3, 6, 6) and first[0].min() >= -1 and first[0].max() <= 1
    assert not torch.equal(torch.cat(first).sort().values, torch.cat(second).sort().values)  # augmented anew
    assert data.train_targets().tolist() == [0] * 12 + [1] * 12


def test_vision_data_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=f"Vision: MNIST under {tmp_path}"):
        Vision("MNIST", str(tmp_path)).train_set(False)
    with pytest.raises(ValueError, match="Vision: ImageFolder under"):
        Vision("ImageFolder", str(tmp_path)).train_set(False)
    with pytest.raises(ValueError, match="download must be false"):
        Vision("ImageFolder", str(tmp_path), download=True)


def test_measurements_are_standardised_by_the_training_set_alone():
    x, y = BreastCancer().train_set(False).tensors
    torch.testing.assert_close(x.mean(0), torch.zeros(30), atol=1e-5, rtol=0)  # float32 rounding of 400 values
    torch.testing.assert_close(x.std(0), torch.ones(30), atol=1e-5, rtol=0)
    test, test_y = BreastCancer().test_set().tensors
    assert len(x) == 400 and len(test) == 169 and int(y.sum() + test_y.sum()) == 357
    assert test.mean(0).abs().max() > 0.01


def test_columns_are_rows_of_the_transposed_image():
    rows, columns = (SequentialDigits(order=order).train_set(False).tensors[0] for order in ("rows", "columns"))
    assert torch.equal(columns, rows.reshape(-1, 1, 8, 8).transpose(2, 3).reshape(-1, 1, 64))


@pytest.mark.parametrize("num_folds", [2, 4, 7])
def test_folds_cut_the_training_set_into_parts(num_folds):
    data = SequentialDigits(batch_size=32)
    x = data.train_set(False).tensors[0]
    left_out = []
    for fold in range(num_folds):
        loader, judged = data.fold_loaders(3, fold, num_folds)
        batches = loader.loaders[0].dataset.dataset
        assert not set(judged.dataset.indices) & set(batches.indices)
        assert len(judged.dataset) + len(batches) == len(x)
        seen = torch.cat([inputs for inputs, _ in loader])
        inside = {tuple(row.flatten().tolist()) for row in x[batches.indices]}
        assert all(tuple(row.flatten().tolist()) in inside for row in seen)
        left_out += judged.dataset.indices
    assert sorted(left_out) == list(range(len(x)))


def test_folds_need_samples():
    with pytest.raises(ValueError, match="1200 samples cannot be cut into 1201"):
        SequentialDigits().fold_loaders(0, 0, 1201)


def test_batches_of_rows_are_those_of_single_samples():
    """Rows are fetched a batch at once: against torch's own way, sample by sample."""
    data = SequentialDigits(batch_size=16)
    stream = data.retrain_loader(5).loaders[0].dataset
    positions = [(0, index) for index in (3, 1, 700)]
    expected = torch.utils.data.default_collate([stream[position] for position in positions])
    for ours, theirs in zip(collate(stream.__getitems__(positions)), expected, strict=True):
        assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype


def test_decoys_are_measurements_of_other_tumours():
    plain, more = BreastCancer().train_set(False).tensors[0], BreastCancer(num_decoys=40)
    train, test = more.train_set(False).tensors[0], more.test_set().tensors[0]
    assert train.shape == (400, 70) and torch.equal(train[:, :30], plain)
    together = torch.cat([train, test])
    for i in range(40):
        decoy, own = together[:, 30 + i].double(), together[:, i % 30].double()
        # standardised by other rows' mean and deviation: the same values up to a straight line
        a, b = (column.sort().values for column in (decoy, own))
        assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 1 - 1e-6
        assert torch.corrcoef(torch.stack([decoy, own]))[0, 1].abs() < 0.2  # 569 rows: five standard deviations
    assert BreastCancer(prefetch_factor=3, batch_size=5).loading.prefetch_factor == 3
    assert BreastCancer(num_train=60).train_set(False).tensors[0].shape == (60, 30)
    few = BreastCancer(num_train=60).train_set(False).tensors[0]
    torch.testing.assert_close(few.mean(0), torch.zeros(30), atol=1e-5, rtol=0)  # float32's rounding
    for wrong in ({"num_decoys": -1}, {"num_train": 1}, {"num_train": 401}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            BreastCancer(**wrong)


def test_strips_hold_digits_and_say_whether_they_have_company():
    data = DigitPairs()
    check_data(data)
    images, _ = Digits().train_set(False).tensors
    strips, targets = data.train_set(False).tensors
    assert strips.shape == (1200, 1, 8, 24) and targets.shape == (1200, 8, 24)
    paired = 0
    for number, (strip, target) in enumerate(zip(strips[:, 0], targets, strict=True)):
        assert torch.equal(target > 0, strip > 0.25)
        found = target[target > 0].unique().tolist()
        assert len(found) == 1
        left, right = bool(strip[:, :12].sum() > 0), bool(strip[:, 12:].sum() > 0)
        assert (left and right) == (found == [2])
        if left:  # the digit of this number, moved
            places = [torch.equal(strip[:, x : x + 8], images[number, 0]) for x in range(5)]
            assert any(places) and strip[:, :12].sum() == pytest.approx(float(images[number].sum()))
        paired += found == [2]
    assert 540 < paired < 660  # half of 1,200: three and a half standard deviations
    shown = strips[:1, 0]
    assert not any(torch.equal(shown[0], other) for other in data.test_set().tensors[0][:, 0])
