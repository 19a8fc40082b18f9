"""Guest tokens: their claims, and issuing, refreshing and verifying them."""
