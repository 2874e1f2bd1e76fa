"""What the console asks of Redis beyond what every JobClient does."""
