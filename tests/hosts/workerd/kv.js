// A stand-in for Workers KV: the protocol that workerd's `kvNamespace` binding speaks, over a file for each key. What is
// written is seen at once, which the real one does not promise.

export default {
  async fetch(request, env) {
    const key = decodeURIComponent(new URL(request.url).pathname.slice(1));
    // Encoded twice, so that no key names a folder.
    const file = `http://files/${encodeURIComponent(encodeURIComponent(key))}`;
    switch (request.method) {
      case "GET": {
        const found = await env.FILES.fetch(file);
        return found.ok ? new Response(found.body) : new Response(null, { status: found.status });
      }
      case "PUT": {
        const written = await env.FILES.fetch(file, { method: "PUT", body: await request.arrayBuffer() });
        return new Response(null, { status: written.ok ? 200 : 500 });
      }
      case "DELETE": {
        const deleted = await env.FILES.fetch(file, { method: "DELETE" });
        return new Response(null, { status: deleted.ok || deleted.status === 404 ? 200 : 500 });
      }
      default:
        return new Response(null, { status: 405 });
    }
  },
};
