"""What the service costs, measured: in processor time, and as shares of what aiohttp itself can do."""
