"""Cron patterns with the meaning that Node's workers give them, which is cron-parser's."""
