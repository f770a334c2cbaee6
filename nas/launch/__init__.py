"""Many searches: seeds and settings of one configuration, each a run of its own."""

from nas.launch.launch import launch, resume_launch

__all__ = ["launch", "resume_launch"]
