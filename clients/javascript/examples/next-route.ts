// app/cart/route.ts
import { GuestSessions } from "guest-sessions";

const guests = new GuestSessions<{ cart?: string[] }>({ url: "http://127.0.0.1:8080", issuer: "https://shop.example" });

export function GET(request: Request): Promise<Response> {
  return guests.handle(request, (guest) => Response.json({ cart: guest.payload.cart ?? [] }));
}

export function POST(request: Request): Promise<Response> {
  return guests.handle(request, async (guest) => {
    await guest.patch({ cart: (await request.json()) as string[] });
    return Response.json({ cart: guest.payload.cart });
  });
}
