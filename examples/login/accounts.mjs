// Stands for your database: an account for each user, and the transaction in which one is read, changed and stored.
const accounts = new Map();
const lastChanges = new Map();

/** Stores what `change` makes of the account, one change after the other: two logins at once would lose a cart. */
export function changeAccount(userId, change) {
  const changed = (lastChanges.get(userId) ?? Promise.resolve()).then(async () => {
    accounts.set(userId, await change(accounts.get(userId) ?? { name: "Ada", cart: [] }));
    return accounts.get(userId);
  });
  lastChanges.set(userId, changed.catch(() => undefined));
  return changed;
}
