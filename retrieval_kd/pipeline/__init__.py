"""Steps, artifacts and recipes."""
