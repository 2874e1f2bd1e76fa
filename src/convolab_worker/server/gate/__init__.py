"""What a request passes before the routes: connections, limits, tokens, origins."""
