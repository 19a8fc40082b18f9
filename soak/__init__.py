"""The service under mixed good and hostile traffic for minutes or hours, while keys rotate and Redis fails."""
