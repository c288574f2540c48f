// A stand-in for Workers KV: the protocol that workerd's `kvNamespace` binding speaks, over one Durable Object. What is
// written is seen at once, which the real one does not promise.

import { DurableObject } from "cloudflare:workers";

export class Namespace extends DurableObject {
  constructor(state, env) {
    super(state, env);
    this.sql = state.storage.sql;
    this.sql.exec("CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value BLOB NOT NULL)");
  }

  get(key) {
    return this.sql.exec("SELECT value FROM entries WHERE key = ?", key).toArray()[0]?.value;
  }

  put(key, value) {
    this.sql.exec("INSERT OR REPLACE INTO entries VALUES (?, ?)", key, value);
  }

  delete(key) {
    this.sql.exec("DELETE FROM entries WHERE key = ?", key);
  }
}

export default {
  async fetch(request, env) {
    const key = decodeURIComponent(new URL(request.url).pathname.slice(1));
    const entries = env.NAMESPACE.get(env.NAMESPACE.idFromName(""));
    switch (request.method) {
      case "GET": {
        const value = await entries.get(key);
        return value === undefined ? new Response(null, { status: 404 }) : new Response(value);
      }
      case "PUT":
        await entries.put(key, await request.arrayBuffer());
        return new Response();
      case "DELETE":
        await entries.delete(key);
        return new Response();
      default:
        return new Response(null, { status: 405 });
    }
  },
};
