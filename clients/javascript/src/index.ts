/** Guest sessions for servers of Web `Request` and `Response`: Next.js, Hono, SvelteKit, Bun, Deno. */
export { GuestError } from "./errors.js";
export type { ChangeOptions, Guest, HandOver, HandOverOptions, ResponseHeaders } from "./guest.js";
export type { JsonPatchOperation, MergePatch } from "./json.js";
export type { RequestLike } from "./requests.js";
export { GuestSessions, type Settings } from "./sessions.js";
