"""Print versions, devices, and the backend of the mixing operation."""

from __future__ import annotations

import argparse
import platform
from typing import Any

from nas.cli.parsing import CommandParser
from nas.cli.printing import print_pairs

PARSER = CommandParser("doctor", __doc__, trust=False)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Returns versions, devices and backends."""
    import torch

    from nas.io.versions import versions
    from nas.ops import fused

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **versions(),
        "cpu threads": torch.get_num_threads(),
        "gpus": ", ".join(gpus) or "none",
        "mixing backend": fused.describe(torch.device("cpu")),
        "mixing backend, cuda": fused.describe(torch.device("cuda")) if gpus else "none: no device",
    }


show = print_pairs
