"""The code behind the commands: configurations, run folders, and the stages of a run."""
