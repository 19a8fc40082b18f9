import type { Guest } from "guest-sessions";

type Account = { name: string; cart?: string[] };

/** At login. `lock` and the functions it passes are your database's: a transaction, with the account's row locked. */
export async function loggedIn(
  guest: Guest,
  lock: (work: (read: () => Promise<Account>, store: (account: Account) => Promise<void>) => Promise<void>) => Promise<void>,
  expect?: string, // `guest.id` as it was when the login began, kept in the login's own state
): Promise<void> {
  await lock(async (read, store) => {
    const { payload } = await guest.handOver(await read(), { policy: "cart", expect });
    await store(payload);
  });
}
