"""The command ``doctor``: collects facts about a server and judges them. Never changes anything."""
