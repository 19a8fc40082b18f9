"""Guest sessions as long-lived signed JWTs: issue, refresh, verify, merge, publish the JWKS."""
