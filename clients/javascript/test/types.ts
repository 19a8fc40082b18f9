// What the compiler must take and refuse: checked by `npm run types`, never run.
import { type Guest, GuestError, GuestSessions, type HandOver } from "guest-sessions";

type Shop = { cart?: { sku: string; amount: number }[]; seen?: { last?: string; count: number } };

declare const guest: Guest<Shop>;
declare const untyped: Guest;

export async function payloads(): Promise<void> {
  const cart: { sku: string; amount: number }[] | undefined = guest.payload.cart;
  const id: string | null = guest.id;
  await guest.replace({ cart, seen: { count: 1 } });
  await guest.patch({ cart: null, seen: { last: id } });
  await guest.patch({ seen: { count: 2 } }, { ifCurrent: true, policy: "cart" });
  await guest.apply([{ op: "add", path: "/cart/-", value: { sku: "tea", amount: 1 } }]);
  // @ts-expect-error: a payload is changed by the service
  guest.payload.cart = [];
  // @ts-expect-error: no member of the payload
  await guest.patch({ basket: [] });
  // @ts-expect-error: no number
  await guest.replace({ seen: { count: "1" } });
  // @ts-expect-error: a list is replaced as a whole, with elements of its kind
  await guest.patch({ cart: ["tea"] });
  // @ts-expect-error: an operation needs its value
  await guest.apply([{ op: "add", path: "/cart/-" }]);
  await untyped.patch({ anything: [1, { goes: null }] });
  const anything: unknown = untyped.payload.anything;
  console.log(anything);
}

export async function handOver(): Promise<HandOver<{ name: string }>> {
  const merge = await guest.handOver({ name: "Ada" }, { expect: guest.id, tokens: ["a", null], conflicts_max: 1 });
  const name: string = merge.payload.name;
  console.log(name, merge.payload.merged_guests?.[0], merge.guests[0]?.subject, merge.unexpectedGuest);
  return merge;
}

export function error(caught: unknown): number {
  return caught instanceof GuestError && caught.code === "token_too_large" ? Number(caught.facts.bytes) : 0;
}

export function settings(): GuestSessions<Shop>[] {
  return [
    new GuestSessions({ url: "http://localhost", issuer: ["https://a.example", "https://b.example"] }),
    new GuestSessions({ url: "http://localhost", issuer: "x", cookieName: ["__Host-guest", "guest"], apiKey: undefined }),
    // @ts-expect-error: the issuer is missing
    new GuestSessions({ url: "http://localhost" }),
  ];
}
