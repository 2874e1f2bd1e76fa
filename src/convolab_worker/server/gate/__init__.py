"""What stands between a client and the routes: connections, limits, tokens, origins."""
