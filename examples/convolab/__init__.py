"""The example application: dialogues, speech, pictures and whole courses from a short text."""
