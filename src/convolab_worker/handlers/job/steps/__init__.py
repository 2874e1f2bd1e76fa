"""Steps of a job. For a job without steps only ``limits`` is imported."""
