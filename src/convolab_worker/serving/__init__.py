"""The wake server's parts: routes, who may call them, how often, and what they answer."""
