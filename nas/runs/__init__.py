"""The work of the commands: configurations, run folders, searching, deriving, retraining, evaluating."""
