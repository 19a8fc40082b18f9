"""Stands for your database: an account for each user, and the transaction in which one is read, changed and stored."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable

_accounts: defaultdict[str, dict] = defaultdict(lambda: {"name": "Ada", "cart": []})
_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)


async def change_account(user_id: str, change: Callable[[dict], Awaitable[dict]]) -> dict:
    """Stores the account that `change` returns, one change after the other: two logins at once would lose a cart."""
    async with _locks[user_id]:
        _accounts[user_id] = await change(_accounts[user_id])
        return _accounts[user_id]


def account_of(user_id: str) -> dict:
    return _accounts[user_id]
