"""What the console asks of Redis beyond what every JobClient does.

It never decides what may be shown.
"""
