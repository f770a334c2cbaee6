"""What the commands do: configurations, run folders, searching, deriving, retraining, evaluating."""
