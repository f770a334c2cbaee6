"""Two processes against the same by hand in one."""

import os
import socket
from functools import partial

import torch
from torch import distributed as dist
from torch import nn

from nas.io.distributed import any_process, average, average_gradients, check_equal, gathered, leave, num_processes


def test_alone_everything_is_as_it_was():
    parameter = nn.Parameter(torch.ones(2))
    average_gradients([parameter])
    assert parameter.grad is None and num_processes() == 1 and gathered(3) == [3]
    assert any_process(True, torch.device("cpu")) and not any_process(False, torch.device("cpu"))
    check_equal({"a": torch.ones(1)})
    leave()


def work(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    parameters = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4).double()), nn.Parameter(torch.zeros(1))]
    parameters[0].grad = torch.full((2, 3), 1.0 + rank)
    if rank == 1:  # the first process did not use it, and nobody used the third
        parameters[1].grad = torch.full((4,), 3.0, dtype=torch.float64)
    average_gradients(parameters)
    mean = torch.tensor([[1.0 + 10 * rank]]).t()
    average([mean])
    said = {
        "gradients": [parameter.grad for parameter in parameters],
        "mean": mean,
        "any": [any_process(flag, torch.device("cpu")) for flag in (rank == 0, False, True)],
        "gathered": gathered({"rank": rank}),
    }
    check_equal({"same": torch.arange(5.0), "nan": torch.tensor(float("nan"))})
    try:
        check_equal({"same": torch.ones(2), "alpha": torch.tensor([0.0, 1e-8 * rank])})
    except RuntimeError as error:
        said["error"] = str(error)
    torch.save(said, folder / f"{rank}.pt")
    leave()
    assert num_processes() == 1


def test_two_processes(tmp_path, in_children):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert in_children(*[partial(work, rank, port, tmp_path) for rank in range(2)]) == [0, 0]
    for rank in range(2):
        said = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        first, second, third = said["gradients"]
        assert torch.equal(first, torch.full((2, 3), 1.5)) and third is None
        assert torch.equal(second, torch.full((4,), 1.5, dtype=torch.float64))
        assert said["mean"] == 6.0 and said["any"] == [True, False, True]
        assert said["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert "have different values of alpha" in said["error"]
