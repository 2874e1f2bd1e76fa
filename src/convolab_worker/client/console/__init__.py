"""What the console asks of Redis beyond what every JobClient does.

Never decides what may be shown.
"""
