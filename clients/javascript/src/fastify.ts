/** Guest sessions for Fastify 4 and 5. */
import type { FastifyPluginAsync, FastifyRequest } from "fastify";
import type { Guest } from "./guest.js";
import { GuestSessions, type Settings } from "./sessions.js";

export { GuestError } from "./errors.js";
export type { ChangeOptions, Guest, HandOver, HandOverOptions } from "./guest.js";
export type { Settings } from "./sessions.js";

type Request = FastifyRequest & { guest: Guest | null };

/** The plugin that gives each request its guest, `request.guest`, and sets its cookie with the reply. */
export const guestSessions: FastifyPluginAsync<Settings> = async (app, settings) => {
  const sessions = new GuestSessions(settings);
  app.decorateRequest("guest", null);
  app.addHook("onRequest", async (request) => {
    const get = (name: string) => {
      const value = request.headers[name.toLowerCase()];
      return value === undefined ? null : String(value);
    };
    (request as Request).guest = await sessions.open({ method: request.method, headers: { get } });
  });
  app.addHook("onSend", async (request, reply) => {
    (request as Request).guest?.writeTo(
      {
        get: (name) => reply.getHeader(name)?.toString() ?? null,
        set: (name, value) => void reply.header(name, value),
        append: (name, value) => {
          const values = [reply.getHeader(name) ?? [], value].flat().map(String);
          // Else Fastify would put one visitor's cookie into a list that the application may use for all.
          reply.removeHeader(name).header(name, values);
        },
      },
      reply.statusCode,
    );
  });
};

// For the whole application, not for the context alone that registers it: as `fastify-plugin` does.
Object.assign(guestSessions, { [Symbol.for("skip-override")]: true });
