"""From what happened in production back to training data: events become claims, claims pass a quarantine, rows are written."""
