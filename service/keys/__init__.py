"""The signing keys: the ring as a value, its places (file, Redis, process), who signs and when keys rotate."""
