"""The HTTP side: requests, responses, authentication, cookies, forward authentication, metrics."""
