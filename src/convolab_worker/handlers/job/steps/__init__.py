"""Steps of a job. Nothing here is imported for a job that has none, but ``limits``."""
