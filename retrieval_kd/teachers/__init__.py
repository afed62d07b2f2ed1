"""Give signals: scores, preferences, attention."""
